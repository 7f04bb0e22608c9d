"""Rows of new tokens from old tokens that mean the same, by static vectors (UniBridge, Pham et al. 2024).

The order is that of UniBridge (arXiv 2406.09717, and its code). Tokens that both vocabularies have keep their rows. A new
token gets the row of the old token that is its nearest neighbour, if it is the nearest one of that token too. The others
get a mixture of the rows of the tokens so far, by the sparsemax of their cosines.

Shapes: V pieces of a vocabulary, N words with vectors of width D.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xalign_jax.data.lexicon.vectors import WordVectors
from xalign_jax.data.tokens.tokenizer import Tokenizer

_BLOCK = 128  # tokens whose cosines with all others exist at a time

Blend = list[tuple[int, float]]  # old rows with their weights, which sum to 1


def similar_rows(old: Tokenizer, new: Tokenizer, known: Mapping[int, int], words: WordVectors) -> dict[int, Blend]:
    """Mixtures of old rows, by new row, for base pieces that are not in `known` and occur in words with a vector.

    Args:
      known: new row -> old row, of the tokens that both vocabularies have.
      words: of the old languages and the new one, in one space.
    """
    (before, has_before), (after, has_after) = token_vectors(old, words), token_vectors(new, words)
    fresh = np.array([i for i in np.flatnonzero(has_after).tolist() if i not in known], np.int64)
    olds = np.flatnonzero(has_before)
    if not len(fresh) or not len(olds):
        return {}
    there, back = _nearest(after[fresh], before[olds])
    mutual = back[there] == np.arange(len(fresh))
    made = {int(i): [(int(olds[j]), 1.0)] for i, j in zip(fresh[mutual], there[mutual], strict=True)}
    # (A,) anchors: the tokens that have a row by now, and the old row of each.
    row = {i: known[i] for i in np.flatnonzero(has_after).tolist() if i in known}
    row |= {i: found[0][0] for i, found in made.items()}
    anchors, rows = np.array(list(row), np.int64), np.array(list(row.values()), np.int64)
    rest = fresh[~mutual] if len(anchors) else fresh[:0]
    for start in range(0, len(rest), _BLOCK):
        some = rest[start : start + _BLOCK]
        for i, weights in zip(some.tolist(), sparsemax(after[some] @ after[anchors].T), strict=True):
            used = np.flatnonzero(weights)
            made[i] = list(zip(rows[used].tolist(), weights[used].tolist(), strict=True))
    return made


def token_vectors(tokenizer: Tokenizer, words: WordVectors) -> tuple[np.ndarray, np.ndarray]:
    """The mean vector of the words that contain each base piece, at length 1: (V,D) float32, and (V,) bool, which have one."""
    found = tokenizer.encode_words(words.words)
    ids, owner = np.concatenate(found or [np.zeros(0, np.int32)]), np.repeat(np.arange(len(found)), [*map(len, found)])
    sums = np.zeros((tokenizer.base_size, words.vectors.shape[1]), np.float32)
    np.add.at(sums, ids, words.vectors[owner])
    sums[tokenizer.special[: tokenizer.base_size]] = 0
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.maximum(length, 1e-12), length[:, 0] > 1e-12


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """The nearest points of the probability simplex: (M,N) -> (M,N), mostly 0 (Martins and Astudillo 2016, 1602.02068)."""
    ordered = -np.sort(-scores, axis=1)
    sums, number = np.cumsum(ordered, axis=1), np.arange(1, scores.shape[1] + 1)
    # The support are the k largest scores, with the largest k for which 1 + k z_k > z_1 + ... + z_k.
    size = np.count_nonzero(1 + number * ordered > sums, axis=1)
    threshold = (sums[np.arange(len(scores)), size - 1] - 1) / size
    return np.maximum(scores - threshold[:, None], 0)


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of b (M,D) nearest to each row of a (N,D) by product, (N,); and the row of a nearest to each of b, (M,)."""
    there, back, best = np.zeros(len(a), np.int64), np.zeros(len(b), np.int64), np.full(len(b), -np.inf, np.float32)
    for start in range(0, len(a), _BLOCK):
        cosines = a[start : start + _BLOCK] @ b.T
        there[start : start + len(cosines)] = cosines.argmax(1)
        highest = cosines.max(0)
        back = np.where(highest > best, start + cosines.argmax(0), back)
        best = np.maximum(best, highest)
    return there, back
