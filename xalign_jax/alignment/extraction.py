"""From token similarities to word alignments: alternating normalisation, argmax, itermax, thresholds.

Everything is batched: similarities (...,M,N) of M source and N target tokens, with masks (...,M) and (...,N) bool that
are True where there is a token. Padding takes part in nothing and is 0 or False in every result. Floats keep their
dtype. Among equal values, the first one wins (argmax).

Packed rows hold several sentences on each side. Their functions take `among` (...,M,N) bool: True where a source and a
target token belong to the same sentence pair. Each sentence pair is then aligned by itself.

- Normalisation comes from XLM-Align (Chi et al. 2021, arXiv 2106.06381),
- itermax from SimAlign (Jalili Sabet et al. 2020, arXiv 2004.08728),
- the threshold from awesome-align (Dou and Neubig 2021, arXiv 2101.08231).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Normalised(NamedTuple):
    """Normalised similarities.

    Attributes:
      rows: (...,M,N), every row sums to 1; XLM-Align's pi.
      columns: (...,M,N), every column sums to 1, one half step earlier; XLM-Align's xi.
      raised: (...) int32, how many similarities were raised to the floor.
    """

    rows: jax.Array
    columns: jax.Array
    raised: jax.Array


def pairs_of(source_mask: jax.Array, target_mask: jax.Array, among: jax.Array | None = None) -> jax.Array:
    """(...,M,N) bool: the pairs of tokens that may be linked, from masks (...,M) and (...,N).

    Args:
      among: (...,M,N) bool, tokens of the same sentence pair; None = a row is one sentence pair.
    """
    both = source_mask[..., :, None] & target_mask[..., None, :]
    return both if among is None else both & among


def normalise(
    similarity: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    *,
    floor: float | None = 1e-6,
    iterations: int = 2,
    among: jax.Array | None = None,
) -> Normalised:
    """Normalise columns, then rows, `iterations` times: the "optimal transport" of XLM-Align, without exp or entropy.

    Args:
      similarity: (...,M,N).
      source_mask, target_mask: (...,M) and (...,N) bool.
      floor: similarities <= 0 become this, as in XLM-Align's training. None leaves them, as XLM-Align's aligner does.
        Then entries have both signs, and a sum near 0 makes them arbitrarily large.
      iterations: at least 1.
      among: (...,M,N) bool, of packed rows.
    """
    # (...,M,N) bool: both tokens are there.
    there = pairs_of(source_mask, target_mask, among)
    low = jnp.zeros_like(there) if floor is None else there & (similarity <= 0)
    rows = jnp.where(there, similarity if floor is None else jnp.where(low, floor, similarity), 0.0)
    columns = rows
    for _ in range(iterations):
        # Divide by sums over sources (...,1,N), then by sums over targets (...,M,1). Padding is divided by 1, not by 0.
        columns = rows / jnp.where(target_mask[..., None, :], jnp.sum(rows, axis=-2, keepdims=True), 1.0)
        rows = columns / jnp.where(source_mask[..., :, None], jnp.sum(columns, axis=-1, keepdims=True), 1.0)
    # If the other sentence has no token, the sums are 0 and the quotients NaN; the result is 0 instead.
    return Normalised(jnp.where(there, rows, 0.0), jnp.where(there, columns, 0.0), jnp.sum(low, (-2, -1), jnp.int32))


def unit_cosines(source: jax.Array, target: jax.Array) -> jax.Array:
    """SimAlign's similarities (cos + 1) / 2 in [0, 1]: (...,M,D) and (...,N,D) -> (...,M,N), at least float32."""
    dtype = jnp.promote_types(source.dtype, jnp.float32)
    # Rows of length 1; rows of zeros stay zero.
    source, target = (
        side / jnp.maximum(jnp.linalg.norm(side, axis=-1, keepdims=True), 1e-12)
        for side in (source.astype(dtype), target.astype(dtype))
    )
    return (jnp.einsum("...md,...nd->...mn", source, target, precision=jax.lax.Precision.HIGHEST) + 1.0) / 2.0


def directed_argmax(
    by_rows: jax.Array,
    by_columns: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    among: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Forward and backward links (...,M,N) bool.

    Forward: each source token is linked to its best target in `by_rows`. Backward: each target token is linked to its
    best source in `by_columns`.

    Args:
      by_rows, by_columns: (...,M,N). Usually both are the same matrix; XLM-Align uses `Normalised.rows` and `.columns`.
      source_mask, target_mask: (...,M) and (...,N) bool.
      among: (...,M,N) bool, of packed rows.
    """
    # (...,M) and (...,N) indices. Padding never wins, unless there is nothing else; `there` drops it then.
    there = pairs_of(source_mask, target_mask, among)
    best_target = jnp.argmax(jnp.where(there, by_rows, -jnp.inf), axis=-1)
    best_source = jnp.argmax(jnp.where(there, by_columns, -jnp.inf), axis=-2)
    # As one-hot matrices (...,M,N).
    forward = best_target[..., :, None] == jnp.arange(by_rows.shape[-1])
    backward = jnp.arange(by_rows.shape[-2])[:, None] == best_source[..., None, :]
    return forward & there, backward & there


def mutual_argmax(
    by_rows: jax.Array,
    by_columns: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    among: jax.Array | None = None,
) -> jax.Array:
    """Links (...,M,N) bool that are both forward and backward links of `directed_argmax`, with its arguments."""
    forward, backward = directed_argmax(by_rows, by_columns, source_mask, target_mask, among)
    return forward & backward


def itermax(
    similarity: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    *,
    max_count: int = 2,
    alpha: float = 0.9,
    among: jax.Array | None = None,
) -> jax.Array:
    """SimAlign's itermax: mutual argmax, then further rounds for tokens without a link.

    Later rounds multiply similarities by a weight: 1 where both tokens are free, alpha where one is, 0 where both have
    a link.

    Args:
      similarity: (...,M,N), not negative, because entries of weight 0 would win over negative ones.
      source_mask, target_mask: (...,M) and (...,N) bool.
      max_count: number of rounds, with the first one.
      alpha: weight of pairs of which one token is free.
      among: (...,M,N) bool, of packed rows.

    Returns:
      Links (...,M,N) bool. If a sentence has only one or two tokens, the links are those of the first round.
    """
    there = pairs_of(source_mask, target_mask, among)
    links = mutual_argmax(similarity, similarity, source_mask, target_mask, among)
    # (...,M,N): the source or the target sentence of this pair has few tokens.
    sources, targets = jnp.sum(there, -2, keepdims=True), jnp.sum(there, -1, keepdims=True)
    few = jnp.minimum(sources, targets) <= 2
    for _ in range(max_count - 1):
        # (...,M) and (...,N): tokens without a link. (...,M,N): pairs with one free token at least, and with two.
        free_rows = source_mask & ~jnp.any(links, axis=-1)
        free_columns = target_mask & ~jnp.any(links, axis=-2)
        one = free_rows[..., :, None] | free_columns[..., None, :]
        both = free_rows[..., :, None] & free_columns[..., None, :]
        weight = jnp.where(both, 1.0, jnp.where(one, alpha, 0.0)).astype(similarity.dtype)
        damped = similarity * weight
        # SimAlign stops when one side has no free token. Sentences of a batch stop at different rounds, so the links of
        # finished ones are kept by `stop`. A column sees the rows of its sentence pair in `there`, and a row the columns.
        found = mutual_argmax(damped, damped, source_mask, target_mask, among) & one
        rows_left = jnp.any(there & free_rows[..., :, None], -2, keepdims=True)
        columns_left = jnp.any(there & free_columns[..., None, :], -1, keepdims=True)
        links = links | (found & ~(few | ~rows_left | ~columns_left))
    return links


def alignment_probabilities(
    source: jax.Array,
    target: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    among: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """awesome-align's P_s and P_t: the softmax of products of hidden states, over targets and over sources.

    Args:
      source, target: (...,M,D) and (...,N,D) hidden states. Their products are not scaled.
      source_mask, target_mask: (...,M) and (...,N) bool; special tokens must be excluded too.
      among: (...,M,N) bool, of packed rows.

    Returns:
      (...,M,N) each, at least float32. P_s is 0 at excluded targets, P_t at excluded sources.
    """
    dtype = jnp.promote_types(source.dtype, jnp.float32)
    # (...,M,D) x (...,N,D) -> (...,M,N) at full precision, since unscaled products are large and exp magnifies errors.
    scores = jnp.einsum(
        "...md,...nd->...mn", source, target, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )
    return softmax_both_ways(scores, source_mask, target_mask, among)


def softmax_both_ways(
    scores: jax.Array, source_mask: jax.Array, target_mask: jax.Array, among: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The softmax of scores (...,M,N) over targets, and over sources; as `alignment_probabilities`."""
    lowest = jnp.finfo(scores.dtype).min
    over_target, over_source = target_mask[..., None, :], source_mask[..., :, None]
    if among is not None:
        over_target, over_source = over_target & among, over_source & among
    by_source = jax.nn.softmax(jnp.where(over_target, scores, lowest), axis=-1)
    by_target = jax.nn.softmax(jnp.where(over_source, scores, lowest), axis=-2)
    # Where everything is excluded, the softmax is uniform; the result is 0 instead.
    return jnp.where(over_target, by_source, 0.0), jnp.where(over_source, by_target, 0.0)


def above(by_source: jax.Array, by_target: jax.Array, threshold: float = 1e-3) -> jax.Array:
    """awesome-align's links (...,M,N) bool: both probabilities of `alignment_probabilities` exceed the threshold."""
    return (by_source > threshold) & (by_target > threshold)
