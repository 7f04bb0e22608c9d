"""Self-attention within segments: causal with rotary positions, or in both directions; grouped key/value heads.

Shapes: B rows of T tokens. Several key/value heads serve groups of query heads (Ainslie et al. 2023, GQA, arXiv
2305.13245); as many of both is ordinary attention (Vaswani et al. 2017).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax.matrix_product import product
from xalign_jax.models.fused_attention import attend_fused, fits
from xalign_jax.models.layers import Maker, RMSNorm, add_bias, project
from xalign_jax.models.rotary import rotate
from xalign_jax.target import platform

QUERIES_CPU = 128  # of a block of queries in causal attention on a CPU


@dataclasses.dataclass
class Memory:
    """Keys and values of one block. The block's attention adds those of its tokens, and reads all of them.

    Attributes:
      keys, values: (B,S,kv_heads,head_dim), of all tokens of the rows; None = no tokens came before.
      first: the place in the row of the first new token.
    """

    keys: jax.Array | None = None
    values: jax.Array | None = None
    first: jax.Array | int = 0

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Write the keys and values (B,T,kv_heads,head_dim) of new tokens; returns those of all tokens."""
        if self.keys is None or self.values is None:
            self.keys, self.values = key, value
        else:
            at = (0, self.first, 0, 0)
            self.keys = jax.lax.dynamic_update_slice(self.keys, key, at)
            self.values = jax.lax.dynamic_update_slice(self.values, value, at)
        return self.keys, self.values


class Context(NamedTuple):
    """What every layer of a forward pass shares.

    Attributes:
      mask: (B,T,T) bool, True where the query (second axis) sees the key (last axis).
      segment_ids: (B,T) int32; 0 is padding.
      causal: a query sees no later key.
      window: a query sees itself and the window - 1 keys before it; None = all before it. Unless `ruled`, the mask
        follows from these three; the fused kernel reads them and not the mask.
      cos, sin: rotary tables (B,T,1,dims/2) float32; None = queries and keys are not rotated.
      full_mask: (B,T,T) bool, the mask of those layers that ignore the window; None = all layers have one mask.
      full_layers: (L,) bool, the layers with `full_mask`.
      lasting: a token's keys and values stay what they are when tokens follow it, so that they can be kept.
      memory: where the block's attention keeps keys and values (`models.decoding`); None = it keeps nothing.
      ruled: the mask hides more than segments, order and window do, so that the fused kernel cannot follow it.
    """

    mask: jax.Array
    segment_ids: jax.Array
    causal: bool
    window: int | None = None
    cos: jax.Array | None = None
    sin: jax.Array | None = None
    full_mask: jax.Array | None = None
    full_layers: np.ndarray | None = None
    lasting: bool = False
    memory: Memory | None = None
    ruled: bool = False

    def limited(self, seen: jax.Array) -> Context:
        """The context in which each query sees those of its keys that `seen` (B,T,T) bool shows."""
        full = None if self.full_mask is None else self.full_mask & seen
        return self._replace(mask=self.mask & seen, full_mask=full, ruled=True)

    def of_queries(self, first: jax.Array | int, count: int) -> Context:
        """The context in which tokens first..first + count - 1 of each row are queries, and all tokens are keys."""

        def cut(array: jax.Array | None) -> jax.Array | None:
            return None if array is None else jax.lax.dynamic_slice_in_dim(array, first, count, axis=1)

        mask = jax.lax.dynamic_slice_in_dim(self.mask, first, count, axis=1)
        return self._replace(mask=mask, full_mask=cut(self.full_mask), cos=cut(self.cos), sin=cut(self.sin))

    def of_layer(self, full: jax.Array | None) -> Context:
        """The context with the mask of one layer; `full` is the layer's entry of `full_layers`, a bool scalar."""
        if full is None or self.full_mask is None:
            return self
        # Layers run in a scan, so `full` is known only when the program runs.
        return self._replace(mask=jnp.where(full, self.full_mask, self.mask), full_mask=None)


def causal_context(
    segment_ids: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    window: int | None = None,
    full_layers: np.ndarray | None = None,
    lasting: bool = True,
) -> Context:
    """The causal mask within segments, with rotary tables.

    Args:
      segment_ids: (B,T) int32.
      cos, sin: (B,T,1,dims/2) float32.
      window: a query sees itself and the window - 1 tokens before it; None = all before it.
      full_layers: (L,) bool, layers that ignore the window.
      lasting: the tables of a token do not depend on the tokens after it.
    """
    # (B,T,T): same segment, and the key stands at or before the query. Padding (segment 0) sees itself and earlier
    # padding: this harms no other token, and no query is left without a key.
    order = jnp.arange(segment_ids.shape[1])
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (order[:, None] >= order[None, :])
    if window is None or window >= segment_ids.shape[1]:
        return Context(mask, segment_ids, True, None, cos, sin, lasting=lasting)
    near = mask & (order[:, None] < order[None, :] + window)
    if full_layers is None:
        return Context(near, segment_ids, True, window, cos, sin, lasting=lasting)
    return Context(near, segment_ids, True, window, cos, sin, mask, full_layers, lasting)


def mutual_context(segment_ids: jax.Array) -> Context:
    """The mask with which all tokens of a segment see each other, from segment ids (B,T). Padding sees padding."""
    return Context(segment_ids[:, :, None] == segment_ids[:, None, :], segment_ids, False)


@jax.named_scope("attend")
def attend(query: jax.Array, key: jax.Array, value: jax.Array, context: Context) -> jax.Array:
    """softmax(q k / sqrt(head_dim)) v with a float32 softmax: (B,T,heads,head_dim).

    Args:
      query: (B,T,heads,head_dim).
      key, value: (B,S,kv_heads,head_dim); kv_heads divides heads. S = T, unless keys of earlier tokens were kept.
    """
    # (B,T,heads,head_dim) -> (B,heads,T,head_dim). Scaling the queries is cheaper than scaling the scores.
    query, key, value = (each.swapaxes(1, 2) for each in (query * query.shape[-1] ** -0.5, key, value))
    mixed: jax.Array
    # Kept keys are more than the queries, which then stand anywhere among them.
    causal = context.causal and query.shape[2] == key.shape[2]
    plain = context.full_layers is None and not context.ruled
    if plain and query.shape[2] == key.shape[2] and fits(query, key):
        # The fused kernel exists for TPUs only. JAX chooses a branch when it compiles the program for a platform, which
        # need not be the platform of this machine.
        fused = functools.partial(attend_fused, causal=context.causal, window=context.window)
        arrays = (query, key, value, context.mask, context.segment_ids)
        mixed = jax.lax.platform_dependent(
            *arrays,
            tpu=lambda query, key, value, mask, segment_ids: fused(query, key, value, segment_ids),
            default=lambda query, key, value, mask, segment_ids: _attend_in_blocks(query, key, value, mask, causal),
        )
    else:
        mixed = _attend_in_blocks(query, key, value, context.mask, causal)
    return mixed.swapaxes(1, 2)


def _attend_in_blocks(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, causal: bool) -> jax.Array:
    """`_attend_masked`. On a CPU, long rows are taken in blocks of queries, without the keys that no query sees."""
    T = query.shape[2]
    if platform() != "cpu" or T <= QUERIES_CPU:
        return _attend_masked(query, key, value, mask)
    mixed = []
    for first in range(0, T, QUERIES_CPU):
        end = min(first + QUERIES_CPU, T)
        keys = end if causal else key.shape[2]
        seen = mask[:, first:end, :keys]
        mixed.append(_attend_block(query[:, :, first:end], key[:, :, :keys], value[:, :, :keys], seen))
    return jnp.concatenate(mixed, axis=2)


def _attend_masked(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention that computes all scores at once: (B,heads,T,head_dim).

    Args:
      query: (B,heads,T,head_dim), scaled.
      key, value: (B,kv_heads,S,head_dim).
      mask: (B,T,S) bool.
    """
    weights = _attention_weights(_stacked(query, key), key, mask).astype(value.dtype)
    # (B,kv_heads,group T,S) x (B,kv_heads,S,head_dim) -> (B,kv_heads,group T,head_dim) -> (B,heads,T,head_dim).
    return product(weights, value, dtype=value.dtype).reshape(query.shape)


def _stacked(query: jax.Array, key: jax.Array) -> jax.Array:
    """(B,heads,T,head_dim) -> (B,kv_heads,group T,head_dim): queries that share a key head, stacked along time.

    Both products of attention are then plain batched matrix products.
    """
    return query.reshape(query.shape[0], key.shape[1], -1, query.shape[-1])


def _attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k) of stacked queries over the keys that they see: (B,kv_heads,group T,S) float32."""
    # (B,kv_heads,group T,head_dim) x (B,kv_heads,head_dim,S) -> (B,kv_heads,group T,S), in float32.
    stacked = product(query, key, "nt", dtype=jnp.float32)
    scores = stacked.reshape(*key.shape[:2], -1, *mask.shape[1:])
    # The lowest finite number instead of -inf, with which a query without a key would become NaN.
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1).reshape(stacked.shape)


@jax.custom_vjp
def _attend_block(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """`_attend_masked` with a gradient of its own, which is faster on CPUs."""
    return _attend_masked(query, key, value, mask)


_Kept = tuple[jax.Array, ...]  # stacked queries, keys, values, the mask, weights and the result


def _attend_block_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, _Kept]:
    stacked = _stacked(query, key)
    weights = _attention_weights(stacked, key, mask).astype(value.dtype)
    mixed = product(weights, value, dtype=value.dtype)
    return mixed.reshape(query.shape), (stacked, key, value, mask, weights, mixed)


def _attend_block_backward(kept: _Kept, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, mask, weights, mixed = kept
    shape, g = g.shape, _stacked(g, key)
    d_weights = product(g, value, "nt", dtype=jnp.float32)
    # The softmax's gradient is w_s (dw_s - sum_r w_r dw_r). Its sum over keys is g . mixed, a sum over head_dim only
    # (Dao et al. 2022, FlashAttention, section B.2).
    common = jnp.sum(g.astype(jnp.float32) * mixed, axis=-1, keepdims=True)
    d_scores = (weights * (d_weights - common)).reshape(*key.shape[:2], -1, *mask.shape[1:])
    # A query without a key has weights too, but no gradient.
    d_scores = jnp.where(mask[:, None, None], d_scores, 0).astype(query.dtype).reshape(weights.shape)
    d_query = product(d_scores, key, dtype=query.dtype).reshape(shape)
    d_key = product(d_scores, query, "tn", dtype=key.dtype)
    return d_query, d_key, product(weights, g, "tn", dtype=value.dtype), None


_attend_block.defvjp(_attend_block_forward, _attend_block_backward)


class SelfAttention(nnx.Module):
    """Attention with its four projections: (B,T,width) -> (B,T,width).

    Args:
      width: of the states.
      heads, kv_heads: query heads, and key/value heads, which divide them.
      head_dim: width of one head.
      dtype: of the matrix products.
      make: makes the parameters.
      qkv_bias, output_bias: whether these products have biases.
      qk_norm_eps: normalise each head's queries and keys by an RMSNorm with this epsilon before they are rotated
        (Dehghani et al. 2023; Qwen3); None = do not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: DTypeLike,
        make: Maker,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        qk_norm_eps: float | None = None,
    ):
        self.dtype = dtype
        # Heads have an axis of their own, so that a mesh divides whole heads.
        self.query = make.normal((width, heads, head_dim), ("embed", "heads", "head_dim"))
        self.key = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.value = make.normal((width, kv_heads, head_dim), ("embed", "kv_heads", "head_dim"))
        self.output = make.normal((heads, head_dim, width), ("heads", "head_rows", "embed"))
        # Biases have one axis. With two axes, the optimiser would take them for matrices and decay them. `nnx.data` says
        # that an attribute may hold parameters even if it is None now: another block may set it (docs/extending.md).
        self.query_bias = nnx.data(make.zeros((heads * head_dim,), ("heads",)) if qkv_bias else None)
        self.key_bias = nnx.data(make.zeros((kv_heads * head_dim,), ("kv_heads",)) if qkv_bias else None)
        self.value_bias = nnx.data(make.zeros((kv_heads * head_dim,), ("kv_heads",)) if qkv_bias else None)
        self.output_bias = nnx.data(make.zeros((width,), ("embed",)) if output_bias else None)
        self.query_norm = nnx.data(None if qk_norm_eps is None else RMSNorm(head_dim, qk_norm_eps, make))
        self.key_norm = nnx.data(None if qk_norm_eps is None else RMSNorm(head_dim, qk_norm_eps, make))

    @jax.named_scope("attention")
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        # (B,T,width) -> (B,T,heads,head_dim) each.
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if context.cos is not None and context.sin is not None:
            query, key = (rotate(each, context.cos, context.sin) for each in (query, key))
        if context.memory is not None:
            key, value = context.memory.extend(key, value)
        mixed = attend(query, key, value, context)
        # (B,T,heads,head_dim) -> (B,T,heads head_dim) -> (B,T,width).
        output = self.output[...]
        return self._project(mixed.reshape(*x.shape[:2], -1), output.reshape(-1, output.shape[-1]), "output")

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        """The named projection of x (B,T,width), by head: (B,T,heads,head_dim)."""
        w = getattr(self, name)[...]
        return self._project(x, w.reshape(w.shape[0], -1), name).reshape(*x.shape[:2], *w.shape[1:])

    def _project(self, x: jax.Array, weight: jax.Array, name: str) -> jax.Array:
        """x (B,T,n) times weight (n,m), plus the named projection's bias: (B,T,m)."""
        return add_bias(project(x, weight.astype(self.dtype)), getattr(self, f"{name}_bias"))
