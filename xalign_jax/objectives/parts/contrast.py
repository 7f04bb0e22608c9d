"""infonce: one contrast for every objective that pulls positives together against all other candidates.

    loss = - sum_a sum_{p in P(a)} log [ exp s(a,p) / sum_{b in A(a)} exp s(a,b) ]
    s(a,b) = (a.b - m [b in P(a)]) / t

P(a) are the keys of a's own item. A(a) are all keys and queue rows that are present, except a itself and false
negatives. Three published methods are settings of it:

- the word contrast (PreAlign, Li et al. 2024, arXiv 2407.16222),
- XlCo (InfoXLM, Chi et al. 2021, arXiv 2007.07834),
- translation ranking (LaBSE, Feng et al. 2022, arXiv 2007.01852).

Similarities and masks exist for one chunk of queries at a time. The gradient is computed beside the loss in the forward
pass, so that nothing of the size queries x keys is kept for a backward pass.

On a mesh, all queries travel to every device and meet the device's own keys and queue rows. The devices then combine a
few numbers for each query: maxima and sums. Keys and queue rows never move, and gradients are those of the whole batch.

Shapes: N queries, M keys and K queue rows in the global batch, of width D; G groups and H texts for each row. Inside
the functions, n are the queries of a chunk, and m the keys of one device.
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
from xalign_jax.matrix_product import product
from xalign_jax.objectives.parts.candidates import Ids, Rows, masks_of, shared_ids, text_owners
from xalign_jax.objectives.parts.primitives import rows_on_mesh

# How many similarities a device holds at once: of queries and keys, and of queries and queue rows. On a CPU the second
# number is small, so that a block stays in the cache.
BATCH_ELEMENTS = 2**24
QUEUE_ELEMENTS = {"cpu": 2**19}
QUEUE_ELEMENTS_ACCELERATOR = 2**24


class Contrast(NamedTuple):
    """Sums over the whole batch: scalars, float32, or float64 if the vectors are. Only `loss` carries a gradient.

    Attributes:
      loss: the sum at the top of this module.
      positives: number of pairs (a, p), the sum of |P(a)|.
      correct: number of queries whose best candidate, before any margin, is a positive; a tie does not count.
      anchors: number of queries that have a positive.
      positive_similarity: sum of a.b over positive pairs.
      similarity: sum of a.b over all pairs of a present query and a present key. A row is not paired with itself, and
        queue rows do not count.
      pairs: number of these pairs.
    """

    loss: jax.Array
    positives: jax.Array
    correct: jax.Array
    anchors: jax.Array
    positive_similarity: jax.Array
    similarity: jax.Array
    pairs: jax.Array


def infonce_flops(items: int, width: int) -> float:
    """FLOPs of three products: the similarities of all items with all items, and the gradients of both sides."""
    return 6.0 * items * items * width


@jax.named_scope("contrast")
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
    """The contrast at the top of this module, summed over positive pairs.

    Some keys that are not positives of query a are false negatives, which are masked:

    - keys that share a group or a text with a,
    - keys that have the same text as a positive of a. This second check is not made for queue rows. To mask them too,
      add the texts of the positives to the texts of the query.

    Args:
      query: (N,D) vectors, float32, bfloat16 or float64. They are compared by dot product; normalise them for cosines.
      key: (M,D) vectors, among them the positives.
      query_ids, key_ids: `Ids` of N and M rows. G and H may differ between queries and keys.
      temperature: t, positive.
      exclude_self: the queries are the keys, and row i is no candidate of query i.
      in_batch: False = only positives and the queue are candidates.
      queue: (K,D) further candidates, never positives and without a gradient; None = no queue.
      queue_ids: `Ids` of K rows.
      margin: m, subtracted from the similarity of positives (LaBSE), or with `margin_after_temperature` from their
        scaled similarity a.b / t (DAP's code).
      chunk: queries at a time; None = a size that suits the device.
    """
    # From here on the margin is a shift of the positives' logits a.b / t.
    shift = margin if margin_after_temperature else margin / temperature
    form = _Form(float(temperature), float(shift), exclude_self, in_batch, chunk)
    ids = jax.tree.map(jnp.asarray, (query_ids, key_ids, queue_ids))
    return _infonce(form, query, key, queue, ids)


def positive_pairs(own: jax.Array) -> jax.Array:
    """sum_a |P(a)| for rows that are contrasted with each other: own (N,) int32, negative = no item. float32 scalar."""
    # (N,): how many rows have the same `own`, by binary search in the sorted values instead of an (N,N) comparison.
    ordered = jnp.sort(own)
    members = jnp.searchsorted(ordered, own, side="right") - jnp.searchsorted(ordered, own, side="left")
    return jnp.sum(jnp.where(own >= 0, members - 1, 0), dtype=jnp.float32)


# Ids of the queries, the keys and the queue; gradients of the queries and the keys.
_AllIds = tuple[Ids, Ids, Ids | None]
_Gradients = tuple[jax.Array, jax.Array] | None


class _Form(NamedTuple):
    """The settings of `infonce`: plain values, which are constants of a compiled program."""

    temperature: float
    shift: float  # taken from the logits of positives
    exclude_self: bool
    in_batch: bool
    chunk: int | None


class _Past(NamedTuple):
    """The softmax of n queries over the queue, before it is divided by its sum."""

    high: jax.Array  # (n,1) largest logit
    total: jax.Array  # (n,1) sum of exp(logit - high)
    weighted: Any  # (n,D) sum of exp(logit - high) * queue row; None = no gradient is wanted


def _past(query: jax.Array, ids: Ids, queue: jax.Array, queue_ids: Ids, gradients: bool) -> _Past:
    """The softmax of queries (n,D), already divided by the temperature, over this device's part of the queue.

    One pass over the queue, a block of b rows at a time. Sums are rescaled whenever a block has a larger logit (online
    softmax), so that (n,K) logits never exist.
    """
    n, dtype = query.shape[0], query.dtype
    # The lowest finite number stands for minus infinity: where all rows are masked, -inf - (-inf) would be NaN.
    lowest = jnp.finfo(dtype).min
    elements = QUEUE_ELEMENTS.get(target.platform(), QUEUE_ELEMENTS_ACCELERATOR)
    pieces = -(-queue.shape[0] // max(1, elements // n))

    def step(past: _Past, block: tuple[jax.Array, Ids]) -> tuple[_Past, None]:
        rows, row_ids = block
        rows = rows.astype(dtype)
        candidate = (row_ids.own != -1) & ~shared_ids(ids, row_ids)
        # (n,D) x (D,b) -> (n,b) logits at full float32 precision: a TPU's default would round the inputs to bfloat16.
        logits = jnp.where(candidate, product(query, rows, "nt", precision=jax.lax.Precision.HIGHEST), lowest)
        high = jnp.maximum(past.high, jnp.max(logits, axis=1, keepdims=True))
        # If every row so far is masked, logits - high is 0 and exp gives 1; `where` makes that 0 again.
        unnormalised = jnp.where(candidate, jnp.exp(logits - high), 0.0)
        # Bring the sums of earlier blocks to the new maximum, then add this block: (n,1) and (n,b) x (b,D) -> (n,D).
        rescale = jnp.exp(past.high - high)
        total = past.total * rescale + jnp.sum(unnormalised, axis=1, keepdims=True)
        weighted = past.weighted * rescale + product(unnormalised, rows) if gradients else None
        return _Past(high, total, weighted), None

    # (K,..) -> (blocks,b,..). Rows that fill the last block are absent (-1).
    ids_of_blocks = Ids(*(_blocks(a, pieces, fill) for a, fill in zip(queue_ids, (-1, 0, 0), strict=True)))
    start = _Past(
        jnp.full((n, 1), lowest, dtype), jnp.zeros((n, 1), dtype), jnp.zeros_like(query) if gradients else None
    )
    return jax.lax.scan(step, start, (_blocks(queue, pieces), ids_of_blocks))[0]


def _blocks(array: jax.Array, pieces: int, fill: int = 0) -> jax.Array:
    """(K,...) -> (pieces, ceil(K/pieces), ...), contiguous: the rows already lie on one device."""
    return _fill(array, pieces, fill).reshape(pieces, -(-array.shape[0] // pieces), *array.shape[1:])


def _fill(array: jax.Array, multiple: int, fill: int = 0) -> jax.Array:
    """Append rows of `fill`, so that the number of rows is a multiple of `multiple`."""
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
    """The contrast of a chunk of queries (n,D) with this device's keys (m,D).

    Args:
      axes: mesh axes over which keys and queue are spread; () = one device.
      masks: those of `masks_of`, (n,m) each.
      past: the softmax over this device's part of the queue; None = no queue.

    Returns:
      Three values. First, sums over the chunk, the same on all devices. Second, d loss / d similarity (n,m) for this
      device's keys. Third, the factor (n,1) that turns `past.weighted` into the queue's part of d loss / d query.
    """
    both, positive, candidate = masks
    lowest = jnp.finfo(query.dtype).min
    add = functools.partial(jnp.sum, axis=1, keepdims=True, dtype=query.dtype)
    most = functools.partial(jnp.max, axis=1, keepdims=True, initial=lowest)
    # (n,D) x (D,m) -> (n,m). HIGHEST: at a temperature of 0.05, bfloat16 inputs would move logits by almost 0.1.
    similarity = product(query, key, "nt", precision=jax.lax.Precision.HIGHEST)
    logits = jnp.where(candidate, similarity / form.temperature, lowest)
    # (n,1): the best positive and the best other candidate, over this device's keys and queue, then over all devices.
    best_positive, best_negative = most(jnp.where(positive, logits, lowest)), most(jnp.where(positive, lowest, logits))
    if past is not None:
        best_negative = jnp.maximum(best_negative, past.high)
    best_positive, best_negative = jax.lax.pmax((best_positive, best_negative), axes)
    # The largest logit after the margin. It is the same on all devices, so that their sums of exp add up.
    high = jnp.maximum(best_positive - form.shift, best_negative)
    unnormalised = jnp.where(candidate, jnp.exp(logits - jnp.where(positive, form.shift, 0.0) - high), 0.0)
    # (n,1) each: this device's part of the normaliser, of |P(a)|, and of the sums for the loss and the metrics.
    own = [
        add(unnormalised),
        add(positive),
        add(jnp.where(positive, logits, 0.0)),
        add(jnp.where(both, similarity, 0.0)),
    ]
    if past is not None:
        # The queue's sum is relative to the queue's own maximum; bring it to the common one.
        rescale = jnp.exp(past.high - high)
        own[0] += past.total * rescale
    normaliser, count, at_positives, all_similarity, pairs = jax.lax.psum((*own, add(both)), axes)
    # An absent query has no candidate. Its log 0 would turn into NaN below.
    normaliser = jnp.maximum(normaliser, 1e-30)
    has_positive = count > 0
    # sum_p [log sum_b exp(l_b) - l_p], where log sum_b exp(l_b) = log(normaliser) + high, and l_p = logit - shift.
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
    # d loss / d (a.b) = (|P(a)| softmax(b) - [b in P(a)]) / t.
    weight = count / (normaliser * form.temperature)
    d_similarity = unnormalised * weight - jnp.where(positive, 1 / form.temperature, 0.0)
    return sums, d_similarity, jnp.zeros_like(count) if past is None else weight * rescale


def _device(
    form: _Form,
    axes: tuple[str, ...],
    gradients: bool,
    query: jax.Array,
    key: jax.Array,
    queue: jax.Array | None,
    ids: _AllIds,
) -> tuple[Contrast, _Gradients]:
    """The contrast of all queries with this device's keys and queue rows.

    Args:
      axes: mesh axes over which rows are spread; () = one device.
      query, key, queue, ids: this device's rows.

    Returns:
      Sums over all devices, and the gradients of this device's queries and keys (None without `gradients`).
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    own_ids, key_ids, queue_ids = ids
    # Gather the queries of all devices (N,D), and the ids of all keys, since a text's items may lie on any device.
    everyone, all_ids, all_keys = query, own_ids, key_ids
    first = jnp.int32(0)
    if axes:
        everyone, all_ids, all_keys = jax.tree.map(functools.partial(_gather, axes), (query, own_ids, key_ids))
        first = jax.lax.axis_index(axes).astype(jnp.int32) * key.shape[0]
    keys, key_rows = key.astype(dtype), Rows(key_ids, first + jnp.arange(key.shape[0], dtype=jnp.int32))
    owners = None
    if form.in_batch and key_ids.text.shape[1]:
        # The table is made of all keys, but is only asked about this device's keys: (M,H) -> (m,H).
        owners = text_owners(all_keys)
        owners = owners._replace(text=jax.lax.dynamic_slice_in_dim(owners.text, first, key.shape[0]))

    def step(
        carry: tuple[Contrast, jax.Array | None], rows: tuple[jax.Array, Rows]
    ) -> tuple[tuple[Contrast, jax.Array | None], jax.Array | None]:
        total, d_key = carry
        # A chunk of queries x (n,D) against all of this device's candidates.
        x, queries = rows
        past = None
        if queue is not None:
            assert queue_ids is not None, "a queue needs queue_ids"
            past = _past(x / form.temperature, queries.ids, queue, queue_ids, gradients)
        masks = masks_of(queries, key_rows, owners, form.exclude_self, form.in_batch)
        sums, d_similarity, weight = _piece(form, axes, x, keys, masks, past)
        total = jax.tree.map(jnp.add, total, sums)
        if d_key is None:
            return (total, None), None
        # This device's part of d loss / d query: (n,m) x (m,D) -> (n,D), and the part of the queue.
        d_x = product(d_similarity, keys)
        if past is not None:
            d_x += past.weighted * weight
        # d loss / d key (m,D) needs no sum over devices, because all queries pass by here.
        return (total, d_key + product(d_similarity, x, "tn")), d_x

    count = everyone.shape[0]
    pieces = math.ceil(count / (form.chunk or max(1, BATCH_ELEMENTS // key.shape[0])))
    start = (Contrast(*[jnp.zeros((), dtype)] * len(Contrast._fields)), jnp.zeros_like(keys) if gradients else None)
    (total, d_key), d_query = jax.lax.scan(step, start, _split(everyone.astype(dtype), all_ids, pieces))
    if d_key is None or d_query is None:
        return total, None
    # (chunks,n,D) -> (N,D), then summed over devices; each device keeps its own rows.
    d_query = _scatter(axes, join_rows(d_query, count))
    return total, (d_query.astype(query.dtype), d_key.astype(key.dtype))


# Gather one mesh axis at a time: a joint gather makes XLA for TPU emit a full all-reduce. The first axis may span
# slices, between which links are slow. A gather begins and a scatter ends with it, when the arrays are smallest.


def _gather(axes: tuple[str, ...], part: jax.Array) -> jax.Array:
    """(n,...) on each device -> (N,...) on every device, in the order of the devices."""
    # Each round adds an axis for its mesh axis: (n,..) -> (data,n,..) -> (data,fsdp,n,..). Then they become one.
    whole = part
    for dimension, axis in enumerate(axes):
        whole = jax.lax.all_gather(whole, axis, axis=dimension)
    return jax.lax.collapse(whole, 0, len(axes) + 1)


def _scatter(axes: tuple[str, ...], whole: jax.Array) -> jax.Array:
    """(N,...) on each device -> (n,...): the sum over all devices. Each device keeps its own rows of it."""
    part = whole.reshape(*map(jax.lax.axis_size, axes), -1, *whole.shape[1:])
    for dimension, axis in reversed(list(enumerate(axes))):
        part = jax.lax.psum_scatter(part, axis, scatter_dimension=dimension)
    return part


def _split(query: jax.Array, ids: Ids, pieces: int) -> tuple[jax.Array, Rows]:
    """Chunks of queries, (N,..) -> (pieces,n,..) for every array. Rows that fill the last chunk are absent."""
    split_ids = Ids(*(split_rows(a, pieces, fill) for a, fill in zip(ids, (-1, 0, 0), strict=True)))
    row = jnp.arange(query.shape[0], dtype=jnp.int32)
    return split_rows(query, pieces), Rows(split_ids, split_rows(row, pieces, fill=-1))


def _everywhere(
    form: _Form, gradients: bool, query: jax.Array, key: jax.Array, queue: jax.Array | None, ids: _AllIds
) -> tuple[Contrast, _Gradients]:
    """The contrast on all devices of the mesh in context, or on one device. No number of rows has to divide."""
    _, axes, ways = rows_on_mesh()
    if ways == 1:
        return _device(form, (), gradients, query, key, queue, ids)
    # Fill up to a multiple of the devices with absent rows (own = -1).
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
    # Cut the filling off the gradients again: (N,D) and (M,D).
    return total, (found[0][: query.shape[0]], found[1][: key.shape[0]]) if found is not None else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _infonce(form: _Form, query: jax.Array, key: jax.Array, queue: jax.Array | None, ids: _AllIds) -> Contrast:
    return _everywhere(form, False, query, key, queue, ids)[0]


def _forward(
    form: _Form, query: jax.Array, key: jax.Array, queue: jax.Array | None, ids: _AllIds
) -> tuple[Contrast, _Gradients]:
    # JAX keeps the second value for `_backward`: gradients (N,D) and (M,D) instead of (N,M) similarities.
    return _everywhere(form, True, query, key, queue, ids)


def _backward(
    form: _Form, gradients: tuple[jax.Array, jax.Array], g: Contrast
) -> tuple[jax.Array, jax.Array, None, None]:
    # `g` holds one derivative for each output. Only the loss counts, and only the vectors have a gradient.
    d_query, d_key = (array * g.loss.astype(array.dtype) for array in gradients)
    return d_query, d_key, None, None


_infonce.defvjp(_forward, _backward)
