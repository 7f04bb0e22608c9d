"""The state that training continues from: restored from a checkpoint, or made at the beginning of a stage."""

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
from xalign_jax.training import state, teachers
from xalign_jax.training.build import Built
from xalign_jax.training.stages import PlannedStage
from xalign_jax.training.state import TrainState
from xalign_jax.training.step import stream_key
from xalign_jax.training.tracing import waits
from xalign_jax.training.warm_start import initial_params


def start(run: Built, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """(state, number of its stage) to continue from: the newest whole checkpoint's, else the first stage's."""
    newest = checkpoints.newest(functools.partial(_restored, run, checkpoints))
    return (enter(run, 0), 0) if newest is None else newest[1]


def save(run: Built, planned: PlannedStage, current: TrainState, at: int, checkpoints: Checkpoints) -> None:
    """Start saving the state of a stage at step `at`. `_restored` reads it back bit by bit."""
    # Parameters are saved as the model computes with them, whatever the parametrization, so that evaluation and export
    # need not know it. Whatever parameters do not show is saved beside them.
    bound, hidden = run.bound(planned.stage, current), _hidden(run, planned, current)
    rest = {"opt_state": current.opt_state, "state": current.state, **hidden}
    about = {"stage": planned.stage.name, "recipe": as_json(run.recipe), "located": as_json(located(run.recipe))}
    checkpoints.save(at, {"model": bound.params, "heads": bound.heads}, rest, about)


def _restored(run: Built, checkpoints: Checkpoints, at: int) -> tuple[TrainState, int]:
    """The state at the checkpoint of step `at`, and the number of its stage."""
    # The checkpoint says by name which stage it belongs to. The stage's layout says which arrays to expect, and where
    # they go on this mesh, which may be another one than the mesh that saved them.
    number = [planned.stage.name for planned in run.stages].index(checkpoints.about(at)["stage"])
    planned = run.stages[number]
    known = run.layout(planned.stage)
    shapes, where = (
        {"opt_state": own.opt_state, "state": own.state, **_hidden(run, planned, own)}
        for own in (known.abstract, known.where)
    )
    params = abstract(known.abstract_params, known.where_params)
    params, rest = checkpoints.restore(at, params, abstract(shapes, where))
    # Parameters become free and fixed numbers again.
    free, fixed = run.coordinates[planned.stage.name].resume(params, rest.get("hidden", {}))
    step = jax.device_put(np.int32(at), known.where.step)
    return TrainState(step, free, fixed, rest["opt_state"], rest["state"]), number


def _hidden(run: Built, planned: PlannedStage, current: TrainState) -> dict[str, Tree]:
    """Numbers that parameters do not show. Without any there is no entry, because Orbax restores no empty tree."""
    found = run.coordinates[planned.stage.name].hidden(current.free, current.fixed)
    return {"hidden": found} if found else {}


def enter(run: Built, number: int, previous: TrainState | None = None) -> TrainState:
    """The state before the first step of stage `number`; `previous` is the state at the end of the stage before."""
    planned = run.stages[number]
    stage, params, states, opt_state = planned.stage, None, {}, None
    # Parameters come from the stage before, from another run, or from the seed. States of objectives and, if the stage
    # wants it, the optimiser's come from the stage before only.
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
    """Let objectives fill their new states, all but the `known` ones, from the parameters and the first batches."""
    states = dict(current.state)
    for stream in planned.stage.streams:
        if stream.name in states and stream.name not in known:
            # The batches begin where the stage does, and an objective takes as many as it needs. The key has a name of
            # its own: the first step must not draw the same numbers again.
            steps = batches(run, planned, planned.first_step, sys.maxsize, (stream.name,))
            key = stream_key(run.recipe.seed, current.step, f"{stream.name} prefill")
            bound, where = run.bound(planned.stage, current), run.layout(planned.stage).where.state[stream.name]
            before = teachers.filled(stream, run.model, states[stream.name], where, run.mesh)
            with jax.set_mesh(run.mesh):
                own = (batch[stream.name] for batch in steps)
                filled = stream.objective.prefill(bound, before, own, key)
            # The filled state returns to where the stage's compiled step expects it.
            states[stream.name] = jax.device_put(filled, where)
    return current._replace(state=states)


def batches(run: Built, planned: PlannedStage, first: int, last: int, names: Iterable[str]) -> Iterator[Any]:
    """Global batches of updates [first, last) (counted from 0) by stream name, made ahead by Grain's threads."""
    # Each process makes only the rows that its own devices hold.
    feeds = {name: planned.feeds[name] for name in names}

    def at_step(at: int) -> dict[str, dict[str, jax.Array]]:
        return {
            name: sharding.global_batch(functools.partial(feed.batch, at), feed.count, run.mesh)
            for name, feed in feeds.items()
        }

    # A dataset of step numbers, mapped to batches: Grain runs the map ahead in `prefetch` threads, and keeps the order.
    steps = grain.MapDataset.range(first, last).map(at_step)
    return waits(steps.to_iter_dataset(grain.ReadOptions(1, run.runtime.prefetch)))
