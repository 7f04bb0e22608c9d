"""From a recipe to what each step reads: prepared data, and feeds whose cursors continue across stages."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from xalign_jax.data import corpus as data
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store import store
from xalign_jax.data.text.lines import read_lines
from xalign_jax.data.tokens.tokenizer import blank_tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batches
from xalign_jax.models.model import Model
from xalign_jax.recipe import Recipe, Stage, Stream, resolve


@dataclasses.dataclass(frozen=True)
class StepFeed:
    """A stream's feed with its place in the run: `batch(step, row_slice)` is a pure function of the step.

    Attributes:
      count: rows per step.
      first_step, first_row: the stage's first step and the cursor there.
      stride: rows that all streams of the stage with this cursor read in a step.
    """

    feed: Batches
    count: int
    first_step: int
    first_row: int
    stride: int

    def row(self, step: int) -> int:
        """The first row of the global batch of update `step`."""
        return self.first_row + (step - self.first_step) * self.stride

    def drawn(self, steps: Sequence[int]) -> dict[str, int]:
        """How many texts of each source and language the global batches of some updates hold; {} for one source."""
        first = np.array([self.row(step) for step in steps], np.int64)
        return self.feed.drawn((first[:, None] + np.arange(self.count)).ravel())

    def batch(self, step: int, row_slice: slice) -> dict[str, np.ndarray]:
        """Rows `row_slice` of the global batch of update `step` (counted from 0 over all stages)."""
        return self.feed.batch(self.row(step), row_slice)


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage, the steps [first_step, last_step) that it owns, and its streams' feeds by name."""

    stage: Stage
    first_step: int
    last_step: int
    feeds: dict[str, StepFeed]


def streams(recipe: Recipe) -> list[Stream]:
    """The streams of all stages, in order."""
    return [stream for stage in recipe.stages for stream in stage.streams]


def mixtures(recipe: Recipe) -> list[Mixture]:
    """The mixtures of all streams, each once."""
    return list(dict.fromkeys(s.mixture for s in streams(recipe) if s.mixture is not None))


def prepare_data(recipe: Recipe, pipeline: Sequence[str] = ()) -> None:
    """Tokenise everything that the recipe reads and no store holds yet.

    A subprocess does the work, so that this one stays free of TensorFlow.

    Args:
      pipeline: as in `store.prepare`.
    Raises:
      UserError: a text or dictionary cannot be read. Dictionaries are opened before any text is read.
    """
    # One line of each dictionary is enough to find a missing file now and not after hours of tokenising.
    for path in [] if recipe.lexicon is None else recipe.lexicon.paths:
        next(read_lines(resolve(path if isinstance(path, str) else path[0])))
    tasks = list(dict.fromkeys(task for mixture in mixtures(recipe) for task in mixture.tasks))
    store.prepare(store.Texts(recipe.vocabulary, tasks, cleaning=recipe.cleaning), recipe.modules, pipeline)


def load_data(recipe: Recipe) -> data.Corpus:
    """Open the prepared texts, vocabulary, lexicon and facts."""
    return data.load(recipe.vocabulary, recipe.lexicon, recipe.facts, mixtures(recipe), cleaning=recipe.cleaning)


def blank_data(recipe: Recipe) -> data.Corpus:
    """The recipe's vocabulary and no text, for callers that need shapes only. Only a vocabulary's own file is read.

    Raises:
      UserError: the file is missing, and the recipe does not say how many rows it needs.
    """
    return data.Corpus(blank_tokenizer(recipe.vocabulary), {}, None, None)


def blank_batches(stage: Stage) -> dict[str, dict[str, np.ndarray]]:
    """A step's batches, by stream, with the shapes and dtypes of its feeds but without text."""
    return {stream.name: stream.feed.blank(stream.batch_size) for stream in stage.streams}


def step_flops(stage: Stage, model: Model) -> float:
    """FLOPs of a step over all devices, forward and backward: what the mathematics needs, with nothing recomputed."""
    return sum(stream.objective.flops(model, stream.feed.blank(stream.batch_size)) for stream in stage.streams)


def plan(recipe: Recipe, corpus: data.Corpus) -> list[PlannedStage]:
    """Feeds for every stage. The cursor of a (mixture, kind of feed) continues from stage to stage.

    Streams of a stage that share a cursor take turns, so that a step reads the same rows however many steps follow.
    """
    paces = _paces(recipe)
    # Cursor -> rows read before the stage, and the number of the stage's first step.
    cursors: Counter[tuple[Any, str]] = Counter()
    planned, first = [], 0
    for stage in recipe.stages:
        # A cursor belongs to what is read and how: two streams with the same key continue one sequence of rows.
        keys = {stream.name: _cursor(stream) for stream in stage.streams}
        # Rows that a step reads from each cursor, over all streams of the stage.
        strides = _strides(stage)
        # `turn` is where a stream begins within the first step: after the streams before it in the stage.
        feeds, turn = {}, cursors.copy()
        for stream in stage.streams:
            key = keys[stream.name]
            # Gin files give the points of schedules in steps, feeds know rows. All feeds of a cursor see the same rows.
            mixture = stream.mixture and stream.mixture.in_rows(functools.partial(_first_row, paces[key]))
            feed = stream.feed.build(corpus, mixture, stream.batch_size, recipe.seed)
            feeds[stream.name] = StepFeed(feed, stream.batch_size, first, turn[key], strides[key])
            turn[key] += stream.batch_size
            _check_end(stage, stream.name, feed, cursors[key], strides[key])
        # The stage moves each cursor by all rows of its steps.
        for key, stride in strides.items():
            cursors[key] += stage.steps * stride
        planned.append(PlannedStage(stage, first, first + stage.steps, feeds))
        first += stage.steps
    return planned


def _check_end(stage: Stage, stream: str, feed: Batches, first_row: int, stride: int) -> None:
    """Raise UserError if `Mixture.epochs` leaves a stage without text."""
    if feed.ends is not None and first_row + stage.steps * stride > feed.ends:
        steps = max(0, feed.ends - first_row) // stride
        raise UserError(
            f"stream {stream}: after {steps:,} of the {stage.steps:,} steps of stage {stage.name}, Mixture.epochs leaves "
            "no text; raise it, add text, or run fewer steps"
        )


def _cursor(stream: Stream) -> tuple[Any, str]:
    """What is read and how. Streams of the same cursor continue one sequence of rows."""
    return stream.mixture, type(stream.feed).__name__


def _strides(stage: Stage) -> Counter[tuple[Any, str]]:
    """Cursor -> rows that a step of the stage reads from it, over all streams."""
    strides: Counter[tuple[Any, str]] = Counter()
    for stream in stage.streams:
        strides[_cursor(stream)] += stream.batch_size
    return strides


def _paces(recipe: Recipe) -> dict[tuple[Any, str], list[tuple[int, int]]]:
    """Cursor -> (steps, rows a step) of each stage that reads it, in order."""
    paces: dict[tuple[Any, str], list[tuple[int, int]]] = {}
    for stage in recipe.stages:
        for cursor, stride in _strides(stage).items():
            paces.setdefault(cursor, []).append((stage.steps, stride))
    return paces


def _first_row(paces: Sequence[tuple[int, int]], step: int) -> int:
    """The first row of the cursor at its step number `step`. After its last stage it would go on at the same pace."""
    row = 0
    for steps, stride in paces:
        row += min(step, steps) * stride
        step -= min(step, steps)
    return row + step * paces[-1][1]


def lowered(planned: Sequence[PlannedStage]) -> list[str]:
    """A line for each stream whose languages `Mixture.cap` lowers, for the log of a run."""
    found = {name: feed.feed.lowered for stage in planned for name, feed in stage.feeds.items() if feed.feed.lowered}
    return [f"stream {name}: Mixture.cap lowers {', '.join(phrases)}" for name, phrases in found.items()]
