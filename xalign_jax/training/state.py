"""The state of training: a plain pytree, made sharded, carried from stage to stage."""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from xalign_jax.interfaces import Coordinates
from xalign_jax.models.model import Model
from xalign_jax.parametrizations.base import is_leaf
from xalign_jax.recipe import Stage
from xalign_jax.runtime import sharding
from xalign_jax.runtime.compilation import jit_once


class TrainState(NamedTuple):
    """Everything that changes from step to step; random keys derive from (seed, step, stream) and are not state.

    Attributes:
      step: int32 scalar, updates so far over all stages.
      free, fixed: what trains and what stays; the stage's coordinates make parameters of them.
      opt_state: the optimiser's, for `free` alone.
      state: what objectives remember, by stream name.
    """

    step: Any
    free: Any
    fixed: Any
    opt_state: Any
    state: Any


class Layout(NamedTuple):
    """Shapes and places of a stage's state and parameters: `abstract` arrays and the shardings `where` they lie."""

    abstract: TrainState
    where: TrainState
    abstract_params: Any
    where_params: Any


def optimizer(stage: Stage, free_axes: Any) -> optax.GradientTransformation:
    """The stage's optimiser, whose weight decay applies to matrices only."""
    decays = jax.tree.map(lambda axes: sum(a not in ("layers", "norm") for a in axes) > 1, free_axes, is_leaf=is_leaf)
    return stage.optimizer.direction(decays)


def _initial(stage: Stage, model: Model, seed: int) -> tuple[Any, dict[str, Any]]:
    """(parameters, states of objectives) at their initial values."""
    key = jax.random.key(seed)
    heads, states = {}, {}
    for stream in stage.streams:
        stream_key = jax.random.fold_in(key, zlib.crc32(stream.name.encode()))
        own_heads, own_state = stream.objective.init(stream_key, model)
        heads.update(own_heads)
        if own_state:
            states[stream.name] = own_state
    return {"model": model.init(key), "heads": heads}, states


def axes(model: Model, params: Any) -> Any:
    """Logical axes of {"model", "heads"}; heads are small and stay whole."""
    heads = jax.tree.map(lambda x: (None,) * x.ndim, params["heads"])
    return {"model": model.logical_axes(), "heads": heads}


@functools.lru_cache(maxsize=8)  # asked for several times a stage, and it traces the initialisation
def layout(stage: Stage, coordinates: Coordinates, model: Model, seed: int, mesh: Mesh) -> Layout:
    """Where a stage's arrays lie on a mesh; moments lie like the numbers that they belong to."""
    params, states = jax.eval_shape(lambda: _initial(stage, model, seed))
    free, fixed = jax.eval_shape(lambda p: coordinates.split(p, jax.random.key(0)), params)
    params_axes = axes(model, params)
    free_axes, fixed_axes = coordinates.axes(params_axes)
    opt_state = jax.eval_shape(optimizer(stage, free_axes).init, free)

    where_free = sharding.parameter_shardings(free_axes, free, mesh)
    whole = sharding.replicated(mesh)
    where_opt = optax.tree_map_params(
        optimizer(stage, free_axes),
        lambda _, own: own,
        opt_state,
        where_free,
        transform_non_params=lambda _: whole,
    )
    where_states = {
        stream.name: sharding.parameter_shardings(stream.objective.state_axes(model, own), own, mesh)
        for stream in stage.streams
        if (own := states.get(stream.name))
    }
    return Layout(
        TrainState(jax.ShapeDtypeStruct((), jnp.int32), free, fixed, opt_state, states),
        TrainState(whole, where_free, sharding.parameter_shardings(fixed_axes, fixed, mesh), where_opt, where_states),
        params,
        sharding.parameter_shardings(params_axes, params, mesh),
    )


def begin(
    stage: Stage,
    coordinates: Coordinates,
    model: Model,
    seed: int,
    mesh: Mesh,
    *,
    step: int = 0,
    params: Any = None,
    states: Any = None,
    opt_state: Any = None,
) -> TrainState:
    """The state before the first step of a stage, made sharded.

    Args:
      params: {"model": ..., "heads": ...} to start from, donated; heads that it lacks, or all if it is None, are fresh.
      states: what objectives of these streams remember; others start afresh.
      opt_state: the optimiser's to go on with; None = a fresh one.
    """
    known = layout(stage, coordinates, model, seed, mesh)
    given = {} if params is None else params

    def rest() -> tuple[Any, dict[str, Any]]:  # parameters that are given are neither drawn nor compiled
        drawn, fresh = _initial(stage, model, seed)
        drawn["heads"] = {name: head for name, head in drawn["heads"].items() if name not in given.get("heads", {})}
        return {name: tree for name, tree in drawn.items() if name == "heads" or name not in given}, fresh

    drawn, fresh = jit_once(rest, out_shardings=_rest_places(known, given))()
    heads = {name: given.get("heads", {}).get(name, drawn["heads"].get(name)) for name in known.where_params["heads"]}
    whole = {"model": given["model"] if "model" in given else drawn["model"], "heads": heads}

    def enter(params: Any) -> tuple[Any, Any]:
        return coordinates.split(coordinates.enter(params), jax.random.fold_in(jax.random.key(seed), step))

    free, fixed = jit_once(enter, out_shardings=(known.where.free, known.where.fixed), donate_argnums=0)(whole)
    if opt_state is None:
        free_axes, _ = coordinates.axes(axes(model, known.abstract_params))
        opt_state = jit_once(optimizer(stage, free_axes).init, out_shardings=known.where.opt_state)(free)
    states = {name: (states or {}).get(name, own) for name, own in fresh.items()}
    return TrainState(jax.device_put(np.int32(step), known.where.step), free, fixed, opt_state, states)


def _rest_places(known: Layout, given: Any) -> tuple[Any, Any]:
    """Shardings of what `begin` draws."""
    heads = {n: where for n, where in known.where_params["heads"].items() if n not in given.get("heads", {})}
    model = {} if "model" in given else {"model": known.where_params["model"]}
    return model | {"heads": heads}, known.where.state


def parameters(coordinates: Coordinates, current: TrainState, where_params: Any) -> Any:
    """The parameters of a state; no copy is made where free and fixed numbers are parameters themselves."""
    if not coordinates.hidden(current.free, current.fixed):
        return coordinates.params(current.free, current.fixed)
    return jit_once(coordinates.params, out_shardings=where_params)(current.free, current.fixed)
