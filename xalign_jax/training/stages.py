"""From a recipe to what each step reads: checks, prepared data, and feeds with cursors that run on across stages."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from xalign_jax.data import corpus as data
from xalign_jax.data.store import store
from xalign_jax.data.text.files import read_lines, resolve
from xalign_jax.data.text.readers import languages_of
from xalign_jax.data.tokens.vocabulary import blank_tokenizer, clone_name
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Objective, Probe, ProbedRun
from xalign_jax.models.model import Model
from xalign_jax.recipe import Recipe, Stage, Stream
from xalign_jax.training.state import Layout

LOGGED = ("loss", "tokens", "perf")  # first parts of columns that belong to no stream


@dataclasses.dataclass(frozen=True)
class StepFeed:
    """A stream's feed with its place in the run: `rows(step, row_slice)` is a pure function of the step.

    Attributes:
      count: rows per step.
      first_step, first_row: the stage's first step and the cursor there.
      stride: rows that the stage's streams of this cursor read in a step.
    """

    feed: Any
    count: int
    first_step: int
    first_row: int
    stride: int

    def batch(self, step: int, row_slice: slice) -> dict[str, np.ndarray]:
        """Rows `row_slice` of the global batch of update `step` (counted from 0 over all stages)."""
        return self.feed.batch(self.first_row + (step - self.first_step) * self.stride, row_slice)


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage, the steps [first_step, last_step) it owns, and its streams' feeds by name."""

    stage: Stage
    first_step: int
    last_step: int
    feeds: dict[str, StepFeed]


def check(recipe: Recipe) -> None:
    """Check the recipe for errors that need no data: preparing data may take hours.

    Raises:
      UserError: naming the gin binding.
    """
    if not recipe.stages:
        raise UserError("Recipe.stages is empty")
    _check_names(recipe)
    for stage in recipe.stages:
        _check_stage(recipe, stage)
    for mixture in mixtures(recipe):
        _check_languages(recipe, mixture)
    if recipe.facts is not None and recipe.lexicon is None:
        raise UserError("Recipe.facts needs Recipe.lexicon: facts are made of dictionary words")
    for before, stage in itertools.pairwise(recipe.stages):
        if stage.keep_optimizer and stage.parametrization != before.parametrization:
            raise UserError(
                f"{stage.name}/Stage.keep_optimizer: the moments of {before.name} belong to another Stage.parametrization; "
                "bind them alike or start afresh"
            )


def _check_stage(recipe: Recipe, stage: Stage) -> None:
    """Streams that fit the model and the recipe's lexicon, probes that fit the model."""
    if not stage.streams:
        raise UserError(f"{stage.name}/Stage.streams is empty")
    for stream in stage.streams:
        if stream.feed.length > recipe.model.max_length:
            raise UserError(
                f"{stream.name}: sequences of {stream.feed.length} tokens are longer than the model's "
                f"max_length = {recipe.model.max_length}"
            )
        stream.feed.check(stream.mixture, recipe.lexicon is not None)
    for probe in stage.probes:
        probe.check_model(recipe.model)


def _check_languages(recipe: Recipe, mixture: store.Mixture) -> None:
    """Rates and languages must be the mixture's, as far as the names of its tasks tell."""
    languages = languages_of(mixture.tasks)
    if languages is None:
        return
    if lacking := [language for language in mixture.languages if language not in languages]:
        raise UserError(f"Mixture.languages names {lacking[0]!r}; the text is in {', '.join(sorted(languages))}")
    read = sorted(set(mixture.languages) or languages)
    members = [clone_name(base, k) for base in read for k in range(recipe.vocabulary.clones + 1)]
    members += [data.FACTS] if recipe.facts is not None else []
    if unknown := [name for name, _ in mixture.rates if name not in members]:
        raise UserError(
            f"Mixture.rates names {unknown[0]!r}, which this mixture lacks; members: {', '.join(members) or 'none'}"
        )


def _check_names(recipe: Recipe) -> None:
    """Names are gin's scopes. A stream of several stages (it carries its state along) has one objective and one feed."""
    stages = Counter(stage.name for stage in recipe.stages)
    for stage in recipe.stages:
        for name, times in (stages + Counter(stream.name for stream in stage.streams)).items():
            if times > 1:
                raise UserError(
                    f"Recipe.stages: the name {name!r} is used {times} times; stages and streams need their own"
                )
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(f"Recipe.stages: the name {name!r} is no scope of gin; use letters, digits and _")
    for stream in _streams(recipe):
        if stream.name in LOGGED:
            raise UserError(
                f"{stream.name}/Stream.name: metrics.jsonl has columns {stream.name}/... of its own; rename it"
            )
    known: dict[str, Stream] = {}
    for stream in _streams(recipe):
        other = known.setdefault(stream.name, stream)
        if (stream.objective, stream.feed) != (other.objective, other.feed):
            raise UserError(f"Recipe.stages: two streams are called {stream.name!r}, with another feed or objective")


def check_rows(recipe: Recipe, ways: int, parts: int) -> None:
    """Every stream's rows must split evenly over the mesh's (data, fsdp) devices and the parts of an accumulation."""
    for stream in _streams(recipe):
        if stream.batch_size % (ways * parts):
            among = f"{ways} devices (Runtime.mesh)" + (f" x {parts} parts (Runtime.accumulate)" if parts > 1 else "")
            raise UserError(f"{stream.name}/Stream.batch_size = {stream.batch_size} does not divide over {among}")


def check_batches(stages: list[PlannedStage], model: Model, layouts: list[Layout]) -> None:
    """A stream's batches must have what its objective reads: its loss is evaluated in shapes alone.

    Args:
      layouts: the shapes of each stage's state.
    """
    for planned, known in zip(stages, layouts, strict=True):
        for stream in planned.stage.streams:
            row = planned.feeds[stream.name].batch(planned.first_step, slice(0, 1))
            batch = {
                key: jax.ShapeDtypeStruct((stream.batch_size, *one.shape[1:]), one.dtype) for key, one in row.items()
            }
            own = known.abstract.state.get(stream.name, {})
            try:
                jax.eval_shape(functools.partial(_loss, stream.objective, model), known.abstract_params, own, batch)
            except KeyError as missing:
                objective, feed = type(stream.objective).__name__, type(stream.feed).__name__
                raise UserError(
                    f"{stream.name}/Stream: {objective} reads {missing}, which batches of a {feed} lack; bind another feed"
                ) from None


def _loss(objective: Objective, model: Model, params: Any, state: Any, batch: Any) -> Any:
    """What a step asks of an objective."""
    rng, bound = jax.random.key(0), model.bind(params["model"], params["heads"])
    return objective.count(model, batch, rng), objective.loss(bound, batch, state, rng)


def check_types(stages: list[PlannedStage], model: Model) -> None:
    """No stream may have more languages than its model has token types, and a type must be one language's in all."""
    typed = {
        stream.name: planned.feeds[stream.name].feed.languages
        for planned in stages
        for stream in planned.stage.streams
        if stream.feed.language_types
    }
    for name, languages in typed.items():
        if len(languages) > model.config.types:
            raise UserError(
                f"{name}: its {len(languages)} languages are token types (language_types), but the model has "
                f"{type(model.config).__name__}.types = {model.config.types}"
            )
        first = next(iter(typed))
        if languages != typed[first]:
            raise UserError(
                f"{name}: language_types number {', '.join(languages)} here and {', '.join(typed[first])} in {first}; "
                "bind mixtures of the same languages"
            )


def check_objectives(recipe: Recipe, model: Model) -> None:
    """Let each objective refuse batches of a shape that it cannot take; no data is needed."""
    for stream in _streams(recipe):
        stream.objective.check(model, stream.feed.blank(stream.batch_size))


def check_probes(probes: Iterable[Probe], run: ProbedRun) -> None:
    """Let each probe say what the model or the data lacks."""
    for probe in probes:
        probe.check_model(run.model)
        probe.check(run)


def _streams(recipe: Recipe) -> list[Stream]:
    return [stream for stage in recipe.stages for stream in stage.streams]


def mixtures(recipe: Recipe) -> list[store.Mixture]:
    """The mixtures of all streams, each once."""
    return list(dict.fromkeys(s.mixture for s in _streams(recipe) if s.mixture is not None))


def prepare_data(recipe: Recipe) -> None:
    """Tokenise whatever the recipe reads and no store holds yet (a subprocess; this one stays free of TensorFlow).

    Raises:
      UserError: a text or dictionary that cannot be read; dictionaries are opened before any text is read.
    """
    for path in [] if recipe.lexicon is None else recipe.lexicon.paths:
        next(read_lines(resolve(path if isinstance(path, str) else path[0])))
    tasks = list(dict.fromkeys(task for mixture in mixtures(recipe) for task in mixture.tasks))
    store.prepare(recipe.vocabulary, tasks, recipe.modules)


def load_data(recipe: Recipe) -> data.Corpus:
    """Open the prepared texts, vocabulary, lexicon and facts."""
    return data.load(recipe.vocabulary, recipe.lexicon, recipe.facts, mixtures(recipe))


def blank_data(recipe: Recipe) -> data.Corpus:
    """The recipe's vocabulary and no text, for whoever needs shapes only. Nothing is read but a vocabulary's own file.

    Raises:
      UserError: that file is missing, and the recipe does not say how many rows it needs.
    """
    return data.Corpus(blank_tokenizer(recipe.vocabulary), {}, None, None)


def blank_batches(stage: Stage) -> dict[str, dict[str, np.ndarray]]:
    """A step's batches, by stream, of the shapes and dtypes that its feeds give, without text or memory."""
    return {stream.name: stream.feed.blank(stream.batch_size) for stream in stage.streams}


def step_flops(stage: Stage, model: Model) -> float:
    """FLOPs of a step over all devices, forward and backward: what the objectives' mathematics needs, nothing recomputed."""
    return sum(stream.objective.flops(model, stream.feed.blank(stream.batch_size)) for stream in stage.streams)


def plan(recipe: Recipe, corpus: data.Corpus) -> list[PlannedStage]:
    """Feeds for every stage. The cursor of a (mixture, kind of feed) runs on from stage to stage.

    Streams of a stage that share one take turns, so that what a step reads does not depend on how many steps follow.
    """
    cursors: Counter[tuple[Any, str]] = Counter()
    planned, first = [], 0
    for stage in recipe.stages:
        keys = {stream.name: (stream.mixture, type(stream.feed).__name__) for stream in stage.streams}
        strides: Counter[tuple[Any, str]] = Counter()
        for stream in stage.streams:
            strides[keys[stream.name]] += stream.batch_size
        feeds, turn = {}, cursors.copy()
        for stream in stage.streams:
            key = keys[stream.name]
            feed = stream.feed.build(corpus, stream.mixture, stream.batch_size, recipe.seed)
            feeds[stream.name] = StepFeed(feed, stream.batch_size, first, turn[key], strides[key])
            turn[key] += stream.batch_size
        for key, stride in strides.items():
            cursors[key] += stage.steps * stride
        planned.append(PlannedStage(stage, first, first + stage.steps, feeds))
        first += stage.steps
    return planned
