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
| Tracker         | Runtime.trackers       | who else gets a run's numbers, while it trains                  |
| Measure         | ParallelText.measures  | a figure from vectors of parallel text (`evaluation.parallel`)  |

Each of these classes is a frozen dataclass whose fields gin fills. It holds plain values, never arrays. `build`, `bind`
or `network` then makes the object that works with a model and data.

Words and shapes:

- B rows of T tokens are a batch. A row holds one or more segments (sentences, words or documents), side by side.
- A model of L blocks has levels 0 to L. Level 0 is the embedding output, level l the output of block l, and level L is
  after the final norm.
- Parameters are a tree `{"model": {...}, "heads": {name: {...}}}`: nested dicts of float32 arrays. Heads belong to
  objectives. The parameters of all blocks are stacked along axis 0.
- Logical axes name the axes of an array, such as ("embed", "mlp"). `runtime/sharding.py` maps the names to the mesh.
- UserError is for the user's mistakes. Its one line names the gin binding and says what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import gin

# JAX is imported where it is needed only: commands and processes that read text start in half the time without it.
if TYPE_CHECKING:
    from pathlib import Path

    import jax
    import numpy as np
    import optax
    from flax import nnx
    from jax.typing import DTypeLike

    from xalign_jax.data.corpus import Corpus, CorpusView
    from xalign_jax.data.sampling.mixture import Mixture
    from xalign_jax.models.model import Model
    from xalign_jax.records.pictures import Picture

Tree = Any  # nested dicts of arrays; None stands where an array is in another tree
Batch = Mapping[str, Any]  # arrays by name, such as "tokens"; shapes alone where no data is needed
Row = dict[str, Any]  # a row of results.json: a plain dict that `evaluation.encode.row` makes


class ModelConfig(Protocol):
    """The shape of a network: plain values that gin fills, such as `models.llama.Llama`.

    `models.model.build` makes a `Model` of it, which objectives and probes use.

    Attributes:
      layers, width, heads: blocks, size of the hidden states, attention heads of a block.
      head_size: width of one head.
      max_length: longest sequence accepted.
      tied: the output head is the embedding table.
      causal: positions see earlier positions only.
      types: token types that are told apart, such as languages; 1 = none are.
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
        """Keys that a token of a row of `length` tokens sees, on average, in all layers together; for FLOPs."""

    def network(self, vocabulary_size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
        """Parameters and pieces of the forward pass, as `models.model.Network` lists them.

        `models.decoder.Decoder` and `models.encoder.Encoder` have all pieces. Most architectures bring only a block.
        """


class Inputs(NamedTuple):
    """What a model reads: rows of tokens, in which segments stand side by side.

    Attributes:
      tokens: (B, T) int32 token ids.
      positions: (B, T) int32, from 0 in each segment.
      segment_ids: (B, T) int32, from 1; tokens see only their own segment; 0 is padding.
      types: (B, T) int32 token types, such as languages; None = all 0.
      seen: (B, T, T) bool, the tokens (last axis) that each token (second axis) may see at most; None = the whole
        segment, or what is before in it.
      given: (B, S, width) level 0 of the first S tokens, in place of their embeddings; None = all tokens are embedded.
    """

    tokens: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    types: jax.Array | None = None
    seen: jax.Array | None = None
    given: jax.Array | None = None

    @classmethod
    def of(cls, batch: Batch, view: str = "") -> Inputs:
        """The inputs of a feed's batch.

        Args:
          view: the side of a pair that a contrast reads: "" = queries, "key_" = keys. Other batches have only "".
        """
        tokens, positions, segment_ids = (batch[view + name] for name in ("tokens", "positions", "segment_ids"))
        return cls(tokens, positions, segment_ids, batch.get(f"{view}types"))


@dataclasses.dataclass(frozen=True)
class States:
    """The result of `Model.hidden`: `states[8]` is level 8, and `states["mlp", 8]` is a captured site of block 8.

    Attributes:
      levels: {level: (B, T, width)}, in the model's dtype.
      sites: {site: {level: (B, T, size)}}; {} = nothing was captured.
    """

    levels: dict[int, jax.Array]
    sites: dict[str, dict[int, jax.Array]]

    def __getitem__(self, key: int | tuple[str, int]) -> jax.Array:
        return self.sites[key[0]][key[1]] if isinstance(key, tuple) else self.levels[key]


class Batches:
    """A feed over a corpus. Rows are numbered without end, and a row is a pure function of its number.

    No iterator state exists. So a run resumes at any step, and several hosts agree without talking to each other.

    Attributes:
      length: T, the tokens of a row.
      languages: the languages of the rows. Arrays of languages hold indices into this tuple.
      report: counts from building the feed, by name; `xalign data stats` prints them.
      lowered: a phrase for each language whose share `Mixture.cap` lowers; a run prints them.
      ends: the first row that has no text because of `Mixture.epochs`; None if rows go on without end.
      changing: the shares of the mixture's members depend on the row.
    """

    length: int
    languages: tuple[str, ...]
    report: Mapping[str, int | Mapping[int, int]] = MappingProxyType({})
    lowered: tuple[str, ...] = ()
    ends: int | None = None
    changing: bool = False

    def shares(self, row: int) -> dict[str, float]:
        """The share of each member of the mixture around a row; {} = no mixture is read."""
        return {}

    def drawn(self, number: np.ndarray) -> dict[str, int]:
        """How many texts of each source and language ("wiki:en") rows `number` (B,) int64 hold; {} for one source.

        A run logs it. A row of running text counts as one text of its language.
        """
        return {}

    def batch(self, first_row: int, row_slice: slice) -> dict[str, np.ndarray]:
        """The rows `row_slice` of the batch that begins at row number `first_row`: arrays whose first axis is the row.

        A slice has the same values as these rows of the whole batch. So each host makes only its own rows. Arrays whose
        name begins with "count_" hold one integer a row; the run adds them up and logs them.
        """
        raise NotImplementedError


class Feed:
    """Plain values that say which arrays a row holds. `build` gives them a corpus.

    A run calls `check` and `blank` before any data is prepared, and then `build`.

    Attributes:
      length: T, the tokens of a row.
      language_types: batches have token `types`: the number of each token's language.
      fields: the fields of documents that the feed reads from stores, such as "label" (`data.text.fields.FIELDS`). A
        recipe whose tasks do not declare them is refused.
    """

    length: int
    language_types: bool = False
    fields: tuple[str, ...] = ()

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads.

        Args:
          mixture: of the stream; None = the stream has none.
          lexicon: whether the recipe has a lexicon.
        """

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> Batches:
        """The feed over a mixture.

        Args:
          mixture: of the stream. The points of its schedules count rows here, not steps.
          rows: the batch size, over all hosts together.
          seed: of every random choice.
          split: "train" or "validation".

        Raises:
          UserError: the corpus or the mixture lacks something that this feed needs.
        """
        raise NotImplementedError

    def own_files(self) -> Mapping[str, str]:
        """The absolute paths of files that it reads beside the corpus, by the field that names each.

        A run records hashes of them, so that a restart notices a change.
        """
        return {}

    def blank(self, rows: int) -> dict[str, np.ndarray]:
        """A batch of `rows` rows without text. It has the shapes and dtypes of real batches."""
        raise NotImplementedError


class Objective:
    """Mathematics on a batch: a sum over what it counts, with metrics beside it.

    It may own heads, which train like the model, and a state, which it updates itself (a queue, a momentum encoder). A
    stage divides the sum by the count over the global batch, so both are plain sums over rows. Arrays are global, as if
    there were one device: methods need not average over devices or gather from them.

    Before the first step, a run calls `check`, `init`, `check_data`, `copied_heads` and `prefill`. In each step it calls
    `count`, `loss` and, after the optimiser, `after_update`; all three run under `jax.jit`. For example:

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
        """(heads, state) at their initial values.

        Heads are `{name: {...}}`. Their names are global in a run, so choose the objective's own name. `loss` finds
        them in `model.heads`. Streams whose objectives have a head of the same name share it.

        Args:
          model: without parameters; its widths, levels and settings may be read.

        Raises:
          UserError: this objective cannot work with the model.
        """
        return {}, {}

    def copied_heads(self, model: Model) -> dict[str, Tree]:
        """The heads that begin as copies of parameters, such as blocks; {} = all heads begin as `init` draws them.

        A stage calls it where these heads are new, and puts its result in place of theirs. It runs under `jax.jit`.

        Args:
          model: with the parameters and heads that the stage begins with.
        """
        return {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for batches whose shape this objective cannot take. `batch` has real shapes, but no data."""

    def check_data(self, model: Model, read: Callable[[], Batch]) -> None:
        """Raise UserError for text that this objective cannot read.

        Args:
          model: without parameters.
          read: gives the first rows, as NumPy arrays. A step's rows are packed for it, so call it only if they matter.
        """

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """How many things the loss sums over, such as tokens or pairs: a float32 scalar, 0 allowed.

        Args:
          model: without parameters.
          rng: the same key as in `loss`, so that both draw the same random choices.
        """
        raise NotImplementedError

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics by name, state after this step).

        The summed loss is a float32 scalar, and the only value that is differentiated. Metrics are scalars that the run
        logs as `<stream>/<name>`. Those whose name begins with "count_" are added up over steps.

        Args:
          model: with its parameters and all heads bound.
          state: from the step before; {} = this objective has no state.
          rng: a key that depends only on (seed, step, stream).
        """
        raise NotImplementedError

    def corrupted(self, model: Model, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """What `loss` lets the model read in place of the batch's tokens, for previews. {} = the tokens as they are.

        `tokens` (B, T) int32 and `chosen` (B, T) bool, the positions that were chosen to be replaced. A contrast that
        corrupts its keys adds `key_tokens` and `key_chosen`.

        Args:
          model: without parameters.
          rng: the same key as in `loss`.
        """
        return {}

    def directories(self) -> Mapping[str, str]:
        """Model directories whose parameters the state holds, by the state's name; {} = there are none.

        The name is also the field that names the directory. A run checks that the directory holds a model of the same
        shape and vocabulary, and puts its parameters into the state before `prefill`.
        """
        return {}

    def prefill(
        self, model: Model, state: dict[str, Tree], batches: Iterable[Batch], rng: jax.Array
    ) -> dict[str, Tree]:
        """The state before a stage's first step, such as a filled queue.

        Args:
          model: with its parameters and heads bound.
          batches: those that the stage is going to read, without end; stop when the state is full.
        """
        return state

    def after_update(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """The state after an update of the parameters. `model` has the new ones bound."""
        return state

    def state_axes(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """Logical axes of the state: a tuple of names in place of each array. By default, no array is divided."""
        import jax

        return jax.tree.map(lambda array: (None,) * len(array.shape), state)

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of a forward and a backward pass over a global batch, of which only shapes are real; for speed reports.

        By default, one pass of the whole model over each token of `tokens`.
        """
        rows, length = batch["tokens"].shape
        return rows * length * model.flops_per_token(length)


class Column(NamedTuple):
    """How reports show a metric.

    Attributes:
      heading: the text above its column.
      headline: summaries, pictures and model cards show it.
      per_token: it depends on how text is cut into tokens, so reports do not compare it across vocabularies.
      short: its name in tables of many runs; "" = it is left out there.
      efficiency: `xalign compare` measures token efficiency by it; it must be an exp of a loss, one for each language.
      best: "highest" or "lowest", the better values; "" = neither is better.
      meaning: a few words that stand behind the heading below a table; "" = the probe's meaning says enough.
    """

    heading: str
    headline: bool = False
    per_token: bool = False
    short: str = ""
    efficiency: bool = False
    best: str = "highest"
    meaning: str = ""


class ProbedRun(NamedTuple):
    """What a probe gets.

    Attributes:
      model: with its parameters and the heads of objectives bound. In `Probe.check`, it has no parameters.
      corpus: vocabulary, texts, lexicon and facts of the run.
      seed: of every random choice.
      stage, step: the stage's name and the number of updates so far; ("", 0) before training.
      frame: (ids before, ids after) a text, as the model reads it; None = as feeds write texts (`Tokenizer.framing`).
      show: a probe may call it with a picture (`records.pictures`) for the page of the results.
    """

    model: Model
    corpus: CorpusView
    seed: int = 0
    stage: str = ""
    step: int = 0
    frame: tuple[list[int], list[int]] | None = None
    show: Callable[[Picture], None] = lambda picture: None


class Table:
    """How reports show rows of one name. A model directory keeps `shown` in `probes.json`: reports need no code of it.

    Attributes:
      name: the value of `probe` in its rows.
      title: the title of its tables.
      meaning: one sentence for readers who do not know the measure; "" = there is none.
      by_level: its rows have levels, and tables have a column for each level.
      columns: {metric: Column} for every metric of its rows, in the order of a table.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    meaning: ClassVar[str] = ""
    by_level: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, Column]] = MappingProxyType({})

    @classmethod
    def shown(cls) -> dict[str, Any]:
        """Title, meaning, levels and columns as plain JSON values."""
        columns = {metric: column._asdict() for metric, column in cls.columns.items()}
        return {"title": cls.title, "meaning": cls.meaning, "by_level": cls.by_level, "columns": columns}


class Probe(Table):
    """Turns a model into rows of `results.json`, and says how reports show them.

    A run calls `check_model` and `check` before training, and `rows` at the end of a stage. For example:

        class MeanNorm(Probe):
            name = "mean_norm"
            title = "Length of hidden states"
            meaning = "Mean length of the vectors that a level holds."
            by_level = True
            columns = {"norm": Column("mean length", headline=True, best="")}

            def rows(self, run):
                ...
                return [row(self.name, "norm", value, n, level=level) for level, value in found]
    """

    def tables(self) -> Sequence[Table]:
        """The tables of its rows. A probe with rows of several names has several (`ParallelText`)."""
        return (self,)

    def settings(self) -> Sequence[Any]:
        """The values of `settings` in its rows (`recipe.as_json`). They tell rows of one name apart."""
        return (self,)

    def text_files(self) -> Sequence[tuple[str, str]]:
        """(language, path) of files with text that training should not have seen (`training.leaks`)."""
        return ()

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError if the model does not suit. Called before data is prepared, with the configuration alone."""

    def check(self, run: ProbedRun) -> None:
        """Raise UserError if the data does not suit. Called before anything is trained."""

    def rows(self, run: ProbedRun) -> list[Row]:
        """The rows, each made by `evaluation.encode.row`."""
        raise NotImplementedError


class TrackedRun(NamedTuple):
    """What a tracker gets when a run starts or continues.

    Attributes:
      name: the recipe's, with the seed.
      id: the same whenever the run of a model directory continues: 12 hex digits.
      folder: for files; a run in an object store copies it there.
      step: of the checkpoint that the run continues from; 0 = it starts.
      config: the recipe as JSON values.
    """

    name: str
    id: str
    folder: Path
    step: int
    config: Mapping[str, Any]


class Tracking:
    """A run at an open tracker. Only the first process of a run has one."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step. After a restart, steps that were taken again come again."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what is held back, before a checkpoint."""

    def finish(self) -> None:
        """Close the run. It may continue later."""


class Tracker:
    """Gets a run's metrics and the results of its probes while it trains: plain values that gin fills. For example:

    class Printed(Tracker):
        def start(self, run):
            return PrintedRun()     # a Tracking, whose `log(step, values)` prints
    """

    def check(self) -> None:
        """Raise UserError for a package that is missing, in one line that says how to install it."""

    def start(self, run: TrackedRun) -> Tracking:
        """Open the run, or continue it if the tracker knows its id."""
        raise NotImplementedError


class Changing:
    """A number that changes with the step of a stage, for `Stream.weight`: plain values that gin fills."""

    def at(self, step: jax.Array) -> jax.Array:
        """The number at a step, counted from 0 in the stage; integer scalar -> float32 scalar >= 0."""
        raise NotImplementedError


class Schedule(Protocol):
    """A learning rate by step, as plain values that gin fills."""

    def schedule(self, steps: int) -> optax.Schedule:
        """The rate as a function of the step in its stage, from 0 to `steps` - 1."""


class Optimizer(Protocol):
    """An update rule, as plain values that gin fills: new = old - rate * direction."""

    def direction(self, decays: Tree) -> optax.GradientTransformation:
        """The direction of an update, an optax transformation without a learning rate.

        Args:
          decays: a tree of booleans like the free numbers; True = weight decay applies to the array (it is a matrix).
        """


class Coordinates:
    """What the optimiser moves in one stage, and how the parameters follow from it.

    Two trees describe the parameters: `free` numbers, which have gradients and optimiser moments, and `fixed` numbers,
    which have neither. Each step computes `params(free, fixed)` and differentiates the loss with respect to `free`.

    At the beginning of a stage, a run calls `enter` and then `split`. A checkpoint holds the parameters and `hidden`; a
    run that resumes calls `resume`. All methods are pure functions, which may run under `jax.jit`.

    These defaults make every parameter free.
    """

    fingerprint = ""  # a hash of the data that these functions depend on; the processes of a run compare it

    def enter(self, params: Tree) -> Tree:
        """The parameters before the stage's first step, from those at the end of the stage before."""
        return params

    def split(self, params: Tree, rng: jax.Array) -> tuple[Tree, Tree]:
        """(free, fixed) for these parameters. `rng` draws numbers that parameters do not determine."""
        return params, {}

    def params(self, free: Tree, fixed: Tree) -> Tree:
        """The parameters that the model computes with. Pure and differentiable in `free`."""
        return free

    def axes(self, axes: Tree) -> tuple[Tree, Tree]:
        """Logical axes of (free, fixed), from those of the parameters: a tuple of names in place of each array."""
        return axes, {}

    def after_update(self, free: Tree, rate: jax.Array) -> Tree:
        """The free numbers after an update at this learning rate. A parametrization may decay them here itself."""
        return free

    def hidden(self, free: Tree, fixed: Tree) -> dict[str, Tree]:
        """Numbers that cannot be recovered from the parameters. A checkpoint holds them too; {} = there are none."""
        return {}

    def resume(self, params: Tree, hidden: dict[str, Tree]) -> tuple[Tree, Tree]:
        """(free, fixed) from a checkpoint, bit by bit as they were when it was written."""
        import jax

        return self.split(params, jax.random.key(0))


class Parametrization:
    """Plain values that gin fills. `bind` turns them into functions for one model. The default trains everything."""

    def bind(self, model: Model, corpus: Corpus | None) -> Coordinates:
        """The coordinates of a model.

        Args:
          model: without parameters; `model.shapes` and `model.logical_axes()` may be read.
          corpus: the run's data; None = only shapes matter, as in checks before data is prepared.

        Raises:
          UserError: the model or the corpus lacks something that this parametrization needs.
        """
        return Coordinates()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Everything(Parametrization):
    """Every parameter trains."""
