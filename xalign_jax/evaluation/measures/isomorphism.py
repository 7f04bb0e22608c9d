"""Whether two languages' words lie in the same pattern, even if the spaces differ.

Shapes: N translation pairs; source (N,D) and target (N,E) may have different widths. Vectors are scaled to length 1.
Everything is float64 on the host.
"""

from __future__ import annotations

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import best, unit


def relational_similarity(source: np.ndarray, target: np.ndarray) -> float:
    """Pearson's r of c(x_i,x_j) with c(y_i,y_j) over all i < j, in [-1, 1]; higher means more alike.

    The list of N(N-1)/2 cosines of each language is never built: its sums follow from X'X, Y'Y and X'Y. Work is N D E.

    Raises:
      UserError: the sides do not pair, fewer than three pairs, a number is not finite, or all cosines of a side are
        equal.
    """
    source, target = checked.paired("relational_similarity", source, target, 3, one_space=False)
    x, y = unit(np.asarray(source, np.float64)), unit(np.asarray(target, np.float64))
    # Sums over i != j: those over all i, j less those of i = j. Each pair counts twice, which cancels in r.
    count = len(x) * (len(x) - 1)
    x_own, y_own = (x**2).sum(1), (y**2).sum(1)
    x_mean = ((x.sum(0) ** 2).sum() - x_own.sum()) / count
    y_mean = ((y.sum(0) ** 2).sum() - y_own.sum()) / count

    def product(a: np.ndarray, b: np.ndarray, own: np.ndarray) -> float:
        return (((a.T @ b) ** 2).sum() - own.sum()) / count

    both = product(x, y, x_own * y_own) - x_mean * y_mean
    spread = product(x, x, x_own**2) - x_mean**2, product(y, y, y_own**2) - y_mean**2
    if min(spread) <= 1e-12:
        checked.refuse("relational_similarity", "all cosines of a side are equal, so nothing correlates with them")
    return float(both / np.sqrt(spread[0] * spread[1]))


def eigenvector_similarity(
    source: np.ndarray, target: np.ndarray, *, neighbours: int = 10, share: float = 0.9
) -> float:
    """sum_{i <= k} (l1_i - l2_i)^2 over the largest eigenvalues of two graphs' Laplacians; 0 = alike, lower is better.

    Søgaard et al. 2018 (arXiv 1805.03620). Words are joined to their nearest neighbours by cosine in their own
    language, in either direction; L = degrees - adjacency. For each side, k_s is the fewest eigenvalues that hold more
    than `share` of their sum, and k is the smaller of both. Values grow with N: compare equal N only.

    Args:
      source, target: (N,D) and (N,E). Rows need not pair, but their numbers must be equal. Memory is N^2.
      neighbours: edges of each word. The value is a choice of ours; print it.
      share: of the sum of eigenvalues.

    Raises:
      UserError: unequal numbers of rows, no more rows than neighbours, or a number that is not finite.
    """
    checked.between("eigenvector_similarity", "neighbours", neighbours, 1)
    checked.between("eigenvector_similarity", "share", share, 0, 1)
    sides = checked.paired("eigenvector_similarity", source, target, neighbours + 1, one_space=False)
    # (N,) eigenvalues of each side, from the largest on.
    first, second = (np.linalg.eigvalsh(_laplacian(side, neighbours))[::-1] for side in sides)
    # The first place at which the running share exceeds `share`; all eigenvalues if rounding keeps it below.
    k = min(int(np.argmax(np.append(np.cumsum(e) > share * e.sum(), True))) + 1 for e in (first, second))
    return float(((first[:k] - second[:k]) ** 2).sum())


def _laplacian(side: np.ndarray, neighbours: int) -> np.ndarray:
    """(N,N) Laplacian of the symmetric graph of nearest neighbours."""
    own = unit(np.asarray(side, np.float64))
    cosine = own @ own.T
    np.fill_diagonal(cosine, -np.inf)
    edges = np.zeros(cosine.shape)
    np.put_along_axis(edges, best(cosine, neighbours).indices, 1.0, axis=1)
    edges = np.maximum(edges, edges.T)
    return np.diag(edges.sum(1)) - edges
