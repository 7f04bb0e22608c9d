"""How far the states of the same texts move between two checkpoints."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.linear_maps import procrustes, residual
from xalign_jax.alignment.neighbours import neighbours, unit


class Drift(NamedTuple):
    """Change of the states A of N texts to B.

    Attributes:
      cosine: mean_i c(a_i,b_i); 1 = no change of direction.
      relative: ||B - A||_F / ||A||_F; 0 = no change.
      rotated: min_W ||A W - B||_F / ||B||_F over orthogonal W. It is what a rotation of the whole space does not explain.
      kept_neighbours: mean share of a text's k nearest texts that stay among its k nearest; 1 = the same pattern.
    """

    cosine: float
    relative: float
    rotated: float
    kept_neighbours: float


def drift(before: np.ndarray, after: np.ndarray, *, k: int = 10) -> Drift:
    """Four views of the change between two checkpoints at one level.

    Args:
      before, after: (N,D) states of the same texts in the same order.
      k: neighbours; a text is no neighbour of itself. At most N - 2: with all N - 1 others, none could be lost.

    Raises:
      UserError: the sides do not pair, N < k + 2, a number is not finite, or all states are 0.
    """
    checked.between("drift", "k", k, 1)
    before, after = (np.asarray(side, np.float64) for side in checked.paired("drift", before, after, k + 2))
    size, size_after = np.linalg.norm(before), np.linalg.norm(after)
    if not size or not size_after:
        checked.refuse("drift", "all states of a checkpoint are 0")
    cosine = (unit(before) * unit(after)).sum(1).mean()
    rotated = residual(before, after, procrustes(before, after)) / size_after
    near = [_others(side, k) for side in (before, after)]
    kept = (near[0][:, :, None] == near[1][:, None, :]).any(2).mean()
    return Drift(float(cosine), float(np.linalg.norm(after - before) / size), float(rotated), float(kept))


def _others(side: np.ndarray, k: int) -> np.ndarray:
    """(N,k) the nearest other texts of each."""
    found = neighbours(side, side, k + 1).indices
    own = found == np.arange(len(side))[:, None]
    # Where a text has many equals it may be missing from its own neighbours; then the last neighbour is dropped.
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(side), k)
