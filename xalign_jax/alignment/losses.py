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
      window: (B,T) bool, the positions of the other sentence.
      valid: (B,P) bool, False at padding and where there is no partner.
    """
    # (B,P,D) x (B,T,D) -> (B,P,T) scores, masked outside the window.
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bpd,btd->bpt", query, key, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)
    scores = jnp.where(window[:, None, :], scores / jnp.sqrt(jnp.asarray(key.shape[-1], dtype)), jnp.finfo(dtype).min)
    # (B,P,T) bool: the partner as a one-hot row; all False if it is outside the window.
    hit = (jnp.arange(key.shape[1]) == partner[..., None]) & window[:, None, :]
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
    by_source: jax.Array, by_target: jax.Array, guide: jax.Array, source_mask: jax.Array, target_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """awesome-align's SO, -[sum(P_s G) / len_s + sum(P_t G) / len_t], as (sum over sentence pairs, their number).

    It sums probabilities, not their logarithms.

    Args:
      by_source, by_target: P_s and P_t (B,M,N) of `alignment_probabilities`.
      guide: G (B,M,N) of 0 and 1, or bool: the links to learn.
      source_mask, target_mask: (B,M), (B,N) bool; len_s and len_t count their tokens, at least 1.
    """
    # (B,M,N) -> (B,).
    source = jnp.sum(by_source * guide, (-2, -1)) / _length(source_mask)
    target = jnp.sum(by_target * guide, (-2, -1)) / _length(target_mask)
    return -jnp.sum(source + target), jnp.asarray(len(guide), jnp.int32)


def consistency_loss(
    by_source: jax.Array, by_target: jax.Array, source_mask: jax.Array, target_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """awesome-align's CO, -sum(P_s P_t) / min(len_s, len_t), as (sum over sentence pairs, their number).

    Args:
      by_source, by_target, source_mask, target_mask: as in `self_training_loss`.
    """
    # (B,). The sum is the trace of P_s P_t^T, which is at most the shorter length.
    shorter = jnp.minimum(_length(source_mask), _length(target_mask))
    return -jnp.sum(jnp.sum(by_source * by_target, (-2, -1)) / shorter), jnp.asarray(len(by_source), jnp.int32)


def _length(mask: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(mask, axis=-1), 1)
