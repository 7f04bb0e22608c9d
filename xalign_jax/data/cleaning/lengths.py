"""Lengths of translations: texts that are far longer or shorter than the other texts of their group."""

from __future__ import annotations

import numpy as np


def outliers(lengths: np.ndarray, languages: np.ndarray, groups: np.ndarray, ratio: float) -> np.ndarray:
    """(D,) bool: texts whose length differs by more than a factor `ratio` from the middle one of their translations.

    With an even number of translations there are two middle ones, and both must differ.

    Languages differ in how much they write: Chinese takes a third of the characters of English. So each length is first
    divided by what is usual for its language, compared with the medians of the groups. In a pair of texts, nothing
    tells which of them is wrong, and both are outliers.

    Args:
      lengths: (D,) positive.
      languages: (D,) number of each text's language.
      groups: (D,) equal for translations; -1 = no group.
    """
    found = np.zeros(len(lengths), bool)
    grouped = np.flatnonzero(groups >= 0)
    if not len(grouped):
        return found
    logs, language = np.log(lengths[grouped].astype(np.float64)), languages[grouped]
    # (n,) number of each text's group, and the number of texts of each group.
    _, group, sizes = np.unique(groups[grouped], return_inverse=True, return_counts=True)
    deviations = logs - _medians(logs, group, sizes)[group]
    for one in np.unique(language):
        own = (language == one) & (sizes[group] > 1)
        logs[language == one] -= np.median(deviations[own]) if own.any() else 0.0
    lower, upper = _middle_of_others(logs, group, sizes)
    far = np.minimum(np.abs(logs - lower), np.abs(logs - upper)) > np.log(ratio)
    found[grouped] = far & (sizes[group] > 1)
    return found


def _medians(values: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(G,) median of the values of each group."""
    ordered = values[np.lexsort((values, group))]
    starts = np.cumsum(sizes) - sizes
    return (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2


def _middle_of_others(values: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each value, the two middle ones (n,) of the other values of its group, which may be the same.

    Both are of use: of three texts one of which is wrong, the two good ones each have one good neighbour.
    """
    order = np.lexsort((values, group))
    ordered, starts, size = values[order], (np.cumsum(sizes) - sizes)[group[order]], sizes[group[order]]
    rank = np.arange(len(values)) - starts
    result = np.empty((2, len(values)))
    # Without the value of this rank, size - 1 values remain. Places from its rank on move by one.
    for row, place in zip(result, (np.maximum(size - 2, 0) // 2, np.maximum(size - 1, 0) // 2), strict=True):
        row[order] = ordered[np.minimum(starts + place + (place >= rank), starts + size - 1)]
    return result[0], result[1]
