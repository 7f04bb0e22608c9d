"""infonce: one contrast for every objective that pulls positives together against all other candidates.

    loss = - sum_a sum_{p in P(a)} log [ exp s(a,p) / sum_{b in A(a)} exp s(a,b) ],   s(a,b) = a.b / temperature

P(a) are the keys of a's group, A(a) all keys that are present, not a itself and no false negatives. Averaged over
positive pairs, with k = 2 words a group this is PreAlign's symmetric pair form (arXiv 2407.16222). Masks are made from
ids for one chunk of queries at a time, the gradient in the forward pass.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xalign_jax.objectives.primitives import join_rows, matmul, split_rows

LOWEST = jnp.finfo(jnp.float32).min


class Ids(NamedTuple):
    """Who the rows are: group (N,) int32, -1 = absent; text (N,) integers, equal for equal texts."""

    group: jax.Array
    text: jax.Array


class Contrast(NamedTuple):
    """Sums over the whole batch, float32 scalars; only `loss` carries a gradient.

    correct: anchors whose best candidate is strictly a positive; anchors: those with a positive.
    positive_similarity, similarity: sums of a.b over positive pairs and over all pairs of present rows but a row with
    itself; pairs: the number of the latter.
    """

    loss: jax.Array
    positives: jax.Array
    correct: jax.Array
    anchors: jax.Array
    positive_similarity: jax.Array
    similarity: jax.Array
    pairs: jax.Array


def infonce(
    query: jax.Array,
    key: jax.Array,
    query_ids: Ids,
    key_ids: Ids,
    temperature: float,
    *,
    exclude_self: bool,
    chunk: int | None = None,
) -> Contrast:
    """The contrast above, summed over positive pairs.

    A key that is not a positive of a is a false negative, and masked, if it shares a's group or text, or its text
    occurs in a's group among the keys (that is, in a positive of a).

    Args:
      query: (N,D), key: (M,D) vectors, compared by dot product: normalise them first for cosines.
      query_ids, key_ids: their groups and texts.
      exclude_self: queries are the keys; row i is no candidate of query i.
      chunk: queries at a time, so that only (chunk, M) similarities exist; None = all.
    """
    pieces = 1 if chunk is None else -(-query.shape[0] // chunk)
    query_ids, key_ids = jax.tree.map(jnp.asarray, (query_ids, key_ids))
    ids = (_Queries(query_ids, jnp.arange(query.shape[0], dtype=jnp.int32)), key_ids)
    return _infonce(pieces, float(temperature), exclude_self, query, key, ids)


def positive_pairs(group: jax.Array) -> jax.Array:
    """sum_a |P(a)| of rows contrasted with each other: group (N,) int32, -1 = absent. float32 scalar."""
    ordered = jnp.sort(group)
    members = jnp.searchsorted(ordered, group, side="right") - jnp.searchsorted(ordered, group, side="left")
    return jnp.sum(jnp.where(group >= 0, members - 1, 0), dtype=jnp.float32)


class _Queries(NamedTuple):
    ids: Ids
    row: jax.Array


class _TextGroups(NamedTuple):
    """Which groups each text occurs in. Entries are keys sorted by text and group; `rank` numbers a text's groups."""

    text: jax.Array  # (M,) of each key: number of its text
    entry_text: jax.Array
    entry_group: jax.Array
    entry_rank: jax.Array  # -1: the pair of text and group has an entry already
    most: jax.Array  # the most groups that any text occurs in


def _text_groups(ids: Ids) -> _TextGroups:
    present = ids.group >= 0
    order = jnp.lexsort((ids.group, ids.text, ~present))
    text, group, present = ids.text[order], ids.group[order], present[order]
    new_text = jnp.concatenate([jnp.ones(1, bool), (text[1:] != text[:-1]) | (present[1:] != present[:-1])])
    new_pair = new_text | jnp.concatenate([jnp.ones(1, bool), group[1:] != group[:-1]])
    number = jnp.cumsum(new_text) - 1
    pairs = jnp.cumsum(new_pair)
    before = jax.lax.cummax(jnp.where(new_text, pairs, 0))
    rank = jnp.where(new_pair & present, pairs - before, -1)
    return _TextGroups(jnp.zeros_like(number).at[order].set(number), number, group, rank, jnp.max(rank) + 1)


def _shares_text_with_group(groups: _TextGroups, query_group: jax.Array) -> jax.Array:
    """(n,M) bool: the key's text occurs in the query's group. One comparison per group that a text may occur in."""

    def mark(rank: jax.Array, shared: jax.Array) -> jax.Array:
        here = jnp.where(groups.entry_rank == rank, groups.entry_group, -1)
        alias = jnp.full_like(groups.text, -1).at[groups.entry_text].max(here)[groups.text]
        return shared | (alias == query_group[:, None])

    empty = jnp.zeros((query_group.shape[0], groups.text.shape[0]), bool)
    return jax.lax.fori_loop(0, groups.most, mark, empty)


def _masks(queries: _Queries, keys: Ids, groups: _TextGroups, exclude_self: bool) -> tuple[jax.Array, ...]:
    """(n,M) bool: both present (and not the same row); positive; candidate."""
    ids = queries.ids
    both = (ids.group >= 0)[:, None] & (keys.group >= 0)
    if exclude_self:
        both &= queries.row[:, None] != jnp.arange(keys.group.shape[0])
    positive = both & (ids.group[:, None] == keys.group)
    shared = _shares_text_with_group(groups, ids.group) | (ids.text[:, None] == keys.text)
    return both, positive, both & (positive | ~shared)


def _piece(
    query: jax.Array, key: jax.Array, temperature: float, masks: tuple[jax.Array, ...]
) -> tuple[Contrast, jax.Array, jax.Array]:
    """Sums of one chunk of queries, the softmax over candidates (n,M) and the positives of each query (n,1)."""
    both, positive, candidate = masks
    similarity = matmul(query, key.T, precision=jax.lax.Precision.HIGHEST)
    logits = jnp.where(candidate, similarity / temperature, LOWEST)
    high = jnp.max(logits, axis=1, keepdims=True)
    unnormalised = jnp.where(candidate, jnp.exp(logits - high), 0.0)
    normaliser = jnp.maximum(jnp.sum(unnormalised, axis=1, keepdims=True), 1e-30)
    count = jnp.sum(positive, axis=1, keepdims=True, dtype=jnp.float32)
    at_positives = jnp.sum(jnp.where(positive, logits, 0.0), axis=1, keepdims=True)
    best_positive = jnp.max(jnp.where(positive, logits, LOWEST), axis=1)
    best_negative = jnp.max(jnp.where(positive, LOWEST, logits), axis=1)
    has_positive = count[:, 0] > 0
    sums = Contrast(
        loss=jnp.sum(jnp.where(count > 0, count * (jnp.log(normaliser) + high) - at_positives, 0.0)),
        positives=jnp.sum(count),
        correct=jnp.sum(has_positive & (best_positive > best_negative), dtype=jnp.float32),
        anchors=jnp.sum(has_positive, dtype=jnp.float32),
        positive_similarity=temperature * jnp.sum(at_positives),
        similarity=jnp.sum(jnp.where(both, similarity, 0.0)),
        pairs=jnp.sum(both, dtype=jnp.float32),
    )
    return sums, unnormalised / normaliser, count


def _zeros() -> Contrast:
    return Contrast(*(jnp.zeros((), jnp.float32) for _ in Contrast._fields))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _infonce(pieces: int, temperature: float, exclude_self: bool, query: Any, key: Any, ids: Any) -> Contrast:
    groups = _text_groups(ids[1])

    def step(total: Contrast, rows: Any) -> tuple[Contrast, None]:
        x, queries = rows
        sums, _, _ = _piece(x, key, temperature, _masks(queries, ids[1], groups, exclude_self))
        return jax.tree.map(jnp.add, total, sums), None

    return jax.lax.scan(step, _zeros(), _split(query, ids[0], pieces))[0]


def _forward(pieces: int, temperature: float, exclude_self: bool, query: Any, key: Any, ids: Any) -> Any:
    groups = _text_groups(ids[1])

    def step(carry: Any, rows: Any) -> Any:
        total, d_key = carry
        x, queries = rows
        masks = _masks(queries, ids[1], groups, exclude_self)
        sums, softmax, count = _piece(x, key, temperature, masks)
        d_similarity = ((softmax * count - masks[1]) / temperature).astype(x.dtype)
        d_key = d_key + matmul(d_similarity.T, x)
        return (jax.tree.map(jnp.add, total, sums), d_key), matmul(d_similarity, key).astype(x.dtype)

    start = (_zeros(), jnp.zeros(key.shape, jnp.float32))
    (total, d_key), d_query = jax.lax.scan(step, start, _split(query, ids[0], pieces))
    return total, (join_rows(d_query, query.shape[0]), d_key.astype(key.dtype))


def _backward(pieces: int, temperature: float, exclude_self: bool, gradients: Any, g: Contrast) -> Any:
    d_query, d_key = (array * g.loss.astype(array.dtype) for array in gradients)
    return d_query, d_key, None


_infonce.defvjp(_forward, _backward)


def _split(query: jax.Array, queries: _Queries, pieces: int) -> Any:
    """Chunks of queries; what fills the last chunk is absent."""
    group, text = queries.ids
    ids = Ids(split_rows(group, pieces, fill=-1), split_rows(text, pieces))
    return split_rows(query, pieces), _Queries(ids, split_rows(queries.row, pieces, fill=-1))
