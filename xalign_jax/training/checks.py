"""Whether a recipe can run: each check names the gin binding that is wrong, as early as it can be known.

`check` needs no data, `check_shapes` a mesh and a vocabulary's size, `check_types` and `check_probes` the prepared data.
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
from xalign_jax.data.store import store
from xalign_jax.data.text.readers import languages_of
from xalign_jax.data.tokens.vocabulary import clone_name
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Objective, Probe, ProbedRun, Tree
from xalign_jax.models.model import Model, Params
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.training import state
from xalign_jax.training.stages import PlannedStage, mixtures, streams
from xalign_jax.training.state import Layout

LOGGED = ("loss", "tokens", "perf")  # first parts of columns that belong to no stream


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
    for stream in streams(recipe):
        if stream.name in LOGGED:
            raise UserError(
                f"{stream.name}/Stream.name: metrics.jsonl has columns {stream.name}/... of its own; rename it"
            )
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
    before, layouts = None, []
    for stage in recipe.stages:
        layouts.append(state.layout(stage, stage.parametrization.bind(model, None), model, recipe.seed, mesh))
        own = jax.tree.flatten(layouts[-1].abstract.opt_state)
        if stage.keep_optimizer and own != before:
            raise UserError(
                f"{stage.name}/Stage.keep_optimizer: the stage before has another optimiser or other heads, or there is none"
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
    """Let each objective refuse the shapes of its batches, and evaluate its loss in shapes alone; no data is needed.

    Args:
      layouts: the shapes of each stage's state.

    Raises:
      UserError: the objective says so, or it reads an array that its feed does not give.
    """
    for stage, known in zip(recipe.stages, layouts, strict=True):
        for stream in stage.streams:
            batch, own = stream.feed.blank(stream.batch_size), known.abstract.state.get(stream.name, {})
            try:
                stream.objective.check(model, batch)
                jax.eval_shape(functools.partial(_loss, stream.objective, model), known.abstract_params, own, batch)
            except KeyError as missing:
                objective, feed = type(stream.objective).__name__, type(stream.feed).__name__
                raise UserError(
                    f"{stream.name}/Stream: {objective} reads {missing}, which batches of a {feed} lack; bind another feed"
                ) from None


def _loss(objective: Objective, model: Model, params: Params, state: Tree, batch: Batch) -> tuple:
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


def check_probes(probes: Iterable[Probe], run: ProbedRun) -> None:
    """Let each probe say what the model or the data lacks."""
    for probe in probes:
        probe.check_model(run.model)
        probe.check(run)
