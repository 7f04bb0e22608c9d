"""One vector for each segment of a row of tokens. Objectives and probes share it, so that both pool in the same way.

Shapes: R rows of T tokens, width D; segment s in 1..S of a row is slot s - 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.named_scope("pooling")
def segment_sums(h: jax.Array, segment_ids: jax.Array, slots: int) -> jax.Array:
    """Sums of h (R,T,D) over the tokens of segments 1..slots: (R,slots,D), in h's dtype. Empty segments give 0."""
    # A matrix product (R,S,T) x (R,T,D) instead of a scatter; its gradient is a matrix product too.
    return jnp.einsum("rst,rtd->rsd", _members(segment_ids, slots).astype(h.dtype), h)


@jax.named_scope("pooling")
def segment_means(h: jax.Array, segment_ids: jax.Array, slots: int) -> jax.Array:
    """Means of h (R,T,D) over the tokens of segments 1..slots: (R,slots,D) float32. Empty segments give 0."""
    sizes = jnp.sum(_members(segment_ids, slots), axis=2)
    return segment_sums(h.astype(jnp.float32), segment_ids, slots) / jnp.maximum(sizes, 1)[..., None]


def last_tokens(segment_ids: jax.Array) -> jax.Array:
    """segment_ids (R,T) int32 with 0 at every token but the last one of each segment."""
    # A segment's tokens stand side by side, so its last token is followed by another segment or by the row's end.
    following = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    return jnp.where(segment_ids != following, segment_ids, 0)


def pooled_tokens(
    segment_ids: jax.Array, positions: jax.Array, special: jax.Array, pooling: str, masks: jax.Array | bool = False
) -> jax.Array:
    """segment_ids (R,T) int32 with 0 at every token that a pooling leaves out.

    Args:
      positions: (R,T) int32, from 0 in each segment.
      special: (R,T) bool, True at bos, eos and other tokens that text never contains.
      pooling: "first" keeps a segment's first token, "last" its last token, which is eos where a text ends with one, and
        "mean" its tokens that are not special, and "mask" its mask token.
      masks: (R,T) bool, the mask tokens; False = there are none.
    """
    if pooling == "last":
        return last_tokens(segment_ids)
    kept = {"first": positions == 0, "mean": ~special, "mask": masks}[pooling]
    return jnp.where(kept, segment_ids, 0)


def _members(segment_ids: jax.Array, slots: int) -> jax.Array:
    """(R,slots,T) bool: token t belongs to segment s + 1."""
    return segment_ids[:, None, :] == jnp.arange(1, slots + 1, dtype=segment_ids.dtype)[:, None]
