"""The state of training: a plain pytree, made sharded, carried from stage to stage."""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from xalign_jax.errors import UserError
from xalign_jax.models.model import Model
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime import sharding
from xalign_jax.runtime.compilation import jit_once


class TrainState(NamedTuple):
    """Everything that changes from step to step; random keys derive from (seed, step, stream) and are not state.

    step counts updates over all stages (int32 scalar); params = {"model": ..., "heads": {name: ...}}; memory holds
    what objectives remember, by stream name.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    memory: Any


def optimizer(stage: Stage, model: Model, params: Any) -> optax.GradientTransformation:
    """The stage's optimiser: decay on matrices only, no update where `stage.train` does not match."""
    decay = jax.tree.map(
        lambda axes: sum(a not in ("layers", "norm") for a in axes) > 1, _axes(model, params), is_leaf=_leaf
    )
    direction = stage.optimizer.direction(decay)
    if not stage.train:
        return direction
    return optax.multi_transform({"train": direction, "keep": optax.set_to_zero()}, _labels(stage, params))


def _labels(stage: Stage, params: Any) -> Any:
    found = set()

    def label(path: tuple, _: Any) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        matching = [pattern for pattern in stage.train if re.search(pattern, name)]
        found.update(matching)
        return "train" if matching else "keep"

    labels = jax.tree_util.tree_map_with_path(label, params)
    for pattern in stage.train:
        if pattern not in found:
            raise UserError(f"{stage.name}/Stage.train: {pattern!r} matches no parameter, such as model/layers/...")
    return labels


def _masked(node: Any) -> bool:
    """Where the moments of a parameter that does not train would be."""
    return isinstance(node, optax.MaskedNode)


def _leaf(node: Any) -> bool:
    return isinstance(node, tuple) and all(axis is None or isinstance(axis, str) for axis in node)


def _axes(model: Model, params: Any) -> Any:
    """Logical axes of {"model", "heads"}; heads are small and stay whole."""
    heads = jax.tree.map(lambda x: (None,) * x.ndim, params["heads"])
    return {"model": model.logical_axes(), "heads": heads}


def _memory_axes(stream: Stream, model: Model, memory: Any) -> Any:
    """Logical axes of what an objective remembers; whole on every device unless it says otherwise."""
    if hasattr(stream.objective, "memory_axes"):
        return stream.objective.memory_axes(model, memory)
    return jax.tree.map(lambda x: (None,) * x.ndim, memory)


def _fresh(stage: Stage, model: Model, seed: int) -> TrainState:
    """A state for the first step of `stage`, everything at its initial value."""
    key = jax.random.key(seed)
    heads, memory = {}, {}
    for stream in stage.streams:
        stream_key = jax.random.fold_in(key, zlib.crc32(stream.name.encode()))
        own_heads, own_memory = stream.objective.init(stream_key, model)
        heads.update(own_heads)
        if own_memory:
            memory[stream.name] = own_memory
    params = {"model": model.init(key), "heads": heads}
    opt_state = optimizer(stage, model, params).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, memory)


@functools.lru_cache(maxsize=8)  # asked for several times a stage, and it traces the initialisation
def shardings(stage: Stage, model: Model, seed: int, mesh: Mesh) -> tuple[TrainState, Any]:
    """(abstract state, shardings) of a stage; optimiser moments lie like the parameters they belong to."""
    abstract = jax.eval_shape(lambda: _fresh(stage, model, seed))
    params = sharding.parameter_shardings(_axes(model, abstract.params), abstract.params, mesh)
    whole = sharding.replicated(mesh)
    opt_state = optax.tree_map_params(
        optimizer(stage, model, abstract.params),
        lambda old, own: old if _masked(old) else own,
        abstract.opt_state,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_masked,
    )
    memory = {
        stream.name: sharding.parameter_shardings(_memory_axes(stream, model, own), own, mesh)
        for stream in stage.streams
        if (own := abstract.memory.get(stream.name))
    }
    return abstract, abstract._replace(step=whole, params=params, opt_state=opt_state, memory=memory)


def create(stage: Stage, model: Model, seed: int, mesh: Mesh, previous: TrainState | None = None) -> TrainState:
    """The state before the first step of a stage, made sharded.

    From the previous stage's state the model's parameters, heads and memory of the same name are carried; the
    optimiser starts afresh unless `stage.keep_optimizer`.
    """
    _, where = shardings(stage, model, seed, mesh)
    if previous is None:
        return jit_once(lambda: _fresh(stage, model, seed), out_shardings=where)()

    def new() -> TrainState:  # without the model's parameters, whose initialisation is then never compiled
        fresh = _fresh(stage, model, seed)
        return fresh._replace(params=fresh.params["heads"])

    made = jit_once(new, out_shardings=where._replace(params=where.params["heads"]))()
    return TrainState(
        step=previous.step,
        params={
            "model": previous.params["model"],
            "heads": {name: previous.params["heads"].get(name, head) for name, head in made.params.items()},
        },
        opt_state=previous.opt_state if stage.keep_optimizer else made.opt_state,
        memory={name: previous.memory.get(name, own) for name, own in made.memory.items()},
    )
