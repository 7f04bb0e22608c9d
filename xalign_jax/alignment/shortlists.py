"""Nearest neighbours by way of shortlists: bfloat16 products find candidates, float32 decides, a bound makes sure.

Products of bfloat16 numbers are several times faster than products of float32 numbers. For unit vectors x and y with
the rounded forms x' and y', the triangle inequality limits the error of a cosine:

    |x.y - x'.y'| <= |x - x'| |y| + |x'| |y - y'| = e

Candidates are grouped into chunks. The chunks whose best rounded cosines are largest are kept, and all their members
are compared in float32. Members of the other chunks have rounded cosines of at most t, the least maximum kept. So a
query's k best are certain if the k-th float32 cosine is larger than t + e.

Shapes: Q queries, C candidates, D the width, k neighbours, M chunks kept of each query.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.matrix_product import product

CHUNK = 16  # neighbouring candidates that form a chunk
SPARE = 8  # M = k + SPARE
# Queries and candidates of a block, and the candidates whose scores a CPU holds at once, in its cache.
QUERIES, CANDIDATES, CPU_PART = 2048, 16384, 512
PAIRS = 1024  # chunks that are compared in float32 at a time
SLACK = 1e-5  # more than the rounding of sums in float32


def search(
    queries: np.ndarray, candidates: np.ndarray, penalty: np.ndarray, k: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The k best candidates of each query, and which queries' are certain.

    Args:
      queries, candidates: (Q,D) and (C,D) finite numbers of any float type; memory maps are read in pieces.
      penalty: (C,) floats, subtracted from the cosines.
      k: at most C.

    Returns:
      ((Q,k) float32 scores, best first; (Q,k) int32 rows of the candidates), and (Q,) bool. Among equal scores the
      candidate of lower row comes first.
    """
    count = len(candidates)
    rows, columns = min(QUERIES, _multiple(len(queries), 128)), min(CANDIDATES, _multiple(count, CPU_PART))
    part = CPU_PART if jax.default_backend() == "cpu" else columns
    scores, index = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int32)
    sure = np.empty(len(queries), bool)
    for first in range(0, len(queries), rows):
        block = padded(queries, first, rows)
        kept = jnp.full((rows, k + SPARE), -jnp.inf, jnp.float32), jnp.zeros((rows, k + SPARE), jnp.int32)
        largest = jnp.zeros(())
        for start in range(0, count, columns):
            side, less = padded(candidates, start, columns), padded(penalty, start, columns)
            waited, (kept, largest) = kept, _coarse(kept, largest, block, side, less, start, count, part)
            # Dispatch runs ahead of the device. At most two blocks may wait, or memory would not be bounded.
            jax.block_until_ready(waited)
        here = slice(first, min(first + rows, len(queries)))
        best, chunks = (np.asarray(array)[: here.stop - first] for array in kept)
        # (Q,1): the largest error of each query's rounded cosines.
        error = np.asarray(_errors(block))[: here.stop - first] * (1 + float(largest)) + float(largest) + SLACK
        # A chunk may hold one of the k best if its maximum is within two errors of the k-th maximum.
        near = (best >= best[:, k - 1 : k] - 2 * error) & np.isfinite(best)
        scores[here], index[here] = _compare(block, candidates, penalty, near, chunks, k)
        sure[here] = scores[here, -1] > (best[:, -1:] + error)[:, 0]
    return (scores, index), sure


def padded(array: np.ndarray, start: int, size: int) -> np.ndarray:
    """Rows start..start+size in float32, with zeros past the end."""
    part = np.asarray(array[start : start + size], np.float32)
    return np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1)) if len(part) < size else part


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def unit_rows(vectors: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis; zero vectors stay zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _rounding(vectors: jax.Array) -> jax.Array:
    """(N,1): the length of what bfloat16 cuts off unit vectors (N,D)."""
    return jnp.linalg.norm(vectors - vectors.astype(jnp.bfloat16).astype(jnp.float32), axis=1, keepdims=True)


@jax.jit
def _errors(queries: jax.Array) -> jax.Array:
    return _rounding(unit_rows(queries))


@functools.partial(jax.jit, static_argnames="part")
def _coarse(
    kept: tuple[jax.Array, jax.Array],
    largest: jax.Array,
    queries: jax.Array,
    candidates: jax.Array,
    penalty: jax.Array,
    start: jax.Array,
    count: jax.Array,
    part: int,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """The M chunks of largest maximum so far, and the largest rounding of a candidate so far.

    Args:
      kept: (Q,M) maxima and numbers of chunks before this block.
      candidates, penalty: (c,D) and (c,), the block that begins at row `start` of `count`.
      part: candidates whose scores are held at once; it divides c.
    """
    rounded = unit_rows(queries).astype(jnp.bfloat16)

    def maxima(side: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(Q,part/CHUNK) maxima of chunks, and the largest rounding of a candidate."""
        vectors, less, first = side
        vectors = unit_rows(vectors)
        there = first + jnp.arange(part) < count
        # (Q,D) x (part,D) -> (Q,part).
        scores = product(rounded, vectors.astype(jnp.bfloat16), "nt") - jnp.where(there, less, jnp.inf)
        return scores.reshape(len(queries), part // CHUNK, CHUNK).max(axis=2), _rounding(vectors).max()

    blocks = len(candidates) // part
    sides = candidates.reshape(blocks, part, -1), penalty.reshape(blocks, part), start + part * jnp.arange(blocks)
    # (blocks,Q,n) -> (Q,blocks n): the number of a chunk counts through all blocks.
    found, rounding = jax.lax.map(maxima, sides)
    new, place = jax.lax.top_k(jnp.moveaxis(found, 0, 1).reshape(len(queries), -1), kept[0].shape[1])
    best, which = jax.lax.top_k(jnp.concatenate([kept[0], new], axis=1), new.shape[1])
    chunks = jnp.concatenate([kept[1], place.astype(jnp.int32) + start // CHUNK], axis=1)
    return (best, jnp.take_along_axis(chunks, which, axis=1)), jnp.maximum(largest, rounding.max())


def _compare(
    queries: np.ndarray, candidates: np.ndarray, penalty: np.ndarray, near: np.ndarray, chunks: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,k) float32 scores and rows of the best members of the chunks (Q,M) that `near` (Q,M) marks."""
    # In the order of rows, so that the first of equals comes first.
    order = np.argsort(chunks, axis=1)
    near, chunks = (np.take_along_axis(array, order, axis=1) for array in (near, chunks))
    # (Q,M,CHUNK) rows of the candidates; the last chunk may reach past the end.
    rows = chunks[:, :, None] * CHUNK + np.arange(CHUNK, dtype=np.int32)
    scores = np.full(rows.shape, -np.inf, np.float32)
    query, slot = np.nonzero(near)
    for first in range(0, len(query), PAIRS):
        pairs = query[first : first + PAIRS], slot[first : first + PAIRS]
        members = rows[pairs].reshape(-1)
        there, members = members < len(candidates), np.minimum(members, len(candidates) - 1)
        cosine = _cosines(padded(queries[pairs[0]], 0, PAIRS), padded(candidates[members], 0, PAIRS * CHUNK))
        found = np.asarray(cosine)[: len(pairs[0])].reshape(-1) - penalty[members].astype(np.float32)
        scores[pairs] = np.where(there, found, -np.inf).reshape(-1, CHUNK)
    best, place = jax.lax.top_k(scores.reshape(len(rows), -1), k)
    return np.asarray(best), np.take_along_axis(rows.reshape(len(rows), -1), np.asarray(place), axis=1)


@jax.jit
def _cosines(queries: jax.Array, members: jax.Array) -> jax.Array:
    """(P,D) queries and (P CHUNK,D) members -> (P,CHUNK) cosines in float32."""
    members = unit_rows(members).reshape(len(queries), CHUNK, -1)
    return jnp.einsum("pd,pcd->pc", unit_rows(queries), members, precision=jax.lax.Precision.HIGHEST)
