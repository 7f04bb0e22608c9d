"""Linear maps between vector spaces, in numpy float64 on the host. Row i of X maps to row i of Y: X W ~ Y.

Callers centre or normalise the rows beforehand if their method does.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg


def procrustes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The orthogonal W (D,D) float64 that minimises ||X W - Y||_F, for X and Y (N,D) (Schönemann 1966).

    W is unique if X^T Y has full rank, because signs and order of singular vectors cancel in it.
    """
    # scipy minimises ||A W - B|| for the same A = X and B = Y; its second result is the sum of singular values.
    return scipy.linalg.orthogonal_procrustes(np.asarray(source, np.float64), np.asarray(target, np.float64))[0]


def least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The W (D,E) float64 that minimises ||X W - Y||_F, for X (N,D) and Y (N,E); no bias, no ridge.

    If several W reach the minimum (D > N, or dependent columns), the result is the one of least norm. Singular values
    below max(N,D) * 2.2e-16 of the largest count as 0, which is numpy's default.
    """
    return np.linalg.lstsq(np.asarray(source, np.float64), np.asarray(target, np.float64), rcond=None)[0]


def residual(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """||X W - Y||_F in float64, for X (N,D), Y (N,E) and W (D,E)."""
    return float(np.linalg.norm(np.asarray(source, np.float64) @ weight - np.asarray(target, np.float64)))
