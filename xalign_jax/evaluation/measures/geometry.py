"""How vectors of two languages lie on the sphere: alignment, uniformity, and the gap between pairs and others.

Shapes: N pairs, D the width; row i of the source translates row i of the target. Vectors are scaled to length 1 first.
Sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import unit

ROWS_AT_ONCE = 512  # rows of the cosine matrix that are held together


class Gap(NamedTuple):
    """Cosines of translations against cosines of others.

    Attributes:
      matched: mean_i c(x_i,y_i).
      mismatched: mean_{i != j} c(x_i,y_j).
      gap: matched - mismatched.
      d_prime: gap / standard deviation of the mismatched cosines. NaN if these are all equal.
      auc: share of (translation, other) that are in the right order; equals count as one half. 0.5 is chance.
    """

    matched: float
    mismatched: float
    gap: float
    d_prime: float
    auc: float


def alignment(source: np.ndarray, target: np.ndarray) -> float:
    """L_align = mean_i ||x_i - y_i||^2 = 2 - 2 mean_i c(x_i,y_i), in [0, 4]; lower is closer.

    Wang and Isola 2020, arXiv 2005.10242. Read it together with `uniformity`: equal vectors have L_align = 0 too.

    Raises:
      UserError: the sides do not pair, or a number is not finite.
    """
    source, target = _units("alignment", source, target, least=1)
    return float(((source - target) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """L_unif = log mean_{i != j} exp(-2 ||x_i - x_j||^2), in [-8, 0]; lower is more evenly spread, 0 is one point.

    Wang and Isola 2020, arXiv 2005.10242. Give one language, or several pooled, and say which. Work is N^2 D.

    Args:
      vectors: (N,D).

    Raises:
      UserError: fewer than two vectors, or a number that is not finite.
    """
    own = unit(np.asarray(checked.matrix("uniformity", "vectors", vectors, 2), np.float64))
    # exp(-2 (2 - 2c)), with i = j left out.
    total = sum(np.exp(4 * others - 4).sum() for _, others in _cosines(own, own))
    return float(np.log(total / (len(own) * (len(own) - 1))))


def gap(source: np.ndarray, target: np.ndarray) -> Gap:
    """Matched and mismatched cosines, d' and AUC. Work is N^2 (D + log N), memory is bounded.

    Raises:
      UserError: the sides do not pair, fewer than two pairs, or a number is not finite.
    """
    source, target = _units("gap", source, target, least=2)
    parts = [(own, others.sum()) for own, others in _cosines(source, target)]
    # Both kinds come from one product, so that equal vectors have equal cosines.
    matched, n = np.concatenate([own for own, _ in parts]), len(source)
    count = n * (n - 1)
    mean = sum(total for _, total in parts) / count
    ordered = np.sort(matched)
    squares, above, equal = 0.0, 0, 0
    # A second pass: squares of differences lose no digits, as a difference of squares would.
    for _, others in _cosines(source, target):
        squares += ((others - mean) ** 2).sum()
        # How many translations lie at or below each other pair, and how many equal it.
        right = np.searchsorted(ordered, others, side="right")
        above += (n - right).sum()
        equal += (right - np.searchsorted(ordered, others, side="left")).sum()
    difference, spread = matched.mean() - mean, np.sqrt(squares / count)
    d_prime = difference / spread if spread > 1e-12 else float("nan")
    auc = (above + equal / 2) / (n * count)
    return Gap(float(matched.mean()), float(mean), float(difference), float(d_prime), float(auc))


def _units(caller: str, source: np.ndarray, target: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    source, target = checked.paired(caller, source, target, least)
    return unit(np.asarray(source, np.float64)), unit(np.asarray(target, np.float64))


def _cosines(source: np.ndarray, target: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cosines of some rows at a time: (rows,) of i with i, and (rows, N-1) of i with all others."""
    n = len(source)
    for start in range(0, n, ROWS_AT_ONCE):
        block = source[start : start + ROWS_AT_ONCE] @ target.T
        own = np.arange(start, start + len(block))[:, None] == np.arange(n)
        yield block[own], block[~own].reshape(len(block), n - 1)
