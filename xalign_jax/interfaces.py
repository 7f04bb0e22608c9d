"""The seams of the house on one page: what a method must offer to join, and what it gets.

This module holds plain values and base classes only, and every room may import it. A new method is a class in a file of
its own, registered with gin; `docs/extending.md` has an example of four kinds:

| seam            | a gin file names it in | it decides                                                      |
|-----------------|------------------------|-----------------------------------------------------------------|
| ModelConfig     | Recipe.model           | the shape of a network                                          |
| Feed            | Stream.feed            | which arrays a row of a batch holds                             |
| Objective       | Stream.objective       | the loss on a batch                                             |
| Parametrization | Stage.parametrization  | which numbers the optimiser moves                               |
| Schedule        | Stage.schedule         | the learning rate at a step                                     |
| Optimizer       | Stage.optimizer        | the direction of an update                                      |
| Probe           | Stage.probes           | what is measured, and how reports show it                       |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import gin
import jax

if TYPE_CHECKING:
    import numpy as np
    import optax
    from flax import nnx
    from jax.typing import DTypeLike

    from xalign_jax.data.corpus import Corpus, CorpusView
    from xalign_jax.data.store.store import Mixture
    from xalign_jax.models.model import Model

Tree = Any  # nested dicts of arrays; None stands where a leaf lies in another tree
Batch = Mapping[str, Any]  # arrays by name
Row = dict[str, Any]  # a row of results.json


class ModelConfig(Protocol):
    """The shape of a network: plain values that gin fills, such as `models.llama.Llama`.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, attention heads of a block.
      head_size: width of one head.
      max_length: longest sequence accepted.
      tied: the output head is the embedding table.
      causal: positions see earlier positions only.
      types: token types that are told apart; 1 = none are.
    """

    @property
    def layers(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def head_size(self) -> int: ...

    @property
    def max_length(self) -> int: ...

    @property
    def tied(self) -> bool: ...

    @property
    def causal(self) -> bool: ...

    @property
    def types(self) -> int: ...

    def keys_seen(self, length: int) -> float:
        """Keys that a token of a row of `length` tokens sees, on average, in all layers together."""

    def network(self, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
        """Parameters and pieces of the forward pass: `embed`, `context`, `layers`, `final_norm`, `head_input`, `head_table`.

        `models.decoder.Decoder` and `models.encoder.Encoder` have all of them; most architectures bring a block only.
        """


class Inputs(NamedTuple):
    """What a model reads: rows of tokens, in which segments stand side by side.

    Attributes:
      tokens: (B, T) int32.
      positions: (B, T) int32, from 0 in each segment.
      segment_ids: (B, T) int32; tokens see their own segment only, 0 is padding.
      types: (B, T) int32 token types; None = all 0.
    """

    tokens: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    types: jax.Array | None = None

    @classmethod
    def of(cls, batch: Batch, view: str = "") -> Inputs:
        """The inputs of a feed's batch; `view` is "" or "key_", the side of a pair."""
        tokens, positions, segment_ids = (batch[view + name] for name in ("tokens", "positions", "segment_ids"))
        return cls(tokens, positions, segment_ids, batch.get(f"{view}types"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class States:
    """What a forward pass found: `states[8]` is level 8, `states["mlp", 8]` a captured site of block 8.

    Attributes:
      levels: {level: (B, T, width)}.
      sites: {site: {level: (B, T, size)}}; {} = nothing was captured.
    """

    levels: dict[int, jax.Array]
    sites: dict[str, dict[int, jax.Array]]

    def __getitem__(self, key: int | tuple[str, int]) -> jax.Array:
        return self.sites[key[0]][key[1]] if isinstance(key, tuple) else self.levels[key]


class Batches:
    """A feed over a corpus: rows as a pure function of their number. No iterator state exists.

    Attributes:
      length: tokens of a row.
      languages: those of the rows; arrays of languages hold places in this tuple.
      report: what was counted while the feed was built, by name; `xalign data preview` prints it.
    """

    length: int
    languages: tuple[str, ...]
    report: Mapping[str, Any] = MappingProxyType({})

    def batch(self, first_row: int, row_slice: slice) -> dict[str, np.ndarray]:
        """Rows `row_slice` of the batch that begins at row `first_row`: arrays whose first axis is the row.

        Any slice equals the same rows of the whole batch, so that hosts make their own rows only.
        """
        raise NotImplementedError


class Feed:
    """Plain values that say which arrays a row holds; `build` gives them a corpus.

    Attributes:
      length: tokens of a row.
      language_types: batches have token `types`, each token's language.
    """

    length: int
    language_types: bool = False

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError where the recipe lacks what the feed reads. `lexicon`: the recipe has one."""

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> Batches:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: the corpus or the mixture lacks something that this feed needs.
        """
        raise NotImplementedError

    def blank(self, rows: int) -> dict[str, np.ndarray]:
        """A batch of `rows` rows without text: the shapes and dtypes of real ones."""
        raise NotImplementedError


class Objective:
    """Mathematics on a batch: a sum over what it counts, with metrics beside it.

    It may own heads, which train like the model, and a state, which it updates itself (a queue, a momentum encoder). A
    stage divides the sum by the count over the global batch, so both are plain sums over rows. For example:

        class CausalLM(Objective):
            def count(self, model, batch, rng):
                return batch["weights"].sum()

            def loss(self, model, batch, state, rng):
                top = model.num_layers
                h = model.head_input(model.hidden(Inputs.of(batch), levels=(top,))[top])
                ...
                return total, {}, state
    """

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(heads, state) at their initial values; head names are global, so choose the objective's own name.

        Args:
          model: without parameters; its widths, levels and settings may be read.

        Raises:
          UserError: this objective cannot work with the model.
        """
        return {}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for batches of a shape that this objective cannot take; only shapes and dtypes are real."""

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """How many things the loss sums over; float32 scalar."""
        raise NotImplementedError

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics by name, state after this step).

        Args:
          model: with its parameters bound, and `model.heads`.
          rng: a key of (seed, step, stream).
        """
        raise NotImplementedError

    def prefill(
        self, model: Model, state: dict[str, Tree], batches: Iterable[Batch], rng: jax.Array
    ) -> dict[str, Tree]:
        """The state before a stage's first step; `batches` are those that the stage is going to read."""
        return state

    def after_update(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """The state after an update of the parameters, which `model` holds."""
        return state

    def state_axes(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """Logical axes of the state, a tuple of names in place of each array; by default every device holds all of it."""
        return jax.tree.map(lambda array: (None,) * len(array.shape), state)

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of a forward and a backward pass over a global batch, of which only shapes are real.

        By default one pass of the whole model over each token of `tokens`.
        """
        rows, length = batch["tokens"].shape
        return rows * length * model.flops_per_token(length)


class Column(NamedTuple):
    """How reports show a metric.

    Attributes:
      heading: of its columns.
      headline: summaries, pictures and model cards show it.
      per_token: it depends on how text is cut into tokens; runs of different vocabularies are not compared by it.
      short: its name in tables of many runs; "" = it has no place there.
    """

    heading: str
    headline: bool = False
    per_token: bool = False
    short: str = ""


class ProbedRun(NamedTuple):
    """What a probe gets.

    Attributes:
      model: with its parameters and the heads of objectives bound; before training, without parameters.
      corpus: vocabulary, texts, lexicon and facts of the run.
      seed: the run's.
      stage, step: where the run is; ("", 0) before training.
    """

    model: Model
    corpus: CorpusView
    seed: int = 0
    stage: str = ""
    step: int = 0


class Probe:
    """Turns a model into rows of `results.json`, and says how reports show them. For example:

        class MeanNorm(Probe):
            name = "mean_norm"
            title = "Length of hidden states"
            by_level = True
            columns = {"norm": Column("mean length", headline=True)}

            def rows(self, run):
                ...
                return [row(self.name, "norm", value, n, level=level) for level, value in found]

    A model directory keeps what `shown` says in `probes.json`, so that reports need no probe's code.

    Attributes:
      name: `probe` of its rows.
      title: of its tables.
      by_level: its rows have levels, one column each.
      columns: by metric of its rows, in the order of a table.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    by_level: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, Column]] = MappingProxyType({})

    @classmethod
    def shown(cls) -> dict[str, Any]:
        """How reports show this probe, as plain JSON values."""
        columns = {metric: column._asdict() for metric, column in cls.columns.items()}
        return {"title": cls.title, "by_level": cls.by_level, "columns": columns}

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for what the model lacks. Called before any data is prepared, with the configuration alone."""

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for what the data lacks. Called before anything is trained."""

    def rows(self, run: ProbedRun) -> list[Row]:
        """The rows, made by `evaluation.encode.row`."""
        raise NotImplementedError


class Schedule(Protocol):
    """A learning rate by step, as plain values that gin fills."""

    def schedule(self, steps: int) -> optax.Schedule:
        """The rate as a function of the step within a stage of `steps` steps."""


class Optimizer(Protocol):
    """An update rule, as plain values that gin fills."""

    def direction(self, decays: Tree) -> optax.GradientTransformation:
        """What the learning rate times -1 multiplies. `decays`: per array, whether weight decay applies."""


class Coordinates:
    """The functions of one stage. These defaults make every parameter free."""

    fingerprint = ""  # of the data that these functions depend on; processes of a run compare it

    def enter(self, params: Tree) -> Tree:
        """The parameters before the stage's first step, from those that the stage before left."""
        return params

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        """(free, fixed) of parameters; `rng` draws numbers that parameters do not determine."""
        return params, {}

    def params(self, free: Tree, fixed: Tree) -> Tree:
        """The parameters that the model computes with. Pure and differentiable in `free`."""
        return free

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        """Logical axes of (free, fixed) from those of the parameters, whose leaves are tuples of names."""
        return axes, {}

    def after_update(self, free: Tree, rate: jax.Array) -> Tree:
        """The free numbers after an update at this learning rate, where some of them decay by themselves."""
        return free

    def hidden(self, free: Tree, fixed: Tree) -> dict[str, Tree]:
        """Numbers that `params` does not show. A checkpoint holds them beside the parameters; {} = none."""
        return {}

    def resume(self, params: Tree, hidden: dict[str, Tree]) -> tuple[Tree, Tree]:
        """(free, fixed) again from what a checkpoint holds, bit by bit."""
        return self.split(params, jax.random.key(0))


class Parametrization:
    """Plain values that gin fills; `bind` gives them a meaning for one model. The default trains everything."""

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The coordinates of a model.

        Args:
          corpus: the run's data (`data.corpus.Corpus`); None where only shapes count.

        Raises:
          UserError: the model or the corpus lacks something that this parametrization needs.
        """
        return Coordinates()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Everything(Parametrization):
    """Every parameter trains."""
