"""VecMap-style self-learning: a small dictionary grows, while two vocabularies turn towards each other.

Artetxe et al. 2018 (arXiv 1805.06297) and artetxem/vecmap. The map of the last round is VecMap's advanced one. Shapes:
S source words, T target words, D the width. Words are in order of frequency, most frequent first.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.linear_maps import procrustes, whitened
from xalign_jax.alignment.maps import LinearMap
from xalign_jax.alignment.neighbours import density, neighbours, unit

ROWS_AT_ONCE = 1024
LEAST_GAIN = 1e-6  # of the mean similarity, which counts as an improvement


class Learnt(NamedTuple):
    """The result of self-learning.

    Attributes:
      source, target: maps of both languages into one space.
      dictionary: (P,2) int64, rows of the last induced pairs.
      objective: mean similarity of the last induced pairs, before the advanced map.
      rounds: rounds that were run.
    """

    source: LinearMap
    target: LinearMap
    dictionary: np.ndarray
    objective: float
    rounds: int


def self_learning(
    source: np.ndarray,
    target: np.ndarray,
    seeds: np.ndarray,
    *,
    seed: int,
    cutoff: int = 20_000,
    hood: int = 10,
    keep: float = 0.1,
    patience: int = 50,
    most_rounds: int = 1000,
    power: float = 0.5,
) -> Learnt:
    """Alternate a rotation fitted on the dictionary and a dictionary induced by CSLS in both directions.

    Vectors are scaled to length 1, centred and scaled again. A similarity takes part in a round with probability `keep`.
    That lets the search leave poor dictionaries. After `patience` rounds without a gain, `keep` doubles; after
    `patience` rounds without a gain at 1, the search ends. Similarities that take no part are left out here; VecMap sets
    them to 0.

    Args:
      source, target: (S,D) and (T,D).
      seeds: (P,2) rows of the words of a first dictionary; equal strings or numerals may do.
      seed: decides which similarities take part.
      cutoff: the most frequent words that take part; the maps serve all words.
      hood: neighbours in CSLS.
      keep: in (0, 1]; 1 is plain self-learning.
      power: of the re-weighting in the advanced map.

    Raises:
      UserError: the widths differ, a seed pair outside the vocabularies, a setting out of range, fewer words within the
        cutoff than dimensions, or a number that is not finite.
    """
    settings = ((cutoff, "cutoff"), (hood, "hood"), (patience, "patience"), (most_rounds, "most_rounds"))
    for value, name in settings:
        checked.between("self_learning", name, value, 1)
    checked.between("self_learning", "keep", keep, 1e-6, 1)
    sides = [checked.matrix("self_learning", name, s, 2) for name, s in (("source", source), ("target", target))]
    pairs = _pairs(seeds, *sides)
    prepared = [_prepared(side) for side in sides]
    # Only frequent words induce dictionaries.
    x, y = (vectors[:cutoff] for vectors, _ in prepared)
    pairs = pairs[(pairs[:, 0] < len(x)) & (pairs[:, 1] < len(y))]
    if not len(pairs):
        checked.refuse("self_learning", f"no seed pair is among the {cutoff} most frequent words")
    if min(len(x), len(y)) < x.shape[1]:
        checked.refuse("self_learning", f"{min(len(x), len(y))} words for {x.shape[1]} dimensions; give more words")
    best, since, round_ = -np.inf, 0, 0
    for round_ in range(1, most_rounds + 1):
        turned = x @ procrustes(x[pairs[:, 0]], y[pairs[:, 1]])
        pairs, objective = _induced(turned, y, hood, keep, seed, round_)
        since = 0 if objective >= best + LEAST_GAIN else since + 1
        best = max(best, objective)
        if since >= patience:
            if keep >= 1:
                break
            keep, since = min(1.0, 2 * keep), 0
    left, right = whitened(x[pairs[:, 0]], y[pairs[:, 1]], power)
    first, second = (
        LinearMap(weight, centre, True) for weight, (_, centre) in zip((left, right), prepared, strict=True)
    )
    return Learnt(first, second, pairs, objective, round_)


def _pairs(seeds: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The seed pairs, if they are rows of both vocabularies."""
    if source.shape[1] != target.shape[1]:
        checked.refuse("self_learning", f"source has width {source.shape[1]}, target {target.shape[1]}")
    pairs = np.asarray(seeds)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        checked.refuse("self_learning", f"seeds has shape {pairs.shape}; it must be (pairs, 2), and not empty")
    wrong = ((pairs < 0) | (pairs >= (len(source), len(target)))).any(1)
    if wrong.any():
        pair = tuple(int(row) for row in pairs[np.argmax(wrong)])
        checked.refuse("self_learning", f"seed pair {pair} lies outside {len(source)} and {len(target)} words")
    return pairs.astype(np.int64)


def _prepared(side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors scaled, centred and scaled again, and the centre."""
    own = unit(np.asarray(side, np.float64))
    centre = own.mean(0)
    return unit(own - centre), centre


def _induced(x: np.ndarray, y: np.ndarray, hood: int, keep: float, seed: int, round_: int) -> tuple[np.ndarray, float]:
    """Pairs (S+T,2) of each word and its best partner by CSLS in both directions, and their mean similarity."""
    found, values = [], []
    for direction, (queries, candidates) in enumerate(((x, y), (y, x))):
        # c - r(y)/2 has the order of CSLS for one query.
        penalty = density(neighbours(candidates, queries, hood)) / 2
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), round_), direction)
        scores, partners = _best_of_some(queries, candidates, penalty, keep, key)
        both = np.arange(len(queries)), partners
        found.append(np.stack(both if direction == 0 else both[::-1], axis=1))
        values.append(scores.mean(dtype=np.float64))
    return np.concatenate(found), float(np.mean(values))


def _best_of_some(
    queries: np.ndarray, candidates: np.ndarray, penalty: np.ndarray, keep: float, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) best score and (Q,) best candidate, among a random share `keep` of the candidates of each query."""
    if keep >= 1:
        near = neighbours(queries, candidates, penalty=penalty)
        return near.scores[:, 0], near.indices[:, 0]
    parts = []
    pool, less = jnp.asarray(candidates, jnp.float32), jnp.asarray(penalty, jnp.float32)
    for start in range(0, len(queries), ROWS_AT_ONCE):
        # Blocks of equal size: one compilation. Rows past the end repeat the last one and are dropped.
        rows = np.minimum(np.arange(start, start + ROWS_AT_ONCE), len(queries) - 1)
        found = _block(jnp.asarray(queries[rows], jnp.float32), pool, less, keep, key, rows)
        parts.append([np.asarray(part)[: len(queries) - start] for part in found])
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@jax.jit
def _block(
    queries: jax.Array, candidates: jax.Array, penalty: jax.Array, keep: jax.Array, key: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`_best_of_some` for unit vectors (q,D) and (C,D). The draw depends on the row alone, not on the block."""
    scores = jnp.matmul(queries, candidates.T, precision=jax.lax.Precision.HIGHEST) - penalty
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    drawn = jax.vmap(lambda one: jax.random.bernoulli(one, keep, (len(candidates),)))(keys)
    scores = jnp.where(drawn, scores, -2.0 - jnp.max(penalty))  # below every score; all may be left out
    return scores.max(1), jnp.argmax(scores, axis=1)
