"""Self-attention within segments: causal with rotary positions, or in both directions; grouped key/value heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from xalign_jax.models.layers import Maker, project


class Context(NamedTuple):
    """What every layer of a forward pass shares.

    Attributes:
      mask: (B,T,T) bool, True where the query (second axis) sees the key (last axis).
      cos, sin: rotary tables (B,T,1,head_dim/2) float32; None = queries and keys are not rotated.
    """

    mask: jax.Array
    cos: jax.Array | None = None
    sin: jax.Array | None = None


def causal_context(positions: jax.Array, segment_ids: jax.Array, head_dim: int, theta: float) -> Context:
    """Rotary tables and the causal mask within segments, from positions and segment ids (B,T).

    Padding (segment 0) sees earlier padding and itself: harmless to others, and no row of the softmax is empty.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    order = jnp.arange(segment_ids.shape[1])
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (order[:, None] >= order[None, :])
    return Context(mask, jnp.cos(angles), jnp.sin(angles))


def mutual_context(segment_ids: jax.Array) -> Context:
    """All tokens of a segment see each other; from segment ids (B,T). Padding (segment 0) sees padding."""
    return Context(segment_ids[:, :, None] == segment_ids[:, None, :])


def rotate(x: jax.Array, context: Context) -> jax.Array:
    """Rotary embedding of x (B,T,heads,head_dim), if the context has tables; the pairs are (i, i + head_dim/2), as in
    the Hugging Face code."""
    cos, sin = context.cos, context.sin
    if cos is None or sin is None:
        return x
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(head_dim)) v with a float32 softmax.

    Args:
      query: (B,T,heads,head_dim). key, value: (B,T,kv_heads,head_dim); kv_heads divides heads.
      mask: (B,T,T) bool, True where the query (second axis) may see the key (last axis).
    """
    B, T, heads, head_dim = query.shape
    kv_heads, group = key.shape[2], heads // key.shape[2]
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)  # (B,kv_heads,T,head_dim)
    # Queries that share a key head are stacked along time: both products are then plain batched matrix products.
    query = (query * head_dim**-0.5).swapaxes(1, 2).reshape(B, kv_heads, group * T, head_dim)
    scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
    scores = scores.reshape(B, kv_heads, group, T, T)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = weights.reshape(B, kv_heads, group * T, T) @ value
    return mixed.reshape(B, heads, T, head_dim).swapaxes(1, 2)


class SelfAttention(nnx.Module):
    """Attention, with or without biases: (B,T,width) -> (B,T,width)."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, dtype: Any, make: Maker, biases: bool = False
    ):
        self.dtype = dtype
        self.biases = biases
        self.query = make.normal((width, heads, head_dim), ("embed", "heads", "head_dim"))
        self.key = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.value = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.output = make.normal((heads, head_dim, width), ("heads", "head_dim", "embed"))
        if biases:  # one axis each, since what has two is a matrix to the optimiser's decay
            self.query_bias = make.zeros((heads * head_dim,), ("heads",))
            self.key_bias = make.zeros((kv_heads * head_dim,), ("kv_heads",))
            self.value_bias = make.zeros((kv_heads * head_dim,), ("kv_heads",))
            self.output_bias = make.zeros((width,), ("embed",))

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        mixed = attend(rotate(query, context), rotate(key, context), value, context.mask)
        output = self.output[...]
        return self._project(mixed.reshape(*x.shape[:2], -1), output.reshape(-1, output.shape[-1]), "output")

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        w = getattr(self, name)[...]
        return self._project(x, w.reshape(w.shape[0], -1), name).reshape(*x.shape[:2], *w.shape[1:])

    def _project(self, x: jax.Array, weight: jax.Array, name: str) -> jax.Array:
        y = project(x, weight.astype(self.dtype))
        return y + getattr(self, f"{name}_bias")[...].astype(self.dtype) if self.biases else y
