"""The state of training: a plain pytree, made sharded, carried from stage to stage."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Container
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from xalign_jax.interfaces import Coordinates, Tree
from xalign_jax.models.model import Model, Params
from xalign_jax.parametrizations.base import is_leaf
from xalign_jax.recipe import Stage
from xalign_jax.runtime import sharding
from xalign_jax.runtime.compilation import jit_once


class TrainState(NamedTuple):
    """Everything that changes from step to step; random keys derive from (seed, step, stream) and are not state.

    A `Layout` has the same fields with shapes, or with shardings, in place of the arrays.

    Attributes:
      step: int32 scalar, updates so far over all stages.
      free, fixed: what trains and what stays; the stage's coordinates make parameters from both.
      opt_state: the optimiser's, for `free` alone.
      state: what objectives remember, by stream name.
    """

    step: Tree
    free: Tree
    fixed: Tree
    opt_state: Tree
    state: dict[str, Tree]


class Layout(NamedTuple):
    """Shapes and places of a stage's state and parameters: `abstract` arrays and the shardings `where` they lie."""

    abstract: TrainState
    where: TrainState
    abstract_params: Params
    where_params: Tree


def optimizer(stage: Stage, free_axes: Tree) -> optax.GradientTransformation:
    """The stage's optimiser. Weight decay applies to matrices only."""
    # `axes` is a tuple of names, such as ("layers", "embed", "mlp"). The stacking axis "layers" and the axis of a
    # norm's scale do not count, so that two remaining axes mean a matrix.
    decays = jax.tree.map(lambda axes: sum(a not in ("layers", "norm") for a in axes) > 1, free_axes, is_leaf=is_leaf)
    return stage.optimizer.direction(decays)


def _initial(stage: Stage, model: Model, seed: int) -> tuple[Params, dict[str, Tree]]:
    """(parameters, states of objectives) at their initial values."""
    # A stream's head draws from a key of its name, so that adding a stream leaves the other heads as they were.
    key = jax.random.key(seed)
    heads, states = {}, {}
    for stream in stage.streams:
        stream_key = jax.random.fold_in(key, zlib.crc32(stream.name.encode()))
        own_heads, own_state = stream.objective.init(stream_key, model)
        heads.update(own_heads)
        if own_state:
            states[stream.name] = own_state
    return {"model": model.init(key), "heads": heads}, states


def axes(model: Model, params: Params) -> Tree:
    """Logical axes of {"model", "heads"}. Heads are small: every device holds them whole."""
    heads = jax.tree.map(lambda x: (None,) * x.ndim, params["heads"])
    return {"model": model.logical_axes(), "heads": heads}


@functools.lru_cache(maxsize=8)  # asked for several times a stage, and it traces the initialisation
def layout(stage: Stage, coordinates: Coordinates, model: Model, seed: int, mesh: Mesh) -> Layout:
    """Where a stage's arrays lie on a mesh. Moments lie like the numbers that they belong to."""
    # Shapes: trace the initialisation, the split and the optimiser without computing anything.
    params, states = jax.eval_shape(lambda: _initial(stage, model, seed))
    free, fixed = jax.eval_shape(lambda p: coordinates.split(p, jax.random.key(0)), params)
    params_axes = axes(model, params)
    free_axes, fixed_axes = coordinates.axes(params_axes)
    opt_state = jax.eval_shape(optimizer(stage, free_axes).init, free)

    # Places: logical axes become shardings by the rules of `runtime.sharding`.
    where_free = sharding.parameter_shardings(free_axes, free, mesh)
    whole = sharding.replicated(mesh)
    # The optimiser's tree holds copies of the tree of free numbers (moments) and plain counters. The first take the
    # places of the numbers, the others are whole on every device.
    where_opt = optax.tree_map_params(
        optimizer(stage, free_axes),
        lambda _, own: own,
        opt_state,
        where_free,
        transform_non_params=lambda _: whole,
    )
    # Each objective says how its state lies, such as a queue split over devices.
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
    params: Params | None = None,
    states: dict[str, Tree] | None = None,
    opt_state: Tree = None,
) -> TrainState:
    """The state before the first step of a stage, made sharded.

    Args:
      params: {"model": ..., "heads": ...} to start from, donated. Heads that it lacks are fresh. None: all are fresh.
      states: what objectives of these streams remember; other streams start afresh.
      opt_state: the optimiser's state to continue with; None = a fresh one.
    """
    # Draw whatever was not given, sharded from the start: no device holds more than its part.
    known = layout(stage, coordinates, model, seed, mesh)
    given = {} if params is None else params

    def rest() -> tuple[Tree, dict[str, Tree]]:  # given parameters are neither drawn nor compiled
        drawn, fresh = _initial(stage, model, seed)
        drawn["heads"] = {name: head for name, head in drawn["heads"].items() if name not in given.get("heads", {})}
        return {name: tree for name, tree in drawn.items() if name == "heads" or name not in given}, fresh

    drawn, fresh = jit_once(rest, out_shardings=_rest_places(known, given))()
    # Given and drawn arrays together are the parameters that the stage starts with.
    heads = {name: given.get("heads", {}).get(name, drawn["heads"].get(name)) for name in known.where_params["heads"]}
    whole = {"model": given["model"] if "model" in given else drawn["model"], "heads": heads}

    # The parametrization may change parameters as the stage begins (rows that it is going to tie, say) before it splits
    # them. What it draws depends on the first step, so that two stages of one kind draw differently.
    def enter(params: Params) -> tuple[Tree, Tree]:
        params = _with_copies(stage, model, coordinates.enter(params), drawn["heads"])
        return coordinates.split(params, jax.random.fold_in(jax.random.key(seed), step))

    free, fixed = jit_once(enter, out_shardings=(known.where.free, known.where.fixed), donate_argnums=0)(whole)
    # Fresh moments, made where they will lie.
    if opt_state is None:
        free_axes, _ = coordinates.axes(axes(model, known.abstract_params))
        opt_state = jit_once(optimizer(stage, free_axes).init, out_shardings=known.where.opt_state)(free)
    # States of streams that went before go on; the others are new.
    states = {name: (states or {}).get(name, own) for name, own in fresh.items()}
    return TrainState(jax.device_put(np.int32(step), known.where.step), free, fixed, opt_state, states)


def _with_copies(stage: Stage, model: Model, params: Params, new: Container[str]) -> Params:
    """The parameters, in which those `new` heads that copy others have done so."""
    bound = model.bind(params["model"], params["heads"])
    copies = [stream.objective.copied_heads(bound) for stream in stage.streams]
    heads = {name: head for found in copies for name, head in found.items() if name in new}
    return params | {"heads": params["heads"] | heads}


def _rest_places(known: Layout, given: Params) -> tuple[Tree, Tree]:
    """Shardings of the parameters and states that `begin` draws."""
    heads = {n: where for n, where in known.where_params["heads"].items() if n not in given.get("heads", {})}
    model = {} if "model" in given else {"model": known.where_params["model"]}
    return model | {"heads": heads}, known.where.state


def parameters(coordinates: Coordinates, current: TrainState, where_params: Tree) -> Params:
    """The parameters of a state. No copy is made where free and fixed numbers are parameters themselves."""
    # Without hidden numbers, `params` only merges two trees, which needs no compiled function.
    if not coordinates.hidden(current.free, current.fixed):
        return coordinates.params(current.free, current.fixed)
    return jit_once(coordinates.params, out_shardings=where_params)(current.free, current.fixed)
