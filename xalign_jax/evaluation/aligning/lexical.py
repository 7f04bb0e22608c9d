"""Aligners without a neural model: IBM Model 1, and the diagonal as a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from xalign_jax.alignment.scores import Calibration
from xalign_jax.alignment.symmetrise import symmetrise, word_links
from xalign_jax.data.lexicon.model1 import LONGEST, Model1, near_diagonal, within_cells
from xalign_jax.data.text.linked import Pair
from xalign_jax.evaluation.aligning.pairs import Alignment, alignments


class LexicalAligner:
    """Links words by the probabilities of IBM Model 1.

    Forward, each source word is linked to the target word that most probably gave rise to it, unless the empty word is
    more probable. Backward, each target word is linked to a source word. The probability of a link is the geometric
    mean of both posteriors.
    """

    def __init__(self, model: Model1, how: str = "intersection", calibration: Calibration | None = None):
        """Args:
        how: one of `symmetrise.SYMMETRISATIONS`.
        """
        self.longer, self.calibration = 0, calibration
        self.way = "ibm1-diagonal" if model.tension else "ibm1"
        self._model, self._how = model, how

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair."""
        self.longer += _longer(pairs)
        found = [Alignment()] * len(pairs)
        sides = list(as_words(pairs))
        for numbers in within_cells(sides):
            batch = self._model.batch([sides[number] for number in numbers])
            forward, backward = self._model.posteriors(batch)
            # The best word of each, where it has more than the empty word has.
            chosen = symmetrise(
                _best(forward, 2) & (forward > 1 - forward.sum(2, keepdims=True)),
                _best(backward, 1) & (backward > 1 - backward.sum(1, keepdims=True)),
                self._how,
            )
            linked = _as_alignments(chosen, np.sqrt(forward * backward), self.calibration)
            for number, alignment in zip(numbers, linked, strict=True):
                found[number] = alignment
        return found


class DiagonalAligner:
    """Links word i of m to the word at the same share of the other sentence. It knows nothing: a baseline."""

    longer, way, calibration = 0, "diagonal", None

    def __init__(self, how: str = "intersection"):
        self._how = how

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair, with probability 1."""
        found = [Alignment()] * len(pairs)
        sides = list(as_words(pairs))
        for numbers in within_cells(sides):
            source, target = (_there([sides[number][place] for number in numbers]) for place in (0, 1))
            # Nearness is highest on the diagonal, whatever the tension is.
            near = near_diagonal(source, target, 1.0)
            chosen = symmetrise(_best(near, 2), _best(near, 1), self._how)
            for number, alignment in zip(numbers, _as_alignments(chosen, np.ones_like(near), None), strict=True):
                found[number] = alignment
        return found


def _as_alignments(links: np.ndarray, probability: np.ndarray, calibration: Calibration | None) -> list[Alignment]:
    """Links of words (B,M,N) as alignments: each token is a word."""
    source, target = (np.broadcast_to(np.arange(size), (len(links), size)) for size in (links.shape[1], links.shape[2]))
    found = word_links(links, probability, source, target)
    values = calibration(found.probability) if calibration else found.probability
    return alignments(found.row, found.source, found.target, values, len(links))


def _best(values: np.ndarray, axis: int) -> np.ndarray:
    """(B,M,N) bool: the first highest value along an axis, where it is above 0."""
    if not values.size:
        return np.zeros(values.shape, bool)
    places = np.expand_dims(values.argmax(axis), axis)
    found = np.zeros(values.shape, bool)
    np.put_along_axis(found, places, True, axis)
    return found & (values > 0)


def _there(sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """(B, longest) bool: where words are."""
    lengths = np.array([min(len(sentence), LONGEST) for sentence in sentences])
    return np.arange(lengths.max(initial=0)) < lengths[:, None]


def _longer(pairs: Sequence[Pair]) -> int:
    return sum(max(len(pair.source), len(pair.target)) > LONGEST for pair in pairs)


def as_words(pairs: Iterable[Pair]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """The words of pairs, as `model1.estimate` reads them."""
    return ((pair.source, pair.target) for pair in pairs)
