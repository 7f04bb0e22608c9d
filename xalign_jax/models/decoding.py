"""A causal model reads a row piece by piece: keys and values of the tokens read so far are kept.

A new token then costs one pass over the weights instead of one pass for each token before it. Masks and rotary tables
are those of the network's own `context`, so that windows and layers without windows hold here too.

Shapes: B rows of S places, of which T tokens are read at once; L blocks; width D.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.attention import Context, Memory
from xalign_jax.models.model import Model, Network
from xalign_jax.models.sharded_lookup import spread


class Cache(NamedTuple):
    """Keys and values (L,B,S,kv_heads,head_dim) of all blocks, in the model's dtype; zeros where no token was read."""

    keys: jax.Array
    values: jax.Array


def prefill(model: Model, inputs: Inputs, places: int) -> tuple[jax.Array, Cache]:
    """Read the first T tokens of rows that will have `places` = S tokens.

    Args:
      inputs: (B,T); rows may be padded on either side, with segment 0.

    Returns:
      states (B,T,D) of level L, and the cache.

    Raises:
      UserError: the model is bidirectional, or S is longer than the model or than its rotary scaling allows.
    """
    if places > model.max_length:
        raise UserError(f"rows of {places} tokens: longer than the model's max_length = {model.max_length}")
    network = model.bound_network()
    # A context of S places says whether keys of this length can be kept at all.
    blank = jnp.zeros((1, places), jnp.int32)
    if not network.context(blank, blank).lasting:
        raise UserError(
            f"rows of {places} tokens: keys cannot be kept, because the model is bidirectional or its dynamic rotary "
            "scaling turns all keys anew when a row grows; ask for fewer tokens, or load a causal model"
        )
    context = network.context(inputs.positions, inputs.segment_ids)
    x, found = _blocks(model, network, _embed(model, network, inputs), context, None, 0)
    # (L,B,T,..) -> (L,B,S,..).
    room = places - inputs.tokens.shape[1]
    return x, jax.tree.map(lambda array: jnp.pad(array, ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))), found)


def extend(model: Model, inputs: Inputs, cache: Cache, first: jax.Array, count: int = 1) -> tuple[jax.Array, Cache]:
    """Read tokens first..first + count - 1 of rows whose earlier tokens are in the cache.

    Args:
      inputs: (B,S), the whole rows. Tokens from first + count on are not read, but have positions and segments.
      first: an integer scalar.

    Returns:
      states (B,count,D) of level L, and the cache with the new tokens.
    """
    network = model.bound_network()
    context = network.context(inputs.positions, inputs.segment_ids).of_queries(first, count)
    # (B,S) -> (B,count).
    new = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, first, count, axis=1), inputs)
    return _blocks(model, network, _embed(model, network, new), context, cache, first)


def _embed(model: Model, network: Network, inputs: Inputs) -> jax.Array:
    """Level 0 (B,T,D)."""
    return spread(network.embed(model.rows(inputs.tokens), inputs.positions, inputs.types))


def _blocks(
    model: Model, network: Network, x: jax.Array, context: Context, cache: Cache | None, first: jax.Array | int
) -> tuple[jax.Array, Cache]:
    """Level L (B,T,D) from level 0, and keys and values of all blocks."""
    block, stacked = nnx.split(network.layers)

    def apply(x: jax.Array, layer: tuple[nnx.State, jax.Array | None, Cache | None]) -> tuple[jax.Array, Cache]:
        # One block: (B,T,D) -> (B,T,D). Its attention writes into `memory`, an object of this one call.
        weights, full, kept = layer
        memory = Memory(first=first) if kept is None else Memory(kept.keys, kept.values, first)
        x, _ = nnx.merge(block, weights)(x, context.of_layer(full)._replace(memory=memory))
        if memory.keys is None or memory.values is None:
            raise ValueError(f"{type(model.config).__name__}: its blocks must attend through `SelfAttention`")
        return spread(x), Cache(memory.keys, memory.values)

    full = None if context.full_layers is None else jnp.asarray(context.full_layers)
    x, found = jax.lax.scan(apply, x, (stacked, full, cache), unroll=model.unrolled)
    return network.final_norm(x), found
