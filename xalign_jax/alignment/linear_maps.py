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


def ridge(source: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    """The W (D,E) float64 that minimises ||X W - Y||_F^2 + strength ||W||_F^2: (X'X + strength I)^-1 X'Y.

    Args:
      strength: above 0, in the unit of X squared. It makes W unique even if D > N.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    # Both forms are equal; the smaller matrix is inverted.
    if len(x) < x.shape[1]:
        return x.T @ scipy.linalg.solve(x @ x.T + strength * np.eye(len(x)), y, assume_a="pos")
    return scipy.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y, assume_a="pos")


def canonical(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical correlation analysis of centred X (N,D) and Y (N,E): A (D,K), B (E,K) and K correlations, K = min(D,E).

    Columns of X A and of Y B have length 1 and are orthogonal within each side; column k of both has correlation r_k,
    from the largest on (Hotelling 1936). With SVDs X = U S V' and Y = P T Q', U'P = F r G': A = V S^-1 F, B = Q T^-1 G.
    The columns of both sides must be independent.
    """
    left, left_values, left_axes = np.linalg.svd(np.asarray(source, np.float64), full_matrices=False)
    right, right_values, right_axes = np.linalg.svd(np.asarray(target, np.float64), full_matrices=False)
    first, correlations, second = np.linalg.svd(left.T @ right, full_matrices=False)
    return left_axes.T @ (first / left_values[:, None]), right_axes.T @ (second.T / right_values[:, None]), correlations


def whitened(source: np.ndarray, target: np.ndarray, power: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """VecMap's advanced map: weights (D,D) of both sides, into one space, from paired rows X and Y (N,D).

    Whiten, rotate, re-weight, and undo the whitening (Artetxe et al. 2018, AAAI; artetxem/vecmap). Let
    Z_X = (X'X)^-1/2, Z_Y = (Y'Y)^-1/2 and U S V' = svd((X Z_X)' Y Z_Y). The weights are Z_X U S^power U' Z_X^-1 U and
    Z_Y V S^power V' Z_Y^-1 V. The columns of both sides must be independent.
    """
    (x_in, x_out), (y_in, y_out) = (_whitening(np.asarray(side, np.float64)) for side in (source, target))
    left, values, right = np.linalg.svd((source @ x_in).T @ (target @ y_in))
    x_weight = x_in @ (left * values**power) @ left.T @ x_out @ left
    return x_weight, y_in @ (right.T * values**power) @ right @ y_out @ right.T


def _whitening(side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(X'X)^-1/2 and its inverse, (D,D) each."""
    _, values, axes = np.linalg.svd(side, full_matrices=False)
    return (axes.T / values) @ axes, (axes.T * values) @ axes


def residual(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """||X W - Y||_F in float64, for X (N,D), Y (N,E) and W (D,E)."""
    return float(np.linalg.norm(np.asarray(source, np.float64) @ weight - np.asarray(target, np.float64)))
