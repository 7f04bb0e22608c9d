"""IBM Model 1 (Brown et al. 1993): translation probabilities of words, estimated from parallel text alone.

With a tension above 0, links near the diagonal are preferred, as in fast_align (Dyer et al. 2013). There the tension is
estimated; here it is a constant. Both directions are estimated in the same passes over the text. The text is streamed;
memory grows with the number of pairs of words that occur in one sentence pair.

Shapes: B sentence pairs of up to M source and N target words, K pairs of words.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Pair = tuple[Sequence[str], Sequence[str]]  # source words, target words
LONGEST = 400  # words of a sentence that are read; later ones get no link
ROUNDS, TENSION = 5, 4.0  # of expectation maximisation; fast_align's first tension
_EMPTY = 0.08  # prior of a word that translates none, as in fast_align
_CELLS = 2**21  # pairs of words that are worked on at a time
_HELD = 2**13  # sentence pairs that are sorted by length, so that little is padding
_LEAST = 1e-6  # pairs of words less probable in both directions are forgotten


class Batch(NamedTuple):
    """Sentence pairs as numbers of words, (B,M) and (B,N) int64; 0 is padding."""

    source: np.ndarray
    target: np.ndarray


class Posteriors(NamedTuple):
    """Which word translates which, (B,M,N) float64 each; 0 at padding.

    Attributes:
      forward: sums to at most 1 over N: the target word from which a source word comes. The rest is the empty word's.
      backward: sums to at most 1 over M: the source word from which a target word comes.
    """

    forward: np.ndarray
    backward: np.ndarray


@dataclasses.dataclass
class Model1:
    """Translation probabilities. `estimate` makes them.

    Attributes:
      source, target: `bare` word -> its number, from 1.
      tension: preference for the diagonal; 0 = Model 1.
      keys: (K,) int64, sorted: source number * `width` + target number of each pair of words.
      forward, backward: (K,) float64, p(source | target) and p(target | source).
      no_source, no_target: (numbers,) float64, p(source | empty word) and p(target | empty word).
    """

    source: dict[str, int]
    target: dict[str, int]
    tension: float
    keys: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    no_source: np.ndarray
    no_target: np.ndarray

    @property
    def width(self) -> int:
        """The factor of source numbers in keys."""
        return len(self.target) + 1

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """The numbers of the words; unknown words are padding. At most LONGEST words of each sentence are read."""
        return Batch(_numbers([s for s, _ in pairs], self.source), _numbers([t for _, t in pairs], self.target))

    def posteriors(self, batch: Batch) -> Posteriors:
        """The probabilities of links between the words of sentence pairs."""
        return self._posteriors(batch, *self._find(batch))

    def _posteriors(self, batch: Batch, at: np.ndarray, known: np.ndarray) -> Posteriors:
        forth, back = self._weights(batch, at, known)
        # Divide by the sum over the words that compete, with the empty word among them.
        empty_source, empty_target = _EMPTY * self.no_source[batch.source], _EMPTY * self.no_target[batch.target]
        return Posteriors(
            forth / np.maximum(forth.sum(2) + empty_source, 1e-300)[..., None],
            back / np.maximum(back.sum(1) + empty_target, 1e-300)[:, None],
        )

    def _find(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """(B,M,N) the place of each pair of words among the keys, and whether it is there."""
        keys = batch.source[:, :, None] * self.width + batch.target[:, None]
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return at, (self.keys[at] == keys) & (batch.source > 0)[:, :, None] & (batch.target > 0)[:, None]

    def _weights(self, batch: Batch, at: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,M,N) prior times probability of each link, in both directions."""
        prior = near_diagonal(batch.source > 0, batch.target > 0, self.tension)
        sums = (np.maximum(prior.sum(axis, keepdims=True), 1e-300) for axis in (2, 1))
        weights = ((1 - _EMPTY) * prior / total for total in sums)
        forth, back = (
            np.where(known, weight * table[at], 0.0)
            for weight, table in zip(weights, (self.forward, self.backward), strict=True)
        )
        return forth, back


def near_diagonal(source: np.ndarray, target: np.ndarray, tension: float) -> np.ndarray:
    """(B,M,N) float64: exp(-tension * |i / m - j / n|) of the middles of words, 0 at padding.

    Args:
      source, target: (B,M) and (B,N) bool, where words are; m and n reach to the last one.
    """
    # (B,M) and (B,N) places in 0..1, from each sentence's own length.
    rows, columns = (
        (np.arange(side.shape[1]) + 0.5) / np.maximum(_lengths(side), 1)[:, None] for side in (source, target)
    )
    near = np.exp(-tension * np.abs(rows[:, :, None] - columns[:, None]))
    return np.where(source[:, :, None] & target[:, None], near, 0.0)


def estimate(read: Callable[[], Iterable[Pair]], rounds: int = ROUNDS, tension: float = 0.0) -> Model1:
    """Translation probabilities by expectation maximisation, from equal ones.

    Args:
      read: gives the sentence pairs from the start. It is called `rounds` + 2 times, and must give the same each time.
    """
    source: dict[str, int] = {}
    target: dict[str, int] = {}
    for words, others in read():
        for table, side in ((source, words), (target, others)):
            for word in side[:LONGEST]:
                table.setdefault(bare(word), len(table) + 1)
    nothing = np.zeros(0)
    model = Model1(source, target, tension, np.zeros(0, np.int64), nothing, nothing, nothing, nothing)
    model.keys = _distinct(_keys(batch, model.width) for batch in _batches(read, model))
    model.forward, model.backward = np.ones(len(model.keys)), np.ones(len(model.keys))
    model.no_source, model.no_target = np.ones(len(source) + 1), np.ones(len(target) + 1)
    for _ in range(rounds if len(model.keys) else 0):
        model = _improved(model, read)
    return model


def _improved(model: Model1, read: Callable[[], Iterable[Pair]]) -> Model1:
    """One round of expectation maximisation."""
    # Expected counts of links in both directions, and of words that come from the empty word.
    forth, back = np.zeros(len(model.keys)), np.zeros(len(model.keys))
    no_source, no_target = np.zeros(len(model.no_source)), np.zeros(len(model.no_target))
    for batch in _batches(read, model):
        at, known = model._find(batch)
        found = model._posteriors(batch, at, known)
        np.add.at(forth, at[known], found.forward[known])
        np.add.at(back, at[known], found.backward[known])
        np.add.at(no_source, batch.source, 1 - found.forward.sum(2))
        np.add.at(no_target, batch.target, 1 - found.backward.sum(1))
    # Padding is word 0.
    no_source[0] = no_target[0] = 0.0
    # Normalise over the pairs of one target word, of one source word, and of the empty word.
    of_source, of_target = model.keys // model.width, model.keys % model.width
    forward = forth / np.maximum(np.bincount(of_target, forth), 1e-300)[of_target]
    backward = back / np.maximum(np.bincount(of_source, back), 1e-300)[of_source]
    kept = (forward > _LEAST) | (backward > _LEAST)
    empty = [side / max(side.sum(), 1e-300) for side in (no_source, no_target)]
    return dataclasses.replace(
        model,
        keys=model.keys[kept],
        forward=forward[kept],
        backward=backward[kept],
        no_source=empty[0],
        no_target=empty[1],
    )


def _batches(read: Callable[[], Iterable[Pair]], model: Model1) -> Iterator[Batch]:
    """The text in batches of at most _CELLS pairs of words, or of one sentence pair."""
    pairs = iter(read())
    while held := list(itertools.islice(pairs, _HELD)):
        for numbers in within_cells(held):
            yield model.batch([held[number] for number in numbers])


def within_cells(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """The numbers of sentence pairs, in lists of similar length whose padded matrices have at most _CELLS entries."""
    sizes = [(min(len(source), LONGEST), min(len(target), LONGEST)) for source, target in pairs]
    numbers: list[int] = []
    m = n = 1
    for number in sorted(range(len(pairs)), key=lambda number: (max(sizes[number]), min(sizes[number]))):
        m, n = max(m, sizes[number][0]), max(n, sizes[number][1])
        if numbers and (len(numbers) + 1) * m * n > _CELLS:
            yield numbers
            numbers, (m, n) = [], sizes[number]
        numbers.append(number)
    if numbers:
        yield numbers


@functools.lru_cache(2**18)
def bare(word: str) -> str:
    """The word without case, and without punctuation and symbols at its ends if anything else is left."""
    folded = word.casefold()
    inside = [place for place, character in enumerate(folded) if unicodedata.category(character)[0] not in "PS"]
    return folded[inside[0] : inside[-1] + 1] if inside else folded


def _keys(batch: Batch, width: int) -> np.ndarray:
    """The distinct keys of a batch, sorted."""
    there = (batch.source > 0)[:, :, None] & (batch.target > 0)[:, None]
    return np.unique((batch.source[:, :, None] * width + batch.target[:, None])[there])


def _distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The sorted distinct keys of all parts; few parts are held at a time."""
    found, waiting = np.zeros(0, np.int64), [np.zeros(0, np.int64)]
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) > max(2**20, len(found)):
            found, waiting = np.unique(np.concatenate([found, *waiting])), []
    return np.unique(np.concatenate([found, *waiting]))


def _numbers(sentences: Sequence[Sequence[str]], table: dict[str, int]) -> np.ndarray:
    """(B, longest) int64 numbers of words, 0 at padding and for unknown words."""
    rows = [[table.get(bare(word), 0) for word in sentence[:LONGEST]] for sentence in sentences]
    numbers = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    for row, found in zip(numbers, rows, strict=True):
        row[: len(found)] = found
    return numbers


def _lengths(mask: np.ndarray) -> np.ndarray:
    """(B,) places up to the last one that is True."""
    return (mask * np.arange(1, mask.shape[1] + 1)).max(1, initial=0)
