"""The copy baseline of retrieval: texts compared by their characters alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

SIZES = (2, 3, 4)


def ngram_cosines(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Cosines (Q, C) float32 of counts of character n-grams (n = 2 to 4), whatever their case and white space.

    A text without n-grams has cosine 0.
    """
    counts = [[_ngrams(text) for text in side] for side in (source, target)]
    # Only n-grams of both sides can contribute to a product, so only these get a column.
    seen = [set().union(*side) for side in counts]
    number = {gram: i for i, gram in enumerate(sorted(seen[0] & seen[1]))}
    left, right = (_vectors(side, number) for side in counts)
    return left @ right.T


def _ngrams(text: str) -> Counter[str]:
    """How often each n-gram occurs. The text has one space at each end, so that words' borders are n-grams too."""
    text = f" {' '.join(text.casefold().split())} "
    return Counter(text[i : i + n] for n in SIZES for i in range(len(text) - n + 1))


def _vectors(counts: list[Counter[str]], number: dict[str, int]) -> np.ndarray:
    """(N, n-grams) count vectors, of length 1 before the n-grams of one side only are left out: these meet nothing."""
    vectors = np.zeros((len(counts), len(number)), np.float32)
    for row, grams in zip(vectors, counts, strict=True):
        norm = np.sqrt(sum(count * count for count in grams.values())) or 1.0
        for gram in grams.keys() & number.keys():
            row[number[gram]] = grams[gram] / norm
    return vectors
