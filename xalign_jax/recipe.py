"""What a run is: Recipe, Stage, Stream; how it is run: Runtime. Plain values that gin fills.

A recipe is a list of stages, a stage sums objectives over streams, a stream is a mixture of text seen through an
objective. Everything a run does is a pure function of its Recipe and the step number; the Runtime may change on a
restart, the Recipe may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin

from xalign_jax.errors import UserError
from xalign_jax.interfaces import (
    Everything,
    Feed,
    ModelConfig,
    Objective,
    Optimizer,
    Parametrization,
    Probe,
    Schedule,
)


def freeze(config: Any) -> None:
    """Turn the lists and dicts that gin put into a frozen dataclass into tuples, in place. Call in `__post_init__`.

    Raises:
      UserError: a class instead of an object of it, a single value where a list belongs, or a value that is none of the
        plain types in the field's annotation. `True` is no number, and no number is infinite, NaN or out of 32 bits.
    """
    for field in dataclasses.fields(config):
        label, kind = _label(config, field.name), getattr(field.type, "__name__", str(field.type))
        value = _frozen(getattr(config, field.name), label)
        if kind.startswith("tuple") and not isinstance(value, tuple):
            raise UserError(f"{label} = {value!r}: expected a list")
        kinds = kind.split(" | ")
        if {*kinds} <= _EXPECTED.keys() and not any(_is_a(value, kind) for kind in kinds):
            raise UserError(f"{label} = {value!r}: expected {' or '.join(_EXPECTED[kind] for kind in kinds)}")
        object.__setattr__(config, field.name, value)


def resolve(path: str | os.PathLike) -> str:
    """An absolute path: `~` expanded, relative paths taken from the current directory; a URL such as gs://... stays.

    Raises:
      UserError: a path that no system has.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{text!r}: a path holds no NUL character")
    try:
        return text if "://" in text else str(Path(text).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"{text}: {error}") from None


def with_paths(located: Callable[[Any], Any]) -> dict[str, Any]:
    """`dataclasses.field(metadata=...)` of a field that holds paths; `located` returns its value with absolute ones."""
    return {"located": located}


def located(config: Any) -> Any:
    """The config with every path in it absolute, so that it means the same wherever it is read."""
    if isinstance(config, tuple):
        return tuple(map(located, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    fields = dataclasses.fields(config)
    return dataclasses.replace(
        config, **{f.name: f.metadata.get("located", located)(getattr(config, f.name)) for f in fields}
    )


_EXPECTED = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a string", "None": "None"}
_LARGEST_FLOAT = 3.4e38  # of float32


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a plain type, by its name in an annotation."""
    if kind == "None":
        return value is None
    if kind == "str" or isinstance(value, bool):
        return type(value).__name__ == kind
    if kind == "int":
        return isinstance(value, int) and -(2**31) <= value < 2**31
    return kind == "float" and isinstance(value, int | float) and abs(value) <= _LARGEST_FLOAT


def _label(config: Any, field: str) -> str:
    """The gin binding of a field."""
    # Stages and streams have a name, which is their scope. The class attribute `name` of a probe is none.
    named = "name" in {own.name for own in dataclasses.fields(config)} and isinstance(config.name, str)
    return f"{config.name}/{type(config).__name__}.{field}" if named else f"{type(config).__name__}.{field}"


def within(config: Any, interval: str, *fields: str) -> None:
    """Raise UserError for a field whose number lies outside an interval, such as "[0, 1)"; None passes.

    Call in `__post_init__`, after `freeze` has made sure that the fields hold numbers.
    """
    low, high = map(float, interval[1:-1].split(","))
    for field in fields:
        value = getattr(config, field)
        at_an_end = (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")
        if value is not None and not (low < value < high or at_an_end):
            raise UserError(f"{_label(config, field)} = {value!r}: must lie in {interval}")


def at_least_one(config: Any, *fields: str) -> None:
    """Raise UserError for a field whose number is below 1; None passes. Call in `__post_init__`, after `freeze`."""
    for field in fields:
        value = getattr(config, field)
        if value is not None and value < 1:
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
                own = kind is object or kind.__module__ == Feed.__module__
                wanted = "NAME" if own else kind.__name__
                made = f" of a class derived from {kind.__name__}" if own and kind is not object else ""
                raise UserError(f"{_label(config, field.name)} = {value!r}: expected an object, @{wanted}(){made}")


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
    """A mixture of text seen through an objective: `batch_size` rows of it in every step of its stage.

    `weight` multiplies the objective's loss. `mixture` is None for feeds that read the lexicon only.
    """

    name: str = gin.REQUIRED
    feed: Feed = gin.REQUIRED
    objective: Objective = gin.REQUIRED
    batch_size: int = gin.REQUIRED
    mixture: Any = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "batch_size")
        objects(self, "feed", kind=Feed)
        objects(self, "objective", kind=Objective)
        objects(self, "mixture")
        within(self, "[0, inf)", "weight")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps under one set of streams, one optimiser and one schedule.

    Attributes:
      combine: "means" adds sum_t / count_t over streams, "pooled" divides the summed sums by the summed counts.
      parametrization: which numbers the optimiser moves (`xalign_jax.parametrizations`).
      keep_optimizer: carry the previous stage's optimiser state instead of starting afresh.
      probes: run at the stage's end.
    """

    name: str = gin.REQUIRED
    steps: int = gin.REQUIRED
    streams: tuple = gin.REQUIRED
    optimizer: Optimizer = gin.REQUIRED
    schedule: Schedule = gin.REQUIRED
    combine: str = "means"
    parametrization: Parametrization = dataclasses.field(default_factory=Everything)
    keep_optimizer: bool = False
    probes: tuple = ()

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "steps")
        one_of(self, "combine", ("means", "pooled"))
        objects(self, "optimizer", "schedule")
        objects(self, "parametrization", kind=Parametrization)
        objects(self, "probes", kind=Probe)
        objects(self, "streams", kind=Stream)


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

    model: ModelConfig = gin.REQUIRED
    vocabulary: Any = gin.REQUIRED
    stages: tuple = gin.REQUIRED
    lexicon: Any = None
    facts: Any = None
    modules: tuple = ()
    init_from: str | None = dataclasses.field(default=None, metadata=with_paths(lambda path: path and resolve(path)))
    new_rows: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        freeze(self)
        objects(self, "model", "vocabulary", "lexicon", "facts")
        objects(self, "stages", kind=Stage)
        within(self, "[0, inf)", "seed")


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
        at_least_one(self, "accumulate", "prefetch", "log_every", "checkpoint_every", "keep_checkpoints")
        within(self, "[0, inf)", "probe_every", "watchdog_seconds")
        one_of(self, "dtype", ("auto", "float32", "bfloat16"))
        if not all(_is_a(size, "int") and (size == -1 or size >= 1) for size in self.mesh):
            raise UserError(f"Runtime.mesh = {self.mesh}: three numbers of devices, one of which may be -1")
        one_of(self, "matmul_precision", ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32"))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The probes that `xalign evaluate` runs."""

    probes: tuple = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)
        objects(self, "probes", kind=Probe)


def as_json(config: Any) -> Any:
    """A config as plain JSON values; dataclasses carry their class name under "class"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: as_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"class": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [as_json(item) for item in config]
    return config


# Class -> version of its meaning. Raise it when a class, or a default of it, comes to compute something else: then no old run is
# taken for a new one.
MEANINGS: dict[str, int] = {}


def _essential(config: Any) -> Any:
    """What makes a config another one: as `as_json`, without the fields that are at their defaults.

    So a new field whose default keeps the old behaviour changes no identity.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        name = type(config).__name__
        fields = {
            f.name: _essential(getattr(config, f.name))
            for f in dataclasses.fields(config)
            if not _at_default(config, f)
        }
        version = {"meaning": MEANINGS[name]} if name in MEANINGS else {}
        return {"class": name, **version, **fields}
    if isinstance(config, tuple):
        return [_essential(item) for item in config]
    return config


def _at_default(config: Any, field: dataclasses.Field) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return getattr(config, field.name) == field.default_factory()
    return field.default is not gin.REQUIRED and getattr(config, field.name) == field.default


def identity(recipe: Recipe) -> str:
    """The run's identity: a hash of the recipe's canonical JSON, fields at their defaults left out."""
    canonical = json.dumps(_essential(recipe), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
