"""A common space of several languages without pairs: the Wasserstein barycentre of their clouds of words.

Shapes: N_l words of language l, n points of the barycentre, D the width. Everything is float64 on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.spatial.distance
import scipy.special

from xalign_jax.alignment import checked
from xalign_jax.alignment.maps import LinearMap
from xalign_jax.alignment.neighbours import unit

STEPS = 20  # rounds of Sinkhorn between two looks at the sums


class Barycentre(NamedTuple):
    """A barycentre and the rotations into its space.

    Attributes:
      maps: by language; vectors are scaled, centred and rotated.
      support: (n,D) points of equal weight.
      cost: for every round, the weighted transport cost sum_l lambda_l <P_l, C_l>.
    """

    maps: dict[str, LinearMap]
    support: np.ndarray
    cost: np.ndarray


def barycentre(
    languages: Mapping[str, np.ndarray],
    start: Mapping[str, np.ndarray] | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    support: np.ndarray | None = None,
    epsilon: float = 0.05,
    rounds: int = 20,
    sinkhorn_rounds: int = 500,
    rotate: bool = True,
) -> Barycentre:
    """Alternate three steps that lower sum_l lambda_l W_2^2(mu, Q_l # nu_l), where nu_l are the words of language l.

    1. Plans: P_l (n,N_l) = `sinkhorn` between support and Y_l Q_l, with cost C_ij = ||x_i - y_j||^2.
    2. Rotations: Q_l = U V' of the SVD U S V' = Y_l' P_l' X.
    3. Support: X = diag(1/a) sum_l lambda_l P_l Y_l Q_l, with a = 1/n.

    Each step depends on a good start: the cost has many local minima. Take rotations from `maps.rotation` or
    `self_learning`.

    Args:
      languages: two or more of (N_l,D). They are scaled to unit vectors and centred.
      start: the first rotations (D,D); None takes the identity.
      weights: lambda_l, above 0; they are divided by their sum. None takes equal ones.
      support: (n,D) first points; None takes the rotated words of the first language.
      epsilon: strength of the entropy, in units of the cost (squared distance, in [0, 4] for unit vectors).
      rounds: of the three steps.
      sinkhorn_rounds: the most rounds of each plan.
      rotate: False leaves the rotations as they start.

    Raises:
      UserError: fewer than two languages, widths that differ, a start or weight of another shape or name, or a number
        that is not finite.
    """
    names = list(languages)
    if len(names) < 2:
        checked.refuse("barycentre", f"{len(names)} languages; at least two are needed")
    checked.between("barycentre", "epsilon", epsilon, 1e-6)
    checked.between("barycentre", "rounds", rounds, 1)
    units = {
        name: unit(np.asarray(checked.matrix("barycentre", name, languages[name], 2), np.float64)) for name in names
    }
    width = units[names[0]].shape[1]
    for name in names:
        if units[name].shape[1] != width:
            checked.refuse("barycentre", f"{name} has width {units[name].shape[1]}, {names[0]} has width {width}")
    centres = {name: units[name].mean(0) for name in names}
    clouds = {name: units[name] - centres[name] for name in names}
    turns = {name: _start(start, name, width) for name in names}
    share = _weights(weights, names)
    points = clouds[names[0]] @ turns[names[0]] if support is None else np.asarray(support, np.float64)
    if points.ndim != 2 or points.shape[1] != width:
        checked.refuse("barycentre", f"support has shape {points.shape}; it must be (points, {width})")
    costs = []
    for _ in range(rounds):
        total, spent = np.zeros_like(points), 0.0
        for name in names:
            distance = scipy.spatial.distance.cdist(points, clouds[name] @ turns[name], "sqeuclidean")
            plan = sinkhorn(distance, epsilon=epsilon, rounds=sinkhorn_rounds)
            spent += share[name] * (plan * distance).sum()
            # (n,D) sums of the words that each point is sent to.
            sent = plan @ clouds[name]
            if rotate:
                left, _, right = np.linalg.svd(sent.T @ points)
                turns[name] = left @ right
            total += share[name] * sent @ turns[name]
        points = len(points) * total
        costs.append(spent)
    maps = {name: LinearMap(turns[name], centres[name], True) for name in names}
    return Barycentre(maps, points, np.asarray(costs))


def sinkhorn(cost: np.ndarray, *, epsilon: float, rounds: int = 1000, tolerance: float = 1e-9) -> np.ndarray:
    """The plan P (n,m) that minimises <P,C> + epsilon sum P (log P - 1) with row sums 1/n and column sums 1/m.

    Cuturi 2013 (arXiv 1306.0895). Every STEPS rounds start anew from logarithms, so that a small epsilon does not
    underflow; the rounds between are matrix-vector products.

    Args:
      cost: C (n,m).
      epsilon: strength of the entropy, in the unit of the cost.
      rounds: the most rounds.
      tolerance: it ends when the row sums differ from 1/n by less than this in all.
    """
    kernel = -np.asarray(cost, np.float64) / epsilon
    rows, columns = kernel.shape
    down = np.zeros(columns)
    for _ in range(0, rounds, STEPS):
        # P = exp(across_i - C_ij / epsilon + down_j), each potential from the other one's sums.
        across = -np.log(rows) - scipy.special.logsumexp(kernel + down, axis=1)
        down = -np.log(columns) - scipy.special.logsumexp(kernel + across[:, None], axis=0)
        plan = np.exp(kernel + across[:, None] + down)
        if np.abs(plan.sum(1) - 1 / rows).sum() < tolerance:
            break
        # The same rounds as factors of this plan, whose rows and columns all have entries to divide by.
        right = np.ones(columns)
        for _ in range(STEPS - 1):
            right = 1 / (columns * (plan.T @ (1 / (rows * (plan @ right)))))
        down += np.log(right)
    return plan


def _start(start: Mapping[str, np.ndarray] | None, name: str, width: int) -> np.ndarray:
    if start is None:
        return np.eye(width)
    if name not in start:
        checked.refuse("barycentre", f"start has no rotation of {name}")
    found = np.asarray(start[name], np.float64)
    if found.shape != (width, width):
        checked.refuse("barycentre", f"the start of {name} has shape {found.shape}; it must be ({width}, {width})")
    return found


def _weights(weights: Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(names, 1 / len(names))
    if set(weights) != set(names) or min(weights.values()) <= 0:
        checked.refuse("barycentre", f"weights must hold a number above 0 for each of {', '.join(names)}")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
