"""Self-attention within segments: causal with rotary positions, or in both directions; grouped key/value heads."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xalign_jax.models.fused_attention import attend_fused, fits
from xalign_jax.models.layers import Maker, RMSNorm, add_bias, project
from xalign_jax.models.rotary import rotate


class Context(NamedTuple):
    """What every layer of a forward pass shares.

    Attributes:
      mask: (B,T,T) bool, True where the query (second axis) sees the key (last axis).
      segment_ids: (B,T) int32, causal, window: what the mask was made of.
      cos, sin: rotary tables (B,T,1,dims/2) float32; None = queries and keys are not rotated.
      full_mask: (B,T,T) bool, the mask of some layers; None = all have the same.
      full_layers: (L,) bool, which layers those are.
    """

    mask: jax.Array
    segment_ids: jax.Array
    causal: bool
    window: int | None = None
    cos: jax.Array | None = None
    sin: jax.Array | None = None
    full_mask: jax.Array | None = None
    full_layers: np.ndarray | None = None

    def of_layer(self, full: jax.Array | None) -> Context:
        """The context with the mask of one layer, whose entry of `full_layers` is `full`."""
        if full is None or self.full_mask is None:
            return self
        return self._replace(mask=jnp.where(full, self.full_mask, self.mask), full_mask=None)


def causal_context(
    segment_ids: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    window: int | None = None,
    full_layers: np.ndarray | None = None,
) -> Context:
    """The causal mask within segments (B,T), with rotary tables.

    Padding (segment 0) sees earlier padding and itself: harmless to others, and no row of the softmax is empty.

    Args:
      window: a query sees itself and the window - 1 tokens before it; None = all before it.
      full_layers: (L,) bool, layers that ignore the window.
    """
    order = jnp.arange(segment_ids.shape[1])
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (order[:, None] >= order[None, :])
    if window is None or window >= segment_ids.shape[1]:
        return Context(mask, segment_ids, True, None, cos, sin)
    near = mask & (order[:, None] < order[None, :] + window)
    if full_layers is None:
        return Context(near, segment_ids, True, window, cos, sin)
    return Context(near, segment_ids, True, window, cos, sin, mask, full_layers)


def mutual_context(segment_ids: jax.Array) -> Context:
    """All tokens of a segment see each other; from segment ids (B,T). Padding (segment 0) sees padding."""
    return Context(segment_ids[:, :, None] == segment_ids[:, None, :], segment_ids, False)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, context: Context) -> jax.Array:
    """softmax(q k / sqrt(head_dim)) v with a float32 softmax, by a fused kernel where there is one that fits.

    Args:
      query: (B,T,heads,head_dim). key, value: (B,T,kv_heads,head_dim); kv_heads divides heads.
    """
    query, key, value = (each.swapaxes(1, 2) for each in (query * query.shape[-1] ** -0.5, key, value))
    mixed: jax.Array
    if context.full_layers is None and fits(query, key):
        fused = functools.partial(attend_fused, causal=context.causal, window=context.window)
        arrays = (query, key, value, context.mask, context.segment_ids)
        mixed = jax.lax.platform_dependent(
            *arrays,
            tpu=lambda query, key, value, mask, segment_ids: fused(query, key, value, segment_ids),
            default=lambda query, key, value, mask, segment_ids: _attend_masked(query, key, value, mask),
        )
    else:
        mixed = _attend_masked(query, key, value, context.mask)
    return mixed.swapaxes(1, 2)


def _attend_masked(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """`attend` from all scores at once: (B,heads,T,head_dim), (B,kv_heads,T,head_dim) and (B,T,T) bool."""
    B, heads, T, head_dim = query.shape
    kv_heads, group = key.shape[1], heads // key.shape[1]
    # Queries that share a key head are stacked along time: both products are then plain batched matrix products.
    query = query.reshape(B, kv_heads, group * T, head_dim)
    scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
    scores = scores.reshape(B, kv_heads, group, T, T)
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = weights.reshape(B, kv_heads, group * T, T) @ value
    return mixed.reshape(B, heads, T, head_dim)


class SelfAttention(nnx.Module):
    """Attention: (B,T,width) -> (B,T,width).

    Args:
      qkv_bias, output_bias: whether these products have biases.
      qk_norm_eps: normalise each head's queries and keys before they are rotated, by an RMSNorm with this epsilon
        (Dehghani et al. 2023; Qwen3); None = do not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: Any,
        make: Maker,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        qk_norm_eps: float | None = None,
    ):
        self.dtype = dtype
        self.query = make.normal((width, heads, head_dim), ("embed", "heads", "head_dim"))
        self.key = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.value = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.output = make.normal((heads, head_dim, width), ("heads", "head_rows", "embed"))
        if qkv_bias:  # one axis each, since what has two is a matrix to the optimiser's decay
            self.query_bias = make.zeros((heads * head_dim,), ("heads",))
            self.key_bias = make.zeros((kv_heads * head_dim,), ("kv_heads",))
            self.value_bias = make.zeros((kv_heads * head_dim,), ("kv_heads",))
        if output_bias:
            self.output_bias = make.zeros((width,), ("embed",))
        if qk_norm_eps is not None:
            self.query_norm = RMSNorm(head_dim, qk_norm_eps, make)
            self.key_norm = RMSNorm(head_dim, qk_norm_eps, make)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        if hasattr(self, "query_norm"):
            query, key = self.query_norm(query), self.key_norm(key)
        if context.cos is not None and context.sin is not None:
            query, key = (rotate(each, context.cos, context.sin) for each in (query, key))
        mixed = attend(query, key, value, context)
        output = self.output[...]
        return self._project(mixed.reshape(*x.shape[:2], -1), output.reshape(-1, output.shape[-1]), "output")

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        w = getattr(self, name)[...]
        return self._project(x, w.reshape(w.shape[0], -1), name).reshape(*x.shape[:2], *w.shape[1:])

    def _project(self, x: jax.Array, weight: jax.Array, name: str) -> jax.Array:
        return add_bias(project(x, weight.astype(self.dtype)), self, f"{name}_bias")
