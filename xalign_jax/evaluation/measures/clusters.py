"""Concepts as clusters of words: CALIGN and COLAP (Mousi et al. 2024, arXiv 2405.14535, and its released scripts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.cluster.hierarchy

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import unit


class Concepts(NamedTuple):
    """A score of concepts.

    Attributes:
      score: share in [0, 1] of the concepts that count.
      hits: (concepts,) bool, in ascending order of their numbers.
    """

    score: float
    hits: np.ndarray


def concepts(vectors: np.ndarray, count: int) -> np.ndarray:
    """(N,) numbers of up to `count` clusters, 0 first, by Ward's agglomerative clustering of unit vectors.

    Memory is N^2. Ward's criterion joins the two clusters whose union adds least to the squared distances from means.

    Args:
      vectors: (N,D), one word in its context each.

    Raises:
      UserError: fewer vectors than clusters, or a number that is not finite.
    """
    checked.between("concepts", "count", count, 1)
    own = unit(np.asarray(checked.matrix("concepts", "vectors", vectors, max(2, count)), np.float64))
    tree = scipy.cluster.hierarchy.linkage(own, method="ward")
    return scipy.cluster.hierarchy.fcluster(tree, count, criterion="maxclust") - 1


def calign(
    source_words: Sequence[str],
    source_concepts: np.ndarray,
    target_words: Sequence[str],
    target_concepts: np.ndarray,
    translations: Mapping[str, Sequence[str]],
    *,
    share: float = 0.8,
    size: float = 0.4,
    least: int = 1,
) -> Concepts:
    """CALIGN: the share of source concepts that are aligned with a target concept.

    A concept C_s is aligned with C_t if more than `share` of its distinct words have a translation among the words of
    C_t, and |C_s| / |C_t| > `size`. Concepts with no more than `least` distinct words are left out. The released scripts
    set these thresholds differently from one run to another (.5 and .9, .4 and 1), so print them.

    Args:
      source_words, target_words: (N,) and (M,) words that were clustered, language by language.
      source_concepts, target_concepts: (N,) and (M,) their clusters.
      translations: the translations of source words that count, such as the two most probable ones.

    Raises:
      UserError: columns of unequal length, or no source concept with more than `least` words.
    """
    sources, targets = (
        _members(name, words, numbers)
        for name, words, numbers in (
            ("source", source_words, source_concepts),
            ("target", target_words, target_concepts),
        )
    )
    asked = {number: words for number, words in sources.items() if len(words) > least}
    if not asked:
        checked.refuse("calign", f"no source concept has more than {least} distinct words")
    # The target concepts in which a word occurs, so that no concept is compared with all others.
    places: dict[str, set[int]] = {}
    for number, words in targets.items():
        for word in words:
            places.setdefault(word, set()).add(number)
    hits = []
    for _, words in sorted(asked.items()):
        # How many words of this concept have a translation in each target concept.
        counts: dict[int, int] = {}
        for word in words:
            for number in set().union(*(places.get(other, set()) for other in translations.get(word, ()))):
                counts[number] = counts.get(number, 0) + 1
        hits.append(any(n > share * len(words) and len(words) > size * len(targets[t]) for t, n in counts.items()))
    return Concepts(float(np.mean(hits)), np.asarray(hits))


def colap(numbers: np.ndarray, languages: np.ndarray, *, share: float = 0.3) -> Concepts:
    """COLAP: the share of concepts, clustered over all languages together, in which every language has its share.

    A concept overlaps if each language of the pool forms at least `share` of its members (the released scripts: .3 or
    .4 for two languages). With K languages, `share` must be at most 1/K.

    Args:
      numbers: (N,) clusters of words of all languages.
      languages: (N,) their languages.

    Raises:
      UserError: columns of unequal length, one language, or a share that no concept can reach.
    """
    numbers = np.asarray(numbers)
    languages = checked.labels("colap", "languages", languages, len(numbers))
    (kinds, language), (found, number) = (np.unique(c, return_inverse=True) for c in (languages, numbers))
    if len(kinds) < 2:
        checked.refuse("colap", "all words are of one language; at least two are needed")
    checked.between("colap", "share", share, 0, 1 / len(kinds))
    # (concepts, languages) members.
    counts = np.zeros((len(found), len(kinds)), np.int64)
    np.add.at(counts, (number, language), 1)
    hits = (counts >= share * counts.sum(1, keepdims=True)).all(1)
    return Concepts(float(hits.mean()), hits)


def _members(name: str, words: Sequence[str], numbers: np.ndarray) -> dict[int, set[str]]:
    """Concept -> its distinct words."""
    found: dict[int, set[str]] = {}
    for word, number in zip(words, checked.labels("calign", f"{name}_concepts", numbers, len(words)), strict=True):
        found.setdefault(int(number), set()).add(word)
    return found
