"""Forward and backward links become one set of links, and links of tokens become links of words. In numpy, on the host.

Shapes: B sentence pairs, M source and N target tokens, K links.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

SYMMETRISATIONS = ("intersection", "union", "forward", "backward", "grow-diag-final-and")
# In the order of Moses; the order decides which of two neighbours is added first.
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def symmetrise(forward: np.ndarray, backward: np.ndarray, how: str) -> np.ndarray:
    """Links (B,M,N) bool of both directions, put together as one of SYMMETRISATIONS.

    Args:
      forward, backward: (B,M,N) bool. In `forward`, source tokens choose targets; in `backward`, targets choose sources.
    """
    if how == "forward":
        return forward
    if how == "backward":
        return backward
    if how == "union":
        return forward | backward
    if how == "intersection":
        return forward & backward
    pairs = zip(forward, backward, strict=True)
    return np.stack([grow_diag_final_and(*pair) for pair in pairs]) if len(forward) else forward


def grow_diag_final_and(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """The heuristic of Koehn et al. (2003) as Moses runs it: links (M,N) bool of one sentence pair.

    It starts from the intersection and adds neighbours, also diagonal ones, that are in the union and of which one
    token is free. Then it adds links of either direction of which both tokens are free.
    """
    links = forward & backward
    rows, columns = links.any(1), links.any(0)
    union = forward | backward
    points = np.argwhere(union).tolist()
    added = True
    while added:
        added = False
        for i, j in points:
            for down, right in _NEIGHBOURS if links[i, j] else ():
                a, b = i + down, j + right
                if 0 <= a < len(rows) and 0 <= b < len(columns) and union[a, b] and not (rows[a] and columns[b]):
                    links[a, b] = rows[a] = columns[b] = added = True
    for direction in (forward, backward):
        for i, j in np.argwhere(direction).tolist():
            if not (rows[i] or columns[j]):
                links[i, j] = rows[i] = columns[j] = True
    return links


def heaviest_matching(similarity: np.ndarray, source_mask: np.ndarray, target_mask: np.ndarray) -> np.ndarray:
    """SimAlign's "match": links (B,M,N) bool of maximum total similarity, in which each token has at most one link.

    The shorter sentence has all its tokens linked.

    Args:
      similarity: (B,M,N).
      source_mask, target_mask: (B,M) and (B,N) bool.
    """
    links = np.zeros(similarity.shape, bool)
    for row, (matrix, rows, columns) in enumerate(zip(similarity, source_mask, target_mask, strict=True)):
        i, j = np.flatnonzero(rows), np.flatnonzero(columns)
        # Costs among real tokens only, in float64: sums of many similar float32 numbers would decide by rounding.
        chosen = linear_sum_assignment(matrix[np.ix_(i, j)].astype(np.float64), maximize=True)
        links[row, i[chosen[0]], j[chosen[1]]] = True
    return links


class WordLinks(NamedTuple):
    """K links of words, sorted by row, source word and target word.

    Attributes:
      row: (K,) int64, the sentence pair.
      source, target: (K,) int64, word numbers from 0.
      probability: (K,) float64, the highest of the token links that make the word link.
    """

    row: np.ndarray
    source: np.ndarray
    target: np.ndarray
    probability: np.ndarray


def word_links(
    links: np.ndarray, probability: np.ndarray, source_words: np.ndarray, target_words: np.ndarray
) -> WordLinks:
    """Two words are linked if any of their tokens are, as in SimAlign and awesome-align.

    Args:
      links: (B,M,N) bool.
      probability: (B,M,N), of each pair of tokens.
      source_words, target_words: (B,M) and (B,N) int, the word of each token; only tokens of words have links.
    """
    row, i, j = np.nonzero(links)
    # (K,3) word links, with repetitions; then the distinct ones in order.
    found = np.stack([row, source_words[row, i], target_words[row, j]], 1).astype(np.int64)
    words, inverse = np.unique(found, axis=0, return_inverse=True)
    highest = np.zeros(len(words))
    np.maximum.at(highest, inverse.reshape(-1), probability[row, i, j])
    return WordLinks(words[:, 0], words[:, 1], words[:, 2], highest)
