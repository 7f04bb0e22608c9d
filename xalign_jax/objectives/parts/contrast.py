"""infonce: one contrast for every objective that pulls positives together against all other candidates.

    loss = - sum_a sum_{p in P(a)} log [ exp s(a,p) / sum_{b in A(a)} exp s(a,b) ],   s(a,b) = (a.b - m 1[b in P(a)]) / t

P(a) are the keys of a's own item, A(a) all keys and queue rows that are present, not a itself and no false negatives.
Word contrast (PreAlign, arXiv 2407.16222), XlCo (InfoXLM, 2007.07834), translation ranking (LaBSE, 2007.01852).

Masks are made from ids for one chunk of queries at a time, the gradient in the forward pass. Under a mesh, queries go to
every device and meet its own keys and queue rows; what is combined are maxima and sums of queries: no key and no queue
row moves, and gradients are those of the whole batch.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xalign_jax import target
from xalign_jax.arrays import join_rows, split_rows
from xalign_jax.objectives.parts.primitives import matmul, rows_on_mesh

# Similarities of queries and keys held at once on a device, and of queries and queue rows (on a CPU: what its cache holds).
BATCH_ELEMENTS = 2**24
QUEUE_ELEMENTS = {"cpu": 2**19}
QUEUE_ELEMENTS_ACCELERATOR = 2**24


class Ids(NamedTuple):
    """Who the rows are. A group or a text shared by any of the columns counts.

    own: (N,) int32, rows of equal own >= 0 are positives; -1 = absent; -2 = present, but never a positive.
    group: (N,G) int32, -1 = none. text: (N,H) integers, equal for equal texts. G and H may be 0.
    """

    own: jax.Array
    group: jax.Array
    text: jax.Array


class Contrast(NamedTuple):
    """Sums over the whole batch, scalars, float32 (float64 of float64 vectors); only `loss` carries a gradient.

    correct: queries whose best candidate is, before any margin, strictly a positive; anchors: those with a positive.
    positive_similarity, similarity: sums of a.b over positive pairs and over all pairs of present rows but a row with
    itself, the queue apart; pairs: the number of the latter.
    """

    loss: jax.Array
    positives: jax.Array
    correct: jax.Array
    anchors: jax.Array
    positive_similarity: jax.Array
    similarity: jax.Array
    pairs: jax.Array


def infonce_flops(items: int, width: int) -> float:
    """FLOPs of the similarities of all items with all items, and of the gradients of both sides."""
    return 6.0 * items * items * width


def infonce(
    query: jax.Array,
    key: jax.Array,
    query_ids: Ids,
    key_ids: Ids,
    temperature: float,
    *,
    exclude_self: bool = False,
    in_batch: bool = True,
    queue: jax.Array | None = None,
    queue_ids: Ids | None = None,
    margin: float = 0.0,
    margin_after_temperature: bool = False,
    chunk: int | None = None,
) -> Contrast:
    """The contrast above, summed over positive pairs.

    A key that is not a positive of a is a false negative, and masked, if it shares a group or a text with a, or if its
    text is one of a positive of a. Of queue rows the last is not asked: list a positive's texts among its query's.

    Args:
      query: (N,D), key: (M,D) vectors, compared by dot product: normalise them first for cosines.
      query_ids, key_ids: who they are; the queries' lists may be longer than the keys'.
      exclude_self: queries are the keys; row i is no candidate of query i.
      in_batch: False = only positives and the queue are candidates.
      queue: (K,D) further candidates, never positives and without a gradient. queue_ids: who they are.
      margin: taken from the similarity of positives, or with `margin_after_temperature` from their scaled similarity.
      chunk: queries at a time; None = a size that suits.
    """
    shift = margin if margin_after_temperature else margin / temperature
    form = _Form(float(temperature), float(shift), exclude_self, in_batch, chunk)
    ids = jax.tree.map(jnp.asarray, (query_ids, key_ids, queue_ids))
    return _infonce(form, query, key, queue, ids)


def positive_pairs(own: jax.Array) -> jax.Array:
    """sum_a |P(a)| of rows contrasted with each other: own (N,) int32, < 0 = none. float32 scalar."""
    ordered = jnp.sort(own)
    members = jnp.searchsorted(ordered, own, side="right") - jnp.searchsorted(ordered, own, side="left")
    return jnp.sum(jnp.where(own >= 0, members - 1, 0), dtype=jnp.float32)


class _Form(NamedTuple):
    temperature: float
    shift: float  # taken from the logits of positives
    exclude_self: bool
    in_batch: bool
    chunk: int | None


class _Rows(NamedTuple):
    ids: Ids
    row: jax.Array  # (n,) number in the global batch


class _TextOwners(NamedTuple):
    """Which items (own) each text occurs in. Entries are texts of keys sorted by text and item; `rank` numbers items."""

    text: jax.Array  # (M,H) number of each text
    entry_text: jax.Array
    entry_own: jax.Array
    entry_rank: jax.Array  # -1: no item, or the pair of text and item has an entry already
    most: jax.Array  # the most items that any text occurs in


class _Past(NamedTuple):
    """Softmax over the queue, not normalised: maximum, sum (n,1), exp-weighted sum of rows (n,D) if a gradient is due."""

    high: jax.Array
    total: jax.Array
    weighted: Any


def _text_owners(ids: Ids) -> _TextOwners:
    own, text = jnp.repeat(ids.own, ids.text.shape[1]), ids.text.reshape(-1)
    order = jnp.lexsort((own, text))
    own, text = own[order], text[order]
    new_text = jnp.concatenate([jnp.ones(1, bool), text[1:] != text[:-1]])
    new_item = (new_text | jnp.concatenate([jnp.ones(1, bool), own[1:] != own[:-1]])) & (own >= 0)
    number, items = jnp.cumsum(new_text) - 1, jnp.cumsum(new_item)
    before = jax.lax.cummax(jnp.where(new_text, items - new_item, 0))
    rank = jnp.where(new_item, items - before - 1, -1)
    numbers = jnp.zeros_like(number).at[order].set(number).reshape(ids.text.shape)
    return _TextOwners(numbers, number, own, rank, jnp.max(rank) + 1)


def _shares_text_with_positive(owners: _TextOwners, query_own: jax.Array) -> jax.Array:
    """(n,M) bool: a text of the key occurs in the query's item. One comparison per item that a text may occur in."""

    def mark(rank: jax.Array, shared: jax.Array) -> jax.Array:
        here = jnp.where(owners.entry_rank == rank, owners.entry_own, -1)
        owner = jnp.full_like(owners.entry_own, -1).at[owners.entry_text].max(here)[owners.text]
        return shared | _any_equal(query_own[:, None], owner)

    empty = jnp.zeros((query_own.shape[0], owners.text.shape[0]), bool)
    return jax.lax.fori_loop(0, owners.most, mark, empty)


def _any_equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """(n,m) bool: any column of a (n,G) equals any of b (m,H)."""
    equal = jnp.zeros((a.shape[0], b.shape[0]), bool)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            equal |= a[:, i, None] == b[:, j]
    return equal


def _shared(query: Ids, key: Ids) -> jax.Array:
    """(n,m) bool: they share a group or a text."""
    group = jnp.where(query.group < 0, -2, query.group)  # none equals none of nobody
    return _any_equal(group, key.group) | _any_equal(query.text, key.text)


def _masks(form: _Form, queries: _Rows, keys: _Rows, owners: _TextOwners | None) -> tuple[jax.Array, ...]:
    """(n,m) bool: both present (and not the same row); positive; candidate."""
    ids, key_ids = queries.ids, keys.ids
    both = (ids.own != -1)[:, None] & (key_ids.own != -1)
    if form.exclude_self:
        both &= queries.row[:, None] != keys.row
    positive = both & (ids.own[:, None] == key_ids.own) & (ids.own >= 0)[:, None]
    if not form.in_batch:
        return both, positive, positive
    shared = _shared(ids, key_ids)
    if owners is not None:
        shared |= _shares_text_with_positive(owners, ids.own)
    return both, positive, both & (positive | ~shared)


def _past(query: jax.Array, ids: Ids, queue: jax.Array, queue_ids: Ids, gradients: bool) -> _Past:
    """One pass over the queue, a block at a time, rescaled whenever a larger logit comes; query is scaled already."""
    n, dtype = query.shape[0], query.dtype
    lowest = jnp.finfo(dtype).min
    elements = QUEUE_ELEMENTS.get(target.platform(), QUEUE_ELEMENTS_ACCELERATOR)
    pieces = -(-queue.shape[0] // max(1, elements // n))

    def step(past: _Past, block: Any) -> tuple[_Past, None]:
        rows, row_ids = block
        rows = rows.astype(dtype)
        candidate = (row_ids.own != -1) & ~_shared(ids, row_ids)
        logits = jnp.where(candidate, matmul(query, rows.T, precision=jax.lax.Precision.HIGHEST), lowest)
        high = jnp.maximum(past.high, jnp.max(logits, axis=1, keepdims=True))
        unnormalised = jnp.where(candidate, jnp.exp(logits - high), 0.0)
        rescale = jnp.exp(past.high - high)
        total = past.total * rescale + jnp.sum(unnormalised, axis=1, keepdims=True)
        weighted = past.weighted * rescale + matmul(unnormalised, rows) if gradients else None
        return _Past(high, total, weighted), None

    ids_of_blocks = Ids(*(_blocks(a, pieces, fill) for a, fill in zip(queue_ids, (-1, 0, 0), strict=True)))
    start = _Past(
        jnp.full((n, 1), lowest, dtype), jnp.zeros((n, 1), dtype), jnp.zeros_like(query) if gradients else None
    )
    return jax.lax.scan(step, start, (_blocks(queue, pieces), ids_of_blocks))[0]


def _blocks(array: jax.Array, pieces: int, fill: int = 0) -> jax.Array:
    """(K,...) -> (pieces, ceil(K/pieces), ...), contiguous."""
    return _fill(array, pieces, fill).reshape(pieces, -(-array.shape[0] // pieces), *array.shape[1:])


def _fill(array: jax.Array, multiple: int, fill: int = 0) -> jax.Array:
    """Rows of `fill` at the end, up to a multiple."""
    padding = [(0, -array.shape[0] % multiple)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding, constant_values=fill) if padding[0][1] else array


def _piece(
    form: _Form,
    axes: tuple[str, ...],
    query: jax.Array,
    key: jax.Array,
    masks: tuple[jax.Array, ...],
    past: _Past | None,
) -> tuple[Contrast, jax.Array, jax.Array]:
    """Sums of one chunk of queries; of this device's keys d loss / d similarity (n,m); the weight of past.weighted (n,1)."""
    both, positive, candidate = masks
    lowest = jnp.finfo(query.dtype).min
    add = functools.partial(jnp.sum, axis=1, keepdims=True, dtype=query.dtype)
    most = functools.partial(jnp.max, axis=1, keepdims=True, initial=lowest)
    similarity = matmul(query, key.T, precision=jax.lax.Precision.HIGHEST)
    logits = jnp.where(candidate, similarity / form.temperature, lowest)
    best_positive, best_negative = most(jnp.where(positive, logits, lowest)), most(jnp.where(positive, lowest, logits))
    if past is not None:
        best_negative = jnp.maximum(best_negative, past.high)
    best_positive, best_negative = jax.lax.pmax((best_positive, best_negative), axes)
    high = jnp.maximum(best_positive - form.shift, best_negative)
    unnormalised = jnp.where(candidate, jnp.exp(logits - jnp.where(positive, form.shift, 0.0) - high), 0.0)
    own = [
        add(unnormalised),
        add(positive),
        add(jnp.where(positive, logits, 0.0)),
        add(jnp.where(both, similarity, 0.0)),
    ]
    if past is not None:
        rescale = jnp.exp(past.high - high)
        own[0] += past.total * rescale
    normaliser, count, at_positives, all_similarity, pairs = jax.lax.psum((*own, add(both)), axes)
    normaliser = jnp.maximum(normaliser, 1e-30)
    has_positive = count > 0
    losses = count * (jnp.log(normaliser) + high + form.shift) - at_positives
    sums = Contrast(
        loss=jnp.sum(jnp.where(has_positive, losses, 0.0)),
        positives=jnp.sum(count),
        correct=jnp.sum(has_positive & (best_positive > best_negative), dtype=query.dtype),
        anchors=jnp.sum(has_positive, dtype=query.dtype),
        positive_similarity=form.temperature * jnp.sum(at_positives),
        similarity=jnp.sum(all_similarity),
        pairs=jnp.sum(pairs),
    )
    weight = count / (normaliser * form.temperature)
    d_similarity = unnormalised * weight - jnp.where(positive, 1 / form.temperature, 0.0)
    return sums, d_similarity, jnp.zeros_like(count) if past is None else weight * rescale


def _device(
    form: _Form, axes: tuple[str, ...], gradients: bool, query: jax.Array, key: jax.Array, queue: Any, ids: Any
) -> Any:
    """The contrast of all queries with this device's keys and queue rows: sums of all devices, gradients of its rows."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    own_ids, key_ids, queue_ids = ids
    everyone, all_ids, all_keys = query, own_ids, key_ids
    first = jnp.int32(0)
    if axes:
        everyone, all_ids, all_keys = jax.tree.map(functools.partial(_gather, axes), (query, own_ids, key_ids))
        first = jax.lax.axis_index(axes).astype(jnp.int32) * key.shape[0]
    keys, key_rows = key.astype(dtype), _Rows(key_ids, first + jnp.arange(key.shape[0], dtype=jnp.int32))
    owners = None
    if form.in_batch and key_ids.text.shape[1]:
        owners = _text_owners(all_keys)
        owners = owners._replace(text=jax.lax.dynamic_slice_in_dim(owners.text, first, key.shape[0]))

    def step(carry: Any, rows: Any) -> Any:
        total, d_key = carry
        x, queries = rows
        past = None if queue is None else _past(x / form.temperature, queries.ids, queue, queue_ids, gradients)
        masks = _masks(form, queries, key_rows, owners)
        sums, d_similarity, weight = _piece(form, axes, x, keys, masks, past)
        total = jax.tree.map(jnp.add, total, sums)
        if not gradients:
            return (total, None), None
        d_x = matmul(d_similarity, keys)
        if past is not None:
            d_x += past.weighted * weight
        return (total, d_key + matmul(d_similarity.T, x)), d_x

    count = everyone.shape[0]
    pieces = math.ceil(count / (form.chunk or max(1, BATCH_ELEMENTS // key.shape[0])))
    start = (Contrast(*[jnp.zeros((), dtype)] * len(Contrast._fields)), jnp.zeros_like(keys) if gradients else None)
    (total, d_key), d_query = jax.lax.scan(step, start, _split(everyone.astype(dtype), all_ids, pieces))
    if d_key is None:
        return total, None
    d_query = _scatter(axes, join_rows(d_query, count))
    return total, (d_query.astype(query.dtype), d_key.astype(key.dtype))


# One mesh axis after another: of all at once XLA for TPU makes a sum of everything everywhere. The first axis, which may
# span slices, has the smallest part: it is gathered along first and scattered along last.


def _gather(axes: tuple[str, ...], part: jax.Array) -> jax.Array:
    """(n,...) of each device -> (N,...) on every device, in the order of the devices."""
    whole = part
    for dimension, axis in enumerate(axes):
        whole = jax.lax.all_gather(whole, axis, axis=dimension)
    return jax.lax.collapse(whole, 0, len(axes) + 1)


def _scatter(axes: tuple[str, ...], whole: jax.Array) -> jax.Array:
    """(N,...) -> the sum over all devices of the rows (n,...) that are this device's."""
    part = whole.reshape(*map(jax.lax.axis_size, axes), -1, *whole.shape[1:])
    for dimension, axis in reversed(list(enumerate(axes))):
        part = jax.lax.psum_scatter(part, axis, scatter_dimension=dimension)
    return part


def _split(query: jax.Array, ids: Ids, pieces: int) -> Any:
    """Chunks of queries; what fills the last chunk is absent."""
    split_ids = Ids(*(split_rows(a, pieces, fill) for a, fill in zip(ids, (-1, 0, 0), strict=True)))
    row = jnp.arange(query.shape[0], dtype=jnp.int32)
    return split_rows(query, pieces), _Rows(split_ids, split_rows(row, pieces, fill=-1))


def _everywhere(form: _Form, gradients: bool, query: jax.Array, key: jax.Array, queue: Any, ids: Any) -> Any:
    """The contrast on the devices of the mesh in context, which rows need not divide, or on one."""
    _, axes, ways = rows_on_mesh()
    if ways == 1:
        return _device(form, (), gradients, query, key, queue, ids)
    rows = jax.tree.map(lambda array: _fill(array, ways), (query, key, queue))
    whole_ids = tuple(
        None if one is None else Ids(_fill(one.own, ways, -1), _fill(one.group, ways), _fill(one.text, ways))
        for one in ids
    )
    spread = PartitionSpec(axes)
    run = jax.shard_map(
        lambda *arrays: _device(form, axes, gradients, *arrays),
        in_specs=spread,
        out_specs=(PartitionSpec(), spread),
        check_vma=False,  # sums are equal on all devices by psum
    )
    total, found = run(*rows, whole_ids)
    return total, (found[0][: query.shape[0]], found[1][: key.shape[0]]) if gradients else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _infonce(form: _Form, query: Any, key: Any, queue: Any, ids: Any) -> Contrast:
    return _everywhere(form, False, query, key, queue, ids)[0]


def _forward(form: _Form, query: Any, key: Any, queue: Any, ids: Any) -> Any:
    return _everywhere(form, True, query, key, queue, ids)


def _backward(form: _Form, gradients: Any, g: Contrast) -> Any:
    d_query, d_key = (array * g.loss.astype(array.dtype) for array in gradients)
    return d_query, d_key, None, None


_infonce.defvjp(_forward, _backward)
