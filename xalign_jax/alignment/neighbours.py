"""Nearest neighbours by cosine, and scores that keep hubs from winning.

`best` reads a whole matrix of scores on the host. `neighbours` computes the cosines block by block on the accelerator
and never holds the whole matrix. Both give the same record, and everything after them works on that record.

Shapes: Q queries, C candidates, D the width, k neighbours. Cosines have no unit and lie in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment import checked, shortlists
from xalign_jax.alignment.shortlists import padded, unit_rows
from xalign_jax.matrix_product import fast_bfloat16

MARGINS = ("absolute", "ratio", "distance", "csls")
# Queries and candidates of a block. On CPUs the block of scores stays in the cache: 10k x 10k took 0.6 of the time of
# blocks of 1024 x 8192. An accelerator gets 2 GiB of scores at a time, because each block crosses the bus.
CPU_BLOCK, ACCELERATOR_BLOCK = (1024, 2048), (8192, 65536)
TILE = 128  # blocks are multiples of it
CHUNK = 32  # scores of which only the largest one is compared first
# Shortlists pay from this many candidates on, where bfloat16 products are fast: comparing a shortlist again costs as much
# as some 10,000 candidates.
SHORTLIST_FROM = 65_536


class Neighbours(NamedTuple):
    """The best candidates of each query, best first; among equal scores the candidate of lower index comes first.

    Attributes:
      scores: (Q,k) floats.
      indices: (Q,k) integers, rows of the candidates.
    """

    scores: np.ndarray
    indices: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def cosines(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The whole matrix (Q,C) of cosines, for sets small enough. Zero vectors have cosine 0."""
    return unit(queries) @ unit(candidates).T


def best(scores: np.ndarray, k: int = 1) -> Neighbours:
    """The k best columns of each row of a matrix (Q,C); all of them if C < k."""
    left = scores.copy() if k > 1 else scores
    rows = np.arange(len(scores))
    index = []
    for _ in range(min(k, scores.shape[1])):
        # argmax takes the first of equals. What is taken cannot be taken again.
        index.append(left.argmax(1))
        if k > 1:
            left[rows, index[-1]] = -np.inf
    found = np.stack(index, axis=1)
    return Neighbours(np.take_along_axis(scores, found, axis=1), found)


def neighbours(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int = 1,
    *,
    penalty: np.ndarray | None = None,
    block: tuple[int, int] | None = None,
) -> Neighbours:
    """The k candidates of largest cosine for each query, computed in float32 with bounded memory.

    Memory beyond the arguments is a few blocks and the result (Q,k). Memory maps are read in pieces. Work is 2 Q C D
    operations. For many candidates, bfloat16 products find shortlists first, and float32 decides (`shortlists`).

    Args:
      queries, candidates: (Q,D) and (C,D) numbers of any float type. If C < k, all candidates are returned.
      penalty: (C,) floats that are subtracted from the cosines of each candidate. r_k(y)/2 gives the order of CSLS.
      block: the most queries and candidates whose scores are held at once; None takes what suits the device. It changes
        speed and memory only.

    Raises:
      UserError: the widths differ, a number is not finite, or a side is empty.
    """
    queries = checked.matrix("neighbours", "queries", queries)
    candidates = checked.matrix("neighbours", "candidates", candidates)
    if queries.shape[1] != candidates.shape[1]:
        checked.refuse("neighbours", f"queries have width {queries.shape[1]}, candidates {candidates.shape[1]}")
    checked.between("neighbours", "k", k, 1)
    count = len(candidates)
    penalty = np.zeros(count) if penalty is None else checked.column("neighbours", "penalty", penalty, count)
    k = min(k, count)
    if block is not None or count < SHORTLIST_FROM or not fast_bfloat16():
        return _exact(queries, candidates, penalty, k, block)
    found, sure = shortlists.search(queries, candidates, penalty, k)
    if not sure.all():
        again = _exact(queries[~sure], candidates, penalty, k, block)
        for part, better in zip(found, again, strict=True):
            part[~sure] = better
    return Neighbours(*found)


def _exact(
    queries: np.ndarray, candidates: np.ndarray, penalty: np.ndarray, k: int, block: tuple[int, int] | None
) -> Neighbours:
    """`neighbours` by float32 products of all queries with all candidates, with its arguments."""
    count = len(candidates)
    most = block or (CPU_BLOCK if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK)
    q_block, c_block = _block(len(queries), most[0]), _block(count, most[1])
    found = []
    for first in range(0, len(queries), q_block):
        rows = padded(queries, first, q_block)
        near = jnp.full((q_block, k), -jnp.inf, jnp.float32), jnp.zeros((q_block, k), jnp.int32)
        for start in range(0, count, c_block):
            side, less = padded(candidates, start, c_block), padded(penalty, start, c_block)
            before, near = near, _merge(*near, rows, side, less, start, count)
            # Dispatch runs ahead of the device. At most two blocks may wait, or memory would not be bounded.
            jax.block_until_ready(before)
        # Only the result (q_block,k) leaves the device. Rows of padding are dropped.
        found.append([np.asarray(part)[: len(queries) - first] for part in near])
    return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _block(count: int, most: int) -> int:
    """Rows of equal blocks that hold `count` rows with little padding: a multiple of TILE."""
    blocks = -(-count // most)
    return -(-count // (blocks * TILE)) * TILE


@jax.jit
def _merge(
    scores: jax.Array,
    index: jax.Array,
    queries: jax.Array,
    candidates: jax.Array,
    penalty: jax.Array,
    start: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The best of (Q,k) found so far and of one block of candidates (c,D) that begins at row `start` of `count`."""
    sides = [unit_rows(side) for side in (queries, candidates)]
    # (Q,D) x (c,D) -> (Q,c) in full float32: an accelerator would round the factors otherwise.
    block = jnp.matmul(sides[0], sides[1].T, precision=jax.lax.Precision.HIGHEST) - penalty
    place = start + jnp.arange(block.shape[1], dtype=jnp.int32)
    new_scores, new = _top(jnp.where(place < count, block, -jnp.inf), scores.shape[1])
    # top_k keeps the order of equals, and earlier blocks have lower indices: they stand first.
    both, which = jax.lax.top_k(jnp.concatenate([scores, new_scores], axis=1), scores.shape[1])
    return both, jnp.take_along_axis(jnp.concatenate([index, new + start], axis=1), which, axis=1)


def _top(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of (Q,c) scores, in less time where c is much larger than k."""
    rows, columns = scores.shape
    if columns < 2 * k * CHUNK:
        return jax.lax.top_k(scores, min(k, columns))
    # (Q,c) -> (Q,chunks,CHUNK). The k largest scores lie in the k chunks of largest maximum.
    chunks = scores.reshape(rows, columns // CHUNK, CHUNK)
    kept = jnp.sort(jax.lax.top_k(chunks.max(axis=2), k)[1], axis=1)
    # (Q,k,CHUNK) -> (Q,k*CHUNK) scores of these chunks in their old order, so that the first of equals stays first.
    few = jnp.take_along_axis(chunks, kept[:, :, None], axis=1).reshape(rows, k * CHUNK)
    top, place = jax.lax.top_k(few, k)
    return top, jnp.take_along_axis(kept, place // CHUNK, axis=1) * CHUNK + place % CHUNK


def density(near: Neighbours) -> np.ndarray:
    """r_k(x) of every query, (Q,): the mean cosine to its k nearest candidates. Hubs have a large one."""
    # From the smallest to the largest, because the order of a sum decides its last bit.
    return np.ascontiguousarray(near.scores[:, ::-1]).mean(1)


def margin(cosine: np.ndarray, around_query: np.ndarray, around_candidate: np.ndarray, kind: str) -> np.ndarray:
    """Margin scores of cosines c(x,y), given r_k(x) and r_k(y) of shapes that broadcast to them.

    - "absolute" is c, "ratio" is c / ((r_k(x) + r_k(y)) / 2), and "distance" is c - (r_k(x) + r_k(y)) / 2 (Artetxe and
      Schwenk 2019, arXiv 1811.01136). In the ratio, a mean below 1e-6 counts as 1e-6.
    - "csls" is 2 c - r_k(x) - r_k(y), which is twice the distance (Conneau et al. 2018, arXiv 1710.04087).
    """
    checked.choice("margin", "kind", kind, MARGINS)
    around = around_query + around_candidate
    if kind == "ratio":
        return cosine / np.maximum(around / 2, 1e-6)
    if kind == "distance":
        return cosine - around / 2
    return 2 * cosine - around if kind == "csls" else cosine


def by_margin(forward: Neighbours, backward: Neighbours, kind: str) -> Neighbours:
    """The k nearest candidates of each query by cosine, put in order of their margin.

    Candidates that are not among the k nearest take no part, as in xsim (LASER, `source/xsim.py`).

    Args:
      forward: neighbours of the Q queries among the C candidates.
      backward: neighbours of the C candidates among the Q queries.
      kind: one of MARGINS.
    """
    # By index first, so that a stable sort by margin leaves the lower index first among equals.
    order = np.argsort(forward.indices, axis=1)
    index = np.take_along_axis(forward.indices, order, axis=1)
    cosine = np.take_along_axis(forward.scores, order, axis=1)
    # (Q,k), with r_k of each query in its row and r_k of each candidate at its place.
    scores = margin(cosine, density(forward)[:, None], density(backward)[index], kind)
    order = np.argsort(-scores, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(scores, order, axis=1), np.take_along_axis(index, order, axis=1))


def csls(
    queries: np.ndarray, candidates: np.ndarray, k: int = 1, *, hood: int = 10, sources: np.ndarray | None = None
) -> Neighbours:
    """The k candidates of largest CSLS 2 c(x,y) - r_hood(x) - r_hood(y) for each query, among all C candidates.

    Args:
      queries, candidates: (Q,D) and (C,D), as in `neighbours`.
      hood: neighbours in r; 10 is the convention for lexicons.
      sources: (S,D) vectors among which r(y) is taken; None takes the queries. Where few words of a vocabulary are asked,
        give the vocabulary.
    """
    forward = density(neighbours(queries, candidates, hood))
    backward = density(neighbours(candidates, queries if sources is None else sources, hood))
    # c - r(y)/2 has the order of CSLS for one query.
    near = neighbours(queries, candidates, k, penalty=backward / 2)
    return Neighbours(2 * near.scores - forward[:, None], near.indices)
