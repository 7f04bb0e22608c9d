"""Similarity of two sets of vectors that need not share a space: CKA and SVCCA. Both lie in [0, 1] or near it.

Both ignore rotations, so high values do not show that two languages share a space: print retrieval beside them.

Shapes: N pairs; source (N,D) and target (N,E) may have different widths. Everything is float64 on the host.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from xalign_jax.alignment import checked


def cka(source: np.ndarray, target: np.ndarray, *, unbiased: bool = True) -> float:
    """Linear CKA, HSIC(X,Y) / sqrt(HSIC(X,X) HSIC(Y,Y)).

    The biased one is ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns (Kornblith et al. 2019, arXiv
    1905.00414). It is large for unrelated vectors where N is not much larger than the width. The unbiased one uses
    `hsic`, is 0 on average for unrelated vectors, and may be slightly negative. Work is N D E.

    Args:
      source, target: (N,D) and (N,E).
      unbiased: which of the two.

    Raises:
      UserError: the sides do not pair, fewer than four pairs, a number is not finite, or a side is constant.
    """
    source, target = checked.paired("cka", source, target, 4, one_space=False)
    if unbiased:
        return minibatch_cka([(source, target)])
    x, y = _centred("cka", "source", source), _centred("cka", "target", target)
    return _ratio(_squares(x, y), _squares(x, x), _squares(y, y))


def minibatch_cka(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Unbiased linear CKA of sets too large to hold: HSIC is averaged over batches, then divided.

    mean_b HSIC(X_b,Y_b) / sqrt(mean_b HSIC(X_b,X_b) mean_b HSIC(Y_b,Y_b)), Nguyen et al. 2021, arXiv 2010.15327. Batches
    count alike, so give them equal sizes.

    Args:
      batches: pairs (N_b,D) and (N_b,E), each with at least four rows.

    Raises:
      UserError: as `cka`, or no batch.
    """
    sums = [(hsic(x, y), hsic(x, x), hsic(y, y)) for x, y in batches]
    if not sums:
        checked.refuse("cka", "no batch was given")
    return _ratio(*np.mean(sums, axis=0))


def hsic(source: np.ndarray, target: np.ndarray) -> float:
    """The unbiased estimate of HSIC with linear kernels K = XX', L = YY', diagonals set to 0 (K~, L~).

    1/(N(N-3)) [ tr(K~ L~) + 1'K~1 1'L~1 / ((N-1)(N-2)) - 2/(N-2) 1'K~L~1 ], Song et al. 2012 (JMLR 13). The sums are
    computed from X and Y directly; no N x N matrix is built.

    Raises:
      UserError: as `cka`.
    """
    source, target = checked.paired("cka", source, target, 4, one_space=False)
    # Centring changes nothing but the size of rounding errors.
    x, y = _centred("cka", "source", source), _centred("cka", "target", target)
    n = len(x)
    x_squares, y_squares = (x**2).sum(1), (y**2).sum(1)
    # (N,) row sums of K~ and L~: x_i . sum_j x_j - |x_i|^2.
    k_rows, l_rows = x @ x.sum(0) - x_squares, y @ y.sum(0) - y_squares
    trace = _squares(x, y) - x_squares @ y_squares
    total = trace + k_rows.sum() * l_rows.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k_rows @ l_rows)
    return float(total / (n * (n - 3)))


def svcca(source: np.ndarray, target: np.ndarray, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the top singular directions of both sides (Raghu et al. 2017, arXiv 1706.05806).

    Each side is centred and cut to the fewest directions that hold `variance` of its variance: p and q of them. With
    orthonormal columns U_x (N,p) and U_y (N,q), the correlations are the singular values of U_x'U_y. Their mean over
    min(p,q) is the result. N should be at least 5 to 10 times as large as p and q.

    Raises:
      UserError: the sides do not pair, a number is not finite, a side is constant, or N <= p + q. Then some correlations
        are 1 whatever the vectors are.
    """
    source, target = checked.paired("svcca", source, target, one_space=False)
    checked.between("svcca", "variance", variance, 0, 1)
    x, y = (_directions(name, side, variance) for name, side in (("source", source), ("target", target)))
    if len(x) <= x.shape[1] + y.shape[1]:
        dimensions = f"{x.shape[1]} + {y.shape[1]} dimensions"
        checked.refuse(
            "svcca", f"{len(x)} rows for {dimensions}; give more rows than dimensions, best 10 times as many"
        )
    return float(np.linalg.svd(x.T @ y, compute_uv=False).clip(0, 1).mean())


def _directions(name: str, side: np.ndarray, variance: float) -> np.ndarray:
    """Orthonormal columns (N,p) of the largest singular values."""
    left, values, _ = np.linalg.svd(_centred("svcca", name, side), full_matrices=False)
    power = np.cumsum(values**2)
    # Rounding must not add directions that hold nothing.
    kept = 1 + int(np.searchsorted(power, min(variance, 1 - 1e-12) * power[-1]))
    return left[:, :kept]


def _centred(caller: str, name: str, side: np.ndarray) -> np.ndarray:
    side = np.asarray(side, np.float64)
    if not np.ptp(side, axis=0).any():
        checked.refuse(caller, f"all rows of {name} are equal")
    return side - side.mean(0)


def _squares(x: np.ndarray, y: np.ndarray) -> float:
    """||Y'X||_F^2."""
    return float(((y.T @ x) ** 2).sum())


def _ratio(both: float, first: float, second: float) -> float:
    if min(first, second) <= 0:
        checked.refuse("cka", "a side has no spread that the rows can show; give more rows, or rows that differ")
    return float(both / np.sqrt(first * second))
