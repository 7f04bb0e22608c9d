"""Recipe, Stage and Stream say what a run is, and Runtime says how it runs here. Plain values that gin fills.

A recipe is a list of stages. A stage sums objectives over streams. A stream is a mixture of text seen through an
objective. Everything that a run computes is a pure function of its Recipe and the step number. So the Runtime may
change on a restart, and the Recipe may not. `identity` is the hash of a Recipe.

The first half of this module checks the values that gin binds. Every dataclass that gin fills calls `freeze`, and then
functions such as `within`, in its `__post_init__`. Their messages name the gin binding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gin

from xalign_jax.errors import UserError
from xalign_jax.interfaces import (
    Changing,
    Everything,
    Feed,
    ModelConfig,
    Objective,
    Optimizer,
    Parametrization,
    Probe,
    Schedule,
    Tracker,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from xalign_jax.data.cleaning.settings import Cleaning
    from xalign_jax.data.lexicon.facts import Facts
    from xalign_jax.data.lexicon.lexicon import Lexicon
    from xalign_jax.data.sampling.mixture import Mixture
    from xalign_jax.data.tokens.vocabulary import Vocabulary


def freeze(config: object) -> None:
    """Check the types of a frozen dataclass's fields, and turn lists and dicts into tuples. Call in `__post_init__`.

    gin passes whatever a file binds: lists where fields are tuples, and numbers where fields are strings. Tuples make
    the dataclass hashable, so that compiled functions are cached under it.

    Raises:
      UserError: a class instead of an object of it, a single value where a list belongs, or a value of none of the
        plain types in the field's annotation. `True` is no number. Numbers must be finite and fit 32 bits.
    """
    for field in dataclasses.fields(cast("DataclassInstance", config)):
        # Annotations are strings here, such as "int | None".
        label, kind = _label(config, field.name), getattr(field.type, "__name__", str(field.type))
        value = _frozen(getattr(config, field.name), label)
        optional = value is None and kind.endswith(" | None")
        if kind.startswith("tuple") and not isinstance(value, tuple) and not optional:
            raise UserError(f"{label} = {value!r}: expected a list")
        # Only fields whose annotation has nothing but plain types are checked.
        kinds = kind.split(" | ")
        if {*kinds} <= _EXPECTED.keys() and not any(_is_a(value, kind) for kind in kinds):
            raise UserError(f"{label} = {value!r}: expected {' or '.join(_EXPECTED[kind] for kind in kinds)}")
        # The dataclass is frozen, but its constructor has not returned yet.
        object.__setattr__(config, field.name, value)


def resolve(path: str | os.PathLike) -> str:
    """An absolute path: `~` is expanded, relative paths start at the current directory, a URL such as gs://... stays.

    Raises:
      UserError: a path with a NUL character, or a home directory that cannot be found.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{text!r}: a path holds no NUL character")
    try:
        return text if "://" in text else str(Path(text).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"{text}: {error}") from None


def with_paths(located: Callable[[Any], Any]) -> dict[str, Any]:
    """`dataclasses.field(metadata=...)` of a field with paths; `located` makes the paths in its value absolute."""
    return {"located": located}


def located(config: object) -> Any:
    """The config with every path in it absolute, so that a saved one can be read from another directory."""
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


def _is_a(value: object, kind: str) -> bool:
    """Whether a value is of a plain type, given by its name in an annotation."""
    if kind == "None":
        return value is None
    # `bool` is a subclass of `int` in Python; here it is a type of its own.
    if kind == "str" or isinstance(value, bool):
        return type(value).__name__ == kind
    if kind == "int":
        return isinstance(value, int) and -(2**31) <= value < 2**31
    return kind == "float" and isinstance(value, int | float) and abs(value) <= _LARGEST_FLOAT


def _label(config: object, field: str) -> str:
    """The gin binding of a field, such as "align/Stream.weight" or "Recipe.seed"."""
    # Stages and streams have a field `name`, which is their scope. The class attribute `name` of a probe is no field.
    fields = dataclasses.fields(cast("DataclassInstance", config))
    name = next((getattr(config, own.name) for own in fields if own.name == "name"), None)
    return f"{name}/{type(config).__name__}.{field}" if isinstance(name, str) else f"{type(config).__name__}.{field}"


def within(config: object, interval: str, *fields: str) -> None:
    """Raise UserError for a field whose number lies outside an interval, such as "[0, 1)". None passes.

    Call in `__post_init__`, after `freeze`, which makes sure that the fields hold numbers.
    """
    # "[" and "]" belong to the interval, "(" and ")" do not.
    low, high = map(float, interval[1:-1].split(","))
    for field in fields:
        value = getattr(config, field)
        at_an_end = (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")
        if value is not None and not (low < value < high or at_an_end):
            raise UserError(f"{_label(config, field)} = {value!r}: must lie in {interval}")


def at_least_one(config: object, *fields: str) -> None:
    """Raise UserError for a field whose number is below 1. None passes. Call in `__post_init__`, after `freeze`."""
    for field in fields:
        value = getattr(config, field)
        if value is not None and value < 1:
            raise UserError(f"{_label(config, field)} = {value!r}: must be at least 1")


def one_of(config: object, field: str, known: tuple[str, ...]) -> None:
    """Raise UserError for a field whose value is not among the known ones. Call in `__post_init__`."""
    if getattr(config, field) not in known:
        raise UserError(f"{_label(config, field)} = {getattr(config, field)!r}: must be one of {', '.join(known)}")


def objects(config: object, *fields: str, kind: type = object) -> None:
    """Raise UserError for a field, or an item of a list, that is a plain value or an object of another class.

    None passes where it is the field's default. Call in `__post_init__`, after `freeze`.

    Args:
      kind: the class of the objects; `object` = any class.
    """
    for field in dataclasses.fields(cast("DataclassInstance", config)):
        value = getattr(config, field.name)
        if field.name not in fields or (value is None and field.default is None):
            continue
        for item in value if str(field.type).startswith("tuple") else (value,):
            if item is None or isinstance(item, str | int | float | tuple) or not isinstance(item, kind):
                # Name a base class of `interfaces` as the class to derive from; name any other class itself.
                own = kind is object or kind.__module__ == Feed.__module__
                wanted = "NAME" if own else kind.__name__
                made = f" of a class derived from {kind.__name__}" if own and kind is not object else ""
                raise UserError(f"{_label(config, field.name)} = {value!r}: expected an object, @{wanted}(){made}")


def _frozen(value: object, label: str) -> Any:
    """The value with tuples in place of lists, and tuples of pairs in place of dicts."""
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
    """A mixture of text seen through an objective.

    Attributes:
      name: of its metrics. The objective's state passes on to a stream of the same name in the next stage.
      feed: which arrays a row of a batch holds (`xalign_jax.data.feeds`).
      objective: the loss on a batch (`xalign_jax.objectives`).
      batch_size: rows in each step of the stage, over all devices together.
      mixture: the texts and their rates; None for feeds that read only the lexicon.
      weight: multiplies the objective's loss. It may change with the step of the stage: `@Turns()`, `@Linear()` or
        `@Piecewise()`. At a step where it is 0, the objective is not computed, and the rows of the step teach nothing.
    """

    name: str = gin.REQUIRED
    feed: Feed = gin.REQUIRED
    objective: Objective = gin.REQUIRED
    batch_size: int = gin.REQUIRED
    mixture: Mixture | None = None
    weight: float | Changing = 1.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "batch_size")
        objects(self, "feed", kind=Feed)
        objects(self, "objective", kind=Objective)
        objects(self, "mixture")
        if not isinstance(self.weight, Changing):
            if not _is_a(self.weight, "float"):
                raise UserError(f"{_label(self, 'weight')} = {self.weight!r}: expected a number, or @Turns()")
            within(self, "[0, inf)", "weight")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps with one set of streams, one optimiser and one schedule.

    Attributes:
      name: of the stage, in results and metrics.
      steps: number of updates.
      streams: what the stage trains on.
      optimizer, schedule: the update rule and its learning rate (`xalign_jax.training.optimizers`).
      combine: how losses of streams t with weights w_t are added. "means" is sum_t w_t loss_t / count_t. "pooled" is
        sum_t w_t loss_t / sum_t count_t, as in InfoXLM's code.
      parametrization: which numbers the optimiser moves (`xalign_jax.parametrizations`).
      keep_optimizer: continue with the previous stage's optimiser state instead of a new one.
      probes: what is measured at the end of the stage.
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
      model: the shape of the network (`xalign_jax.models`).
      vocabulary: which tokens exist, and how text is cut into them.
      stages: run one after another; each continues with the parameters of the one before.
      lexicon: dictionaries; None = no feed, parametrization or probe of the run reads one.
      facts: sentences of synthetic facts, told in the first language only; None = none.
      modules: the user's own Python modules that register seqio tasks. They are imported before data is prepared.
      init_from: a model directory whose newest parameters this run starts from; None = initial values are drawn.
      new_rows: initial rows of those tokens that the vocabulary of `init_from` lacks: "mean", "copy", "aligned" or
        "similar" (`data.new_rows.row_sources`).
      row_vectors: of "similar": word2vec text files with words of the old languages and the new one, in one space.
      seed: of every random number of the run, at least 0.
      cleaning: which texts are dropped before they are stored (`data.cleaning`); None = every text is used.
    """

    model: ModelConfig = gin.REQUIRED
    vocabulary: Vocabulary = gin.REQUIRED
    stages: tuple = gin.REQUIRED
    lexicon: Lexicon | None = None
    facts: Facts | None = None
    modules: tuple = ()
    init_from: str | None = dataclasses.field(default=None, metadata=with_paths(lambda path: path and resolve(path)))
    new_rows: str = "mean"
    row_vectors: tuple = dataclasses.field(default=(), metadata=with_paths(lambda paths: tuple(map(resolve, paths))))
    seed: int = 0
    cleaning: Cleaning | None = None

    def __post_init__(self) -> None:
        freeze(self)
        objects(self, "model", "vocabulary", "lexicon", "facts", "cleaning")
        objects(self, "stages", kind=Stage)
        within(self, "[0, inf)", "seed")
        if self.row_vectors and self.new_rows != "similar":
            raise UserError(f'Recipe.row_vectors: new_rows = {self.new_rows!r} reads none; bind new_rows = "similar"')


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a recipe is run here. Nothing of it changes the results beyond rounding.

    Attributes:
      mesh: number of devices along (data, fsdp, tensor); one entry may be -1 = all that remain. () = (S, -1, 1) on S
        slices of TPUs, and (1, -1, 1) elsewhere.
      dtype: of matrix products, "float32" or "bfloat16"; "auto" is float32 on CPU and bfloat16 on accelerators.
      matmul_precision: JAX's setting of that name, for the products of float32 arrays.
      remat: compute activations of each layer again in the backward pass, to save memory.
      accumulate: rows of a step go through the model in this many parts, one after another. Losses still see all rows
        at once, so that contrasts keep their candidates.
      prefetch: batches that background threads make ahead.
      log_every: steps between lines of metrics.
      checkpoint_every: steps between checkpoints; there is also one at the end of each stage.
      keep_checkpoints: number of newest checkpoints that are kept.
      probe_every: steps between runs of the stage's probes, in addition to its end; 0 = only at the end.
      leaks: what happens if texts that probes or validation read stand in the training text (`training.leaks`):
        "report" prints a line for each file, "refuse" stops before training, "ignore" does not look.
      watchdog_seconds: if no step finishes for so long, the run ends and prints the stacks of its threads; 0 = never.
        The first step of a stage may take an hour more.
      trackers: who gets metrics and the results of probes, such as (@TensorBoard(), @Wandb()); None = TensorBoard.
    """

    mesh: tuple = ()
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
    leaks: str = "report"
    trackers: tuple | None = None

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "accumulate", "prefetch", "log_every", "checkpoint_every", "keep_checkpoints")
        within(self, "[0, inf)", "probe_every", "watchdog_seconds")
        one_of(self, "dtype", ("auto", "float32", "bfloat16"))
        one_of(self, "leaks", ("report", "refuse", "ignore"))
        objects(self, "trackers", kind=Tracker)
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


def as_json(config: object) -> Any:
    """A config as plain JSON values. Dataclasses have their class name under "class"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: as_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"class": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [as_json(item) for item in config]
    return config


# Class -> version of its meaning. Increase it when a class, or a default of it, begins to compute something else. Then
# an old run has another identity than a new one.
MEANINGS: dict[str, int] = {}


def _essential(config: object) -> Any:
    """The part of a config that the identity hashes: `as_json` without the fields that have their default values.

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


def _at_default(config: object, field: dataclasses.Field) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return getattr(config, field.name) == field.default_factory()
    return field.default is not gin.REQUIRED and getattr(config, field.name) == field.default


def identity(recipe: Recipe) -> str:
    """The run's identity: 16 hex digits, a hash of the recipe's canonical JSON without fields at their defaults."""
    # Sorted keys and no ASCII escapes: the same recipe always gives the same bytes.
    canonical = json.dumps(_essential(recipe), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
