"""Whether a recipe can run. Each check names the gin binding that is wrong, as early as it can be known.

`check` needs no data. `check_shapes` needs a mesh and a vocabulary's size. `check_types` and `check_probes` need the
prepared data.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import jax
from jax.sharding import Mesh

from xalign_jax.data import corpus as data
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.text.readers import fields_of, languages_of
from xalign_jax.data.tokens.vocabulary import clone_index, clone_name
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Feed, Objective, Probe, ProbedRun, Tree
from xalign_jax.models.model import Model, Params
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.training import state, teachers
from xalign_jax.training.stages import PlannedStage, mixtures, streams
from xalign_jax.training.state import Layout

LOGGED = ("loss", "tokens", "perf")  # first parts of columns that belong to no stream


def check(recipe: Recipe) -> None:
    """Check the recipe for errors that need no data: preparing data may take hours.

    Raises:
      UserError: the message names the gin binding.
    """
    if not recipe.stages:
        raise UserError("Recipe.stages is empty")
    # Names first: every other message refers to stages and streams by their names.
    _check_names(recipe)
    for stage in recipe.stages:
        _check_stage(recipe, stage)
    for mixture in mixtures(recipe):
        _check_languages(recipe, mixture)
    if recipe.facts is not None and recipe.lexicon is None:
        raise UserError("Recipe.facts needs Recipe.lexicon: facts are made of dictionary words")
    # An optimiser's moments belong to the free numbers of one parametrization.
    for before, stage in itertools.pairwise(recipe.stages):
        if stage.keep_optimizer and stage.parametrization != before.parametrization:
            raise UserError(
                f"{stage.name}/Stage.keep_optimizer: the moments of {before.name} belong to another "
                "Stage.parametrization; bind them alike or start afresh"
            )


def _check_stage(recipe: Recipe, stage: Stage) -> None:
    """Check that streams fit the model and the recipe's lexicon, and that probes fit the model."""
    if not stage.streams:
        raise UserError(f"{stage.name}/Stage.streams is empty")
    for stream in stage.streams:
        # Rows longer than the model's positions.
        if stream.feed.length > recipe.model.max_length:
            raise UserError(
                f"{stream.name}: sequences of {stream.feed.length} tokens are longer than the model's "
                f"max_length = {recipe.model.max_length}"
            )
        # Each feed knows which data it reads, each probe which models it can measure.
        stream.feed.check(stream.mixture, recipe.lexicon is not None)
        if stream.mixture is not None:
            _check_fields(stream.name, stream.feed, stream.mixture)
        # Each objective may name other models, whose parameters its state holds.
        teachers.check_model(stream, recipe.model)
    for probe in stage.probes:
        probe.check_model(recipe.model)


def _check_fields(name: str, feed: Feed, mixture: Mixture) -> None:
    """Check that tasks declare the fields that a stream reads, as far as their names say which they declare."""
    asked = {f"{type(feed).__name__} reads": feed.fields, "Mixture.where names": [field for field, _ in mixture.where]}
    for task in mixture.tasks:
        declared = fields_of(task)
        for who, fields in asked.items():
            for field in fields if declared is not None else ():
                if field not in (declared or ()):
                    raise UserError(
                        f"{name}: {who} the field {field!r}, which the task {task!r} does not declare "
                        f"({', '.join(declared or ()) or 'it declares none'}); add {field}=KEY to its name"
                    )


def _check_languages(recipe: Recipe, mixture: Mixture) -> None:
    """Check that rates and languages name members of the mixture, as far as the names of its tasks say which exist."""
    languages = languages_of(mixture.tasks)
    # seqio tasks say nothing about their languages before they are prepared.
    if languages is None:
        return
    if lacking := [language for language in mixture.languages if language not in languages]:
        raise UserError(f"Mixture.languages names {lacking[0]!r}; the text is in {', '.join(sorted(languages))}")
    # The members of a mixture, as `Corpus.members` will find them: each language, its clones, and the facts.
    read = sorted(set(mixture.languages) or languages)
    members = [clone_name(base, k) for base in read for k in range(recipe.vocabulary.clones + 1)]
    members += [data.FACTS] if recipe.facts is not None else []
    # A language of one source is looked for in that source.
    for name in mixture.named:
        source, colon, language = name.rpartition(":")
        there = languages_of([mixture.task_of(source)]) if colon else None
        if there is not None and (language == "*" or clone_index(language)[0] in there):
            members.append(name)
    if unknown := [name for name in mixture.named if name not in members]:
        raise UserError(
            f"Mixture.rates names {unknown[0]!r}, which this mixture lacks; members: {', '.join(members) or 'none'}"
        )


def _check_names(recipe: Recipe) -> None:
    """Check names, which are scopes in gin.

    A stream of several stages carries its state along, so it must have one objective and one feed.
    """
    stages = Counter(stage.name for stage in recipe.stages)
    # Within a stage, no stream may be called like another one or like any stage.
    for stage in recipe.stages:
        for name, times in (stages + Counter(stream.name for stream in stage.streams)).items():
            if times > 1:
                raise UserError(
                    f"Recipe.stages: the name {name!r} is used {times} times; stages and streams need their own"
                )
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(f"Recipe.stages: the name {name!r} is no scope of gin; use letters, digits and _")
    # A stream's metrics are columns that begin with its name.
    for stream in streams(recipe):
        if stream.name in LOGGED:
            raise UserError(
                f"{stream.name}/Stream.name: metrics.jsonl has columns {stream.name}/... of its own; rename it"
            )
    # Streams of one name in several stages are one stream.
    known: dict[str, Stream] = {}
    for stream in streams(recipe):
        other = known.setdefault(stream.name, stream)
        if (stream.objective, stream.feed) != (other.objective, other.feed):
            raise UserError(f"Recipe.stages: two streams are called {stream.name!r}, with another feed or objective")


def check_shapes(recipe: Recipe, runtime: Runtime, model: Model, mesh: Mesh) -> None:
    """Check the shapes of batches and states, before any data is prepared.

    Args:
      model: as large as the recipe's vocabulary is going to be.
    """
    _check_rows(recipe, sharding.batch_ways(mesh), runtime.accumulate)
    # Shapes alone: parametrizations get no corpus, and nothing is allocated.
    before, layouts = None, []
    for stage in recipe.stages:
        layouts.append(state.layout(stage, stage.parametrization.bind(model, None), model, recipe.seed, mesh))
        # (leaves, structure): a kept optimiser state must have the same arrays in the same places.
        own = jax.tree.flatten(layouts[-1].abstract.opt_state)
        if stage.keep_optimizer and own != before:
            raise UserError(
                f"{stage.name}/Stage.keep_optimizer: the stage before has another optimiser or other heads, "
                "or there is none"
            )
        before = own
    _check_objectives(recipe, model, layouts)


def _check_rows(recipe: Recipe, ways: int, parts: int) -> None:
    """Every stream's rows must split evenly over the mesh's (data, fsdp) devices and the parts of an accumulation."""
    for stream in streams(recipe):
        if stream.batch_size % (ways * parts):
            among = f"{ways} devices (Runtime.mesh)" + (f" x {parts} parts (Runtime.accumulate)" if parts > 1 else "")
            raise UserError(f"{stream.name}/Stream.batch_size = {stream.batch_size} does not divide over {among}")


def _check_objectives(recipe: Recipe, model: Model, layouts: Sequence[Layout]) -> None:
    """Let each objective refuse the shapes of its batches, then trace its loss in shapes alone. No data is needed.

    Args:
      layouts: the shapes of each stage's state.

    Raises:
      UserError: the objective refuses, or it reads an array that its feed does not give.
    """
    for stage, known in zip(recipe.stages, layouts, strict=True):
        for stream in stage.streams:
            # A blank batch has the shapes and dtypes of real ones.
            batch, own = stream.feed.blank(stream.batch_size), known.abstract.state.get(stream.name, {})
            try:
                stream.objective.check(model, batch)
                jax.eval_shape(functools.partial(_loss, stream.objective, model), known.abstract_params, own, batch)
            except KeyError as missing:
                objective, feed = type(stream.objective).__name__, type(stream.feed).__name__
                raise UserError(
                    f"{stream.name}/Stream: {objective} reads {missing}, which batches of a {feed} lack; "
                    "bind another feed"
                ) from None


def _loss(objective: Objective, model: Model, params: Params, state: Tree, batch: Batch) -> tuple:
    """The calls that a step makes to an objective, for `jax.eval_shape`."""
    rng, bound = jax.random.key(0), model.bind(params["model"], params["heads"])
    return objective.count(model, batch, rng), objective.loss(bound, batch, state, rng)


def check_types(stages: list[PlannedStage], model: Model) -> None:
    """Check that streams have no more languages than the model has token types, and that all number languages alike."""
    # Stream -> its languages in the order of their types, for streams whose batches have token types.
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
        # Type k must mean the same language everywhere, because the model has one embedding for it.
        first = next(iter(typed))
        if languages != typed[first]:
            raise UserError(
                f"{name}: language_types number {', '.join(languages)} here and {', '.join(typed[first])} in {first}; "
                "bind mixtures of the same languages"
            )


def check_data(stages: list[PlannedStage], model: Model) -> None:
    """Let each objective refuse the text that it is going to read, by its first rows."""
    for planned in stages:
        for stream in planned.stage.streams:
            feed = planned.feeds[stream.name]
            stream.objective.check_data(model, functools.partial(feed.batch, feed.first_step, slice(0, 2)))


def check_probes(probes: Iterable[Probe], run: ProbedRun) -> None:
    """Let each probe say what the model or the data lacks."""
    for probe in probes:
        probe.check_model(run.model)
        probe.check(run)
