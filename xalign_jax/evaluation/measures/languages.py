"""How well a linear classifier tells languages apart: lower means more neutral states."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg

from xalign_jax.alignment import checked


class Identifiability(NamedTuple):
    """Accuracy of a linear classifier of the language.

    Attributes:
      accuracy: on held-out segments.
      chance: the share of the most frequent language among the held-out segments.
      hits: (held out,) bool, for a bootstrap.
      fitted: segments on which the classifier was fitted.
    """

    accuracy: float
    chance: float
    hits: np.ndarray
    fitted: int


def identifiability(
    vectors: np.ndarray,
    languages: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int,
    held_out: float = 0.5,
    shrinkage: float = 0.1,
) -> Identifiability:
    """Held-out accuracy of linear discriminant analysis for the language of a segment.

    Translations of one segment form a group, and a group is held out as a whole. So the classifier cannot know the
    content of a held-out segment from another language.

    Args:
      vectors: (N,D).
      languages: (N,) labels.
      groups: (N,) numbers of the segments; None makes each row a group of its own.
      seed: decides which groups are held out.
      held_out: their share.
      shrinkage: as in `discriminant`.

    Raises:
      UserError: fewer than two languages, fewer than two groups, a language that is missing among the fitted segments,
        or a number that is not finite.
    """
    vectors = checked.matrix("identifiability", "vectors", vectors, 4)
    languages = checked.labels("identifiability", "languages", languages, len(vectors))
    groups = np.arange(len(vectors)) if groups is None else groups
    kinds, group = np.unique(checked.labels("identifiability", "groups", groups, len(vectors)), return_inverse=True)
    checked.between("identifiability", "held_out", held_out, 0, 1)
    if len(kinds) < 2:
        checked.refuse("identifiability", "all rows are of one group; at least two are needed")
    # At least one group on each side.
    count = int(np.clip(round(held_out * len(kinds)), 1, len(kinds) - 1))
    chosen = np.random.default_rng(seed).permutation(len(kinds))[:count]
    test = np.isin(group, chosen)
    missing = set(np.unique(languages)) - set(np.unique(languages[~test]))
    if missing:
        checked.refuse(
            "identifiability", f"no segment in {sorted(missing)[0]} is left to fit; give more segments of it"
        )
    weight, bias, known = discriminant(vectors[~test], languages[~test], shrinkage=shrinkage)
    hits = known[np.argmax(vectors[test] @ weight + bias, axis=1)] == languages[test]
    chance = np.unique(languages[test], return_counts=True)[1].max() / test.sum()
    return Identifiability(float(hits.mean()), float(chance), hits, int((~test).sum()))


def discriminant(
    vectors: np.ndarray, labels: np.ndarray, *, shrinkage: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear discriminant analysis: weight (D,K), bias (K,) and the K labels; scores are V @ weight + bias.

    With class means m_k, class shares p_k and the covariance S within classes: weight_k = S^-1 m_k and bias_k =
    log p_k - m_k.weight_k / 2. S is (1-a) S + a (trace S / D) I with a = `shrinkage`, so that it can be inverted where
    the width exceeds the number of rows.

    Raises:
      UserError: fewer than two classes, or a covariance that cannot be inverted.
    """
    vectors = np.asarray(vectors, np.float64)
    kinds, number = np.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        checked.refuse("identifiability", "all rows are of one language; at least two are needed")
    checked.between("identifiability", "shrinkage", shrinkage, 0, 1)
    counts = np.bincount(number)
    means = np.zeros((len(kinds), vectors.shape[1]))
    np.add.at(means, number, vectors)
    means /= counts[:, None]
    within = vectors - means[number]
    covariance = within.T @ within / len(vectors)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage * (within**2).sum() / within.size
    try:
        weight = scipy.linalg.solve(covariance, means.T, assume_a="pos")
    except np.linalg.LinAlgError:
        rows, width = vectors.shape
        checked.refuse(
            "identifiability", f"{rows} rows of width {width} have no invertible covariance; raise shrinkage"
        )
    return weight, np.log(counts / len(vectors)) - (means * weight.T).sum(1) / 2, kinds
