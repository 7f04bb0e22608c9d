"""The state with which training goes on: restored from a checkpoint, or made at the beginning of a stage."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import grain
import jax
import numpy as np

from xalign_jax.interfaces import Tree
from xalign_jax.recipe import as_json, located
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import Checkpoints, abstract
from xalign_jax.training import state
from xalign_jax.training.build import Built
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState
from xalign_jax.training.step import stream_key
from xalign_jax.training.warm_start import initial_params


def start(run: Built, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state of the newest whole checkpoint, else the first stage's, and the number of the stage that it belongs to."""
    newest = checkpoints.newest(functools.partial(_restored, run, checkpoints))
    return (enter(run, 0), 0) if newest is None else newest[1]


def save(run: Built, planned: PlannedStage, current: TrainState, at: int, checkpoints: Checkpoints) -> None:
    """Start saving a state of a stage; `_restored` reads it back bit by bit."""
    bound, hidden = run.bound(planned.stage, current), _hidden(run, planned, current)
    rest = {"opt_state": current.opt_state, "state": current.state, **hidden}
    about = {"stage": planned.stage.name, "recipe": as_json(run.recipe), "located": as_json(located(run.recipe))}
    checkpoints.save(at, {"model": bound.params, "heads": bound.heads}, rest, about)


def _restored(run: Built, checkpoints: Checkpoints, at: int) -> tuple[TrainState, int]:
    """The state at a checkpoint and the number of its stage."""
    number = [planned.stage.name for planned in run.stages].index(checkpoints.about(at)["stage"])
    planned = run.stages[number]
    known = run.layout(planned.stage)
    shapes, where = (
        {"opt_state": own.opt_state, "state": own.state, **_hidden(run, planned, own)}
        for own in (known.abstract, known.where)
    )
    params = abstract(known.abstract_params, known.where_params)
    params, rest = checkpoints.restore(at, params, abstract(shapes, where))
    free, fixed = run.coordinates[planned.stage.name].resume(params, rest.get("hidden", {}))
    step = jax.device_put(np.int32(at), known.where.step)
    return TrainState(step, free, fixed, rest["opt_state"], rest["state"]), number


def _hidden(run: Built, planned: PlannedStage, current: TrainState) -> dict[str, Tree]:
    """Numbers that parameters do not show, if there are any: Orbax restores no empty tree."""
    found = run.coordinates[planned.stage.name].hidden(current.free, current.fixed)
    return {"hidden": found} if found else {}


def enter(run: Built, number: int, previous: TrainState | None = None) -> TrainState:
    """The state before the first step of stage `number`; `previous` is the end of the stage before."""
    planned = run.stages[number]
    stage, params, states, opt_state = planned.stage, None, {}, None
    if previous is not None:
        bound = run.bound(run.stages[number - 1].stage, previous)
        params, states = {"model": bound.params, "heads": bound.heads}, previous.state
        opt_state = previous.opt_state if stage.keep_optimizer else None
    elif run.recipe.init_from is not None:
        params = initial_params(run.recipe, run.model, run.layout(stage), run.corpus, run.mesh)
    current = state.begin(
        stage,
        run.coordinates[stage.name],
        run.model,
        run.recipe.seed,
        run.mesh,
        step=planned.first_step,
        params=params,
        states=states,
        opt_state=opt_state,
    )
    return _prefilled(run, planned, current, known=set(states))


def _prefilled(run: Built, planned: PlannedStage, current: TrainState, known: set[str]) -> TrainState:
    """Objectives fill their new states (not those `known`) from the parameters and their streams' first batches."""
    states = dict(current.state)
    for stream in planned.stage.streams:
        if stream.name in states and stream.name not in known:
            steps = batches(run, planned, planned.first_step, sys.maxsize, (stream.name,))
            key = stream_key(run.recipe.seed, current.step, f"{stream.name} prefill")
            bound = run.bound(planned.stage, current)
            with jax.set_mesh(run.mesh):
                own = (batch[stream.name] for batch in steps)
                filled = stream.objective.prefill(bound, states[stream.name], own, key)
            states[stream.name] = jax.device_put(filled, run.layout(planned.stage).where.state[stream.name])
    return current._replace(state=states)


def batches(run: Built, planned: PlannedStage, first: int, last: int, names: Iterable[str]) -> Iterator[Any]:
    """Global batches of updates [first, last) (counted from 0) by stream name, made ahead by Grain's threads."""
    feeds = {name: planned.feeds[name] for name in names}

    def at_step(at: int) -> dict[str, dict[str, jax.Array]]:
        return {
            name: sharding.global_batch(functools.partial(feed.batch, at), feed.count, run.mesh)
            for name, feed in feeds.items()
        }

    steps = grain.MapDataset.range(first, last).map(at_step)
    return iter(steps.to_iter_dataset(grain.ReadOptions(1, run.runtime.prefetch)))
