"""From token similarities to word alignments: alternating normalisation, mutual argmax, itermax, thresholds.

Everything is batched: similarities (...,M,N) of M source and N target tokens, with masks (...,M) and (...,N) bool of the
tokens that are there. Padding takes part in nothing and is 0 or False in every result. Floats keep their dtype. Of equal
values the first wins (argmax). Normalisation is XLM-Align's (Chi et al. 2021), itermax SimAlign's (Jalili Sabet et al.
2020), the threshold awesome-align's (Dou and Neubig 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Normalised(NamedTuple):
    """rows (...,M,N): every row sums to 1 (pi of XLM-Align); columns (...,M,N): every column does, one half step earlier
    (xi); raised (...) int32: similarities that were raised to the floor."""

    rows: jax.Array
    columns: jax.Array
    raised: jax.Array


def normalise(
    similarity: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    *,
    floor: float | None = 1e-6,
    iterations: int = 2,
) -> Normalised:
    """Normalise columns, then rows, `iterations` times: the "optimal transport" of XLM-Align, without exp or entropy.

    Args:
      floor: similarities <= 0 become this, as in training; None leaves them, as the released aligner does: then nothing
        bounds the result, and entries have both signs.
      iterations: at least 1.
    """
    there = source_mask[..., :, None] & target_mask[..., None, :]
    low = jnp.zeros_like(there) if floor is None else there & (similarity <= 0)
    rows = jnp.where(there, similarity if floor is None else jnp.where(low, floor, similarity), 0.0)
    columns = rows
    for _ in range(iterations):
        columns = rows / jnp.where(target_mask[..., None, :], jnp.sum(rows, axis=-2, keepdims=True), 1.0)
        rows = columns / jnp.where(source_mask[..., :, None], jnp.sum(columns, axis=-1, keepdims=True), 1.0)
    # A sentence without a single token on the other side has nothing to share out.
    return Normalised(jnp.where(there, rows, 0.0), jnp.where(there, columns, 0.0), jnp.sum(low, (-2, -1), jnp.int32))


def mutual_argmax(
    by_rows: jax.Array, by_columns: jax.Array, source_mask: jax.Array, target_mask: jax.Array
) -> jax.Array:
    """Links (...,M,N) bool where j is the best target of i by `by_rows` and i the best source of j by `by_columns`.

    Both are (...,M,N) and the same matrix, but for XLM-Align: `Normalised.rows` and `.columns`.
    """
    there = source_mask[..., :, None] & target_mask[..., None, :]
    best_target = jnp.argmax(jnp.where(there, by_rows, -jnp.inf), axis=-1)
    best_source = jnp.argmax(jnp.where(there, by_columns, -jnp.inf), axis=-2)
    forward = best_target[..., :, None] == jnp.arange(by_rows.shape[-1])
    backward = jnp.arange(by_rows.shape[-2])[:, None] == best_source[..., None, :]
    return forward & backward & there


def itermax(
    similarity: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    *,
    max_count: int = 2,
    alpha: float = 0.9,
) -> jax.Array:
    """SimAlign's itermax: mutual argmax, then again for what has no link yet, with linked rows and columns damped.

    Args:
      similarity: (...,M,N), not negative: damped entries become 0 and would win over negative ones.
      max_count: rounds in all. alpha: weight where only one of row and column is free.

    Returns:
      Links (...,M,N) bool. A sentence of one or two tokens on a side has those of the first round only.
    """
    links = mutual_argmax(similarity, similarity, source_mask, target_mask)
    few = jnp.minimum(jnp.sum(source_mask, -1), jnp.sum(target_mask, -1)) <= 2
    for _ in range(max_count - 1):
        free_rows = source_mask & ~jnp.any(links, axis=-1)
        free_columns = target_mask & ~jnp.any(links, axis=-2)
        one = free_rows[..., :, None] | free_columns[..., None, :]
        both = free_rows[..., :, None] & free_columns[..., None, :]
        weight = jnp.where(both, 1.0, jnp.where(one, alpha, 0.0)).astype(similarity.dtype)
        damped = similarity * weight
        found = mutual_argmax(damped, damped, source_mask, target_mask) & one
        stop = few | ~jnp.any(free_rows, -1) | ~jnp.any(free_columns, -1)
        links = links | (found & ~stop[..., None, None])
    return links


def alignment_probabilities(
    source: jax.Array, target: jax.Array, source_mask: jax.Array, target_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """awesome-align's P_s and P_t: softmax of the unscaled products of hidden states over target and over source.

    Args:
      source, target: (...,M,D) and (...,N,D). The masks exclude specials too.

    Returns:
      (...,M,N) each, at least float32. P_s is 0 at excluded targets, P_t at excluded sources.
    """
    dtype = jnp.promote_types(source.dtype, jnp.float32)
    scores = jnp.einsum(
        "...md,...nd->...mn", source, target, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )
    lowest = jnp.finfo(dtype).min
    over_target, over_source = target_mask[..., None, :], source_mask[..., :, None]
    by_source = jax.nn.softmax(jnp.where(over_target, scores, lowest), axis=-1)
    by_target = jax.nn.softmax(jnp.where(over_source, scores, lowest), axis=-2)
    return jnp.where(over_target, by_source, 0.0), jnp.where(over_source, by_target, 0.0)


def above(by_source: jax.Array, by_target: jax.Array, threshold: float = 1e-3) -> jax.Array:
    """awesome-align's links (...,M,N) bool: both probabilities (see `alignment_probabilities`) exceed the threshold."""
    return (by_source > threshold) & (by_target > threshold)
