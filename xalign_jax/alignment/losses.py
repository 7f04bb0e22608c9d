"""Losses of word alignment, as sums and counts.

The pointer comes from XLM-Align (Chi et al. 2021, arXiv 2106.06381). Self-training (SO) and consistency (CO) come from
awesome-align (Dou and Neubig 2021, arXiv 2101.08231). Sums are at least float32 and carry the gradient; counts are
int32.

Shapes: B sentence pairs, M source and N target tokens, D the width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xalign_jax.alignment.extraction import pairs_of


class Pointer(NamedTuple):
    """Scalars: the summed loss, the number of its terms, and the number of terms whose best position is the partner."""

    loss: jax.Array
    terms: jax.Array
    correct: jax.Array


def pointer_loss(query: jax.Array, key: jax.Array, partner: jax.Array, window: jax.Array, valid: jax.Array) -> Pointer:
    """-log softmax_i(q_j.k_i / sqrt(D))[a(j)], summed over the masked positions j; i are the positions of a window.

    Args:
      query: (B,P,D) projected states of P masked positions in each row.
      key: (B,T,D) projected states of all positions.
      partner: (B,P) integers, a(j): the position that j is aligned with. A partner outside the window gives no term.
      window: (B,T) bool, the positions of the other sentence; (B,P,T) where masked positions have windows of their own.
      valid: (B,P) bool, False at padding and where there is no partner.
    """
    # (B,P,D) x (B,T,D) -> (B,P,T) scores, masked outside the window.
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bpd,btd->bpt", query, key, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)
    window = window[:, None, :] if window.ndim == 2 else window
    scores = jnp.where(window, scores / jnp.sqrt(jnp.asarray(key.shape[-1], dtype)), jnp.finfo(dtype).min)
    # (B,P,T) bool: the partner as a one-hot row; all False if it is outside the window.
    hit = (jnp.arange(key.shape[1]) == partner[..., None]) & window
    term = valid & jnp.any(hit, axis=-1)
    loss = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(hit, scores, 0.0), axis=-1)
    correct = term & (jnp.argmax(scores, axis=-1) == partner)
    return Pointer(
        jnp.sum(jnp.where(term, loss, 0.0)), jnp.sum(term, dtype=jnp.int32), jnp.sum(correct, dtype=jnp.int32)
    )


def project(states: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """The pointer's heads: states (...,D) @ weight (D,E) + bias (E,) at full precision."""
    return jnp.matmul(states, weight, precision=jax.lax.Precision.HIGHEST) + bias


def self_training_loss(
    by_source: jax.Array,
    by_target: jax.Array,
    guide: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    among: jax.Array | None = None,
) -> jax.Array:
    """awesome-align's SO, -[sum(P_s G) / len_s + sum(P_t G) / len_t], summed over sentence pairs.

    It sums probabilities, not their logarithms.

    Args:
      by_source, by_target: P_s and P_t (B,M,N) of `alignment_probabilities`.
      guide: G (B,M,N) of 0 and 1, or bool: the links to learn.
      source_mask, target_mask: (B,M), (B,N) bool; len_s and len_t count their tokens, at least 1.
      among: (B,M,N) bool, tokens of the same sentence pair, where rows hold several; None = a row is one pair.
    """
    sources, targets = _lengths(source_mask, target_mask, among)
    return -jnp.sum((by_source / sources + by_target / targets) * guide)


def consistency_loss(
    by_source: jax.Array,
    by_target: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    among: jax.Array | None = None,
) -> jax.Array:
    """awesome-align's CO, -sum(P_s P_t) / min(len_s, len_t), summed over sentence pairs.

    Args:
      by_source, by_target, source_mask, target_mask, among: as in `self_training_loss`.
    """
    # For each pair, the sum is the trace of P_s P_t^T, which is at most the shorter length.
    sources, targets = _lengths(source_mask, target_mask, among)
    return -jnp.sum(by_source * by_target / jnp.minimum(sources, targets))


def _lengths(source_mask: jax.Array, target_mask: jax.Array, among: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Tokens of the source and of the target of a token pair's sentences: (B,1,N) and (B,M,1), at least 1."""
    there = pairs_of(source_mask, target_mask, among)
    return tuple(jnp.maximum(jnp.sum(there, axis, keepdims=True), 1) for axis in (-2, -1))  # type: ignore[return-value]
