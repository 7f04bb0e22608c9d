"""What a run is: Recipe, Stage, Stream; how it is run: Runtime. Plain values that gin fills.

A recipe is a list of stages, a stage sums objectives over streams, a stream is a mixture of text seen through an
objective. Everything a run does is a pure function of its Recipe and the step number; the Runtime may change on a
restart, the Recipe may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import gin

from xalign_jax.errors import UserError


def freeze(config: Any) -> None:
    """Turn the lists and dicts that gin put into a frozen dataclass into tuples, in place. Call in `__post_init__`.

    Raises:
      UserError: a class instead of an object of it, or a single value where a list belongs.
    """
    for field in dataclasses.fields(config):
        value = _frozen(getattr(config, field.name), _label(config, field.name))
        if str(field.type).startswith("tuple") and not isinstance(value, tuple):
            raise UserError(f"{_label(config, field.name)} = {value!r}: expected a list")
        object.__setattr__(config, field.name, value)


def _label(config: Any, field: str) -> str:
    """The gin binding of a field."""
    name = getattr(config, "name", None)
    return f"{name}/{type(config).__name__}.{field}" if isinstance(name, str) else f"{type(config).__name__}.{field}"


def at_least_one(config: Any, *fields: str) -> None:
    """Raise UserError for a field that is no whole number of at least 1. Call in `__post_init__`."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{_label(config, field)} = {value!r}: must be at least 1")


def one_of(config: Any, field: str, known: tuple[str, ...]) -> None:
    """Raise UserError for a field that has none of the known values. Call in `__post_init__`."""
    if getattr(config, field) not in known:
        raise UserError(f"{_label(config, field)} = {getattr(config, field)!r}: must be one of {', '.join(known)}")


def objects(config: Any, *fields: str, kind: type = object) -> None:
    """Raise UserError for a field, or an item of it, that is a plain value and no object of that kind.

    None passes where it is the field's default. Call in `__post_init__`, after `freeze`.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in fields or (value is None and field.default is None):
            continue
        for item in value if str(field.type).startswith("tuple") else (value,):
            if item is None or isinstance(item, str | int | float | tuple) or not isinstance(item, kind):
                wanted = "NAME" if kind is object else kind.__name__
                raise UserError(f"{_label(config, field.name)} = {value!r}: expected an object, @{wanted}()")


def _frozen(value: Any, label: str) -> Any:
    if isinstance(value, dict):
        return tuple((key, _frozen(item, label)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, label) for item in value)
    if isinstance(value, type):
        raise UserError(f"{label} names @{value.__name__}: write @{value.__name__}() for an object of it")
    return value


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stream:
    """A mixture of text seen through an objective: `rows` rows of it in every step of its stage.

    `weight` multiplies the objective's loss. `mixture` is None for feeds that read the lexicon only.
    """

    name: str = gin.REQUIRED
    feed: Any = gin.REQUIRED
    objective: Any = gin.REQUIRED
    rows: int = gin.REQUIRED
    mixture: Any = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "rows")
        objects(self, "feed", "objective", "mixture")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps under one set of streams, one optimiser and one schedule.

    Attributes:
      combine: "means" adds sum_t / count_t over streams, "pooled" divides the summed sums by the summed counts.
      train: regular expressions on parameter paths ("model/layers/..."); only matching parameters train. () = all.
      keep_optimizer: carry the previous stage's optimiser state instead of starting afresh.
      language_vectors: tokens that are a language's own (`data.words.own_tokens`) have a vector in common beside their
        rows in embedding and head, except those of the lexicon's first language. Not with `train`.
      tie_words: as `language_vectors`, and tokens that translate another in the lexicon (`data.shared_rows`) have its row
        besides, and a part of their own that decays. Not with `train`.
      probes: run at the stage's end.
    """

    name: str = gin.REQUIRED
    steps: int = gin.REQUIRED
    streams: tuple = gin.REQUIRED
    optimizer: Any = gin.REQUIRED
    schedule: Any = gin.REQUIRED
    combine: str = "means"
    train: tuple = ()
    keep_optimizer: bool = False
    language_vectors: bool = False
    tie_words: bool = False
    probes: tuple = ()

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "steps")
        one_of(self, "combine", ("means", "pooled"))
        objects(self, "optimizer", "schedule", "probes")
        objects(self, "streams", kind=Stream)

    @property
    def shares_rows(self) -> bool:
        """Whether rows of tables have something in common."""
        return self.language_vectors or self.tie_words


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole run. Its hash is the run's identity.

    Attributes:
      modules: Python modules of the user's own that register seqio tasks, imported before data is prepared.
      init_from: a model directory whose newest parameters this run starts from.
      new_rows: how the rows of tokens start that its vocabulary lacks: "mean", "copy" or "aligned"
        (`data.extension.row_sources`).
    """

    model: Any = gin.REQUIRED
    vocabulary: Any = gin.REQUIRED
    stages: tuple = gin.REQUIRED
    lexicon: Any = None
    facts: Any = None
    modules: tuple = ()
    init_from: str | None = None
    new_rows: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        freeze(self)
        objects(self, "model", "vocabulary", "lexicon", "facts")
        objects(self, "stages", kind=Stage)
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise UserError(f"Recipe.seed = {self.seed!r}: a whole number from 0 to 2^31 - 1")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a recipe is run here; none of it changes what is computed beyond rounding.

    Attributes:
      mesh: devices along (data, fsdp, tensor); one entry may be -1 = all that remain.
      dtype: matmul dtype, "float32" or "bfloat16"; "auto" is float32 on CPU and bfloat16 on accelerators.
      remat: recompute activations of each layer in the backward pass.
      accumulate: rows of a step go through the encoder in this many parts, one after another; losses still see all of
        them at once, so that contrasts keep their candidates.
      prefetch: batches made ahead by background threads.
      keep_checkpoints: newest checkpoints kept.
      probe_every: steps between runs of the stage's probes besides its end; 0 = only at the end.
      watchdog_seconds: a run in which no step finishes for so long ends with the stacks of its threads; 0 = never. The
        first step of a stage may take an hour more.
    """

    mesh: tuple = (1, -1, 1)
    dtype: str = "auto"
    matmul_precision: str = "default"
    remat: bool = False
    accumulate: int = 1
    prefetch: int = 2
    log_every: int = 10
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    probe_every: int = 0
    watchdog_seconds: float = 1800.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "accumulate", "log_every", "checkpoint_every", "keep_checkpoints")
        one_of(self, "dtype", ("auto", "float32", "bfloat16"))
        one_of(self, "matmul_precision", ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32"))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The probes that `xalign evaluate` runs."""

    probes: tuple = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)


def as_json(config: Any) -> Any:
    """A config as plain JSON values; dataclasses carry their class name under "class"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: as_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"class": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [as_json(item) for item in config]
    return config


def identity(recipe: Recipe) -> str:
    """The run's identity: a hash of the recipe's canonical JSON."""
    canonical = json.dumps(as_json(recipe), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
