"""Parallel sentences, line by line, and the links between their words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from xalign_jax.alignment.scores import Calibration
from xalign_jax.data.text.lines import read_lines
from xalign_jax.data.tokens.segmenter import BORDER, mark_borders
from xalign_jax.errors import UserError

_Item = TypeVar("_Item")


class Pair(NamedTuple):
    """One line of both files: its number from 1, and its words."""

    line: int
    source: tuple[str, ...]
    target: tuple[str, ...]


class Alignment(NamedTuple):
    """The links of a sentence pair.

    Attributes:
      links: (source word, target word) from 0, sorted, without repetition.
      probabilities: of each link.
    """

    links: tuple[tuple[int, int], ...] = ()
    probabilities: tuple[float, ...] = ()

    def above(self, least: float) -> Alignment:
        """The links of at least this probability."""
        if least <= 0:
            return self
        kept = [item for item in zip(self.links, self.probabilities, strict=True) if item[1] >= least]
        return Alignment(tuple(link for link, _ in kept), tuple(probability for _, probability in kept))


class Aligner(Protocol):
    """Links words of sentence pairs.

    Attributes:
      longer: sentence pairs so far that were longer than the aligner reads. Words beyond that have no link.
      way: how it links words, for the user: "e5-small, level 7, itermax".
    """

    longer: int
    way: str

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of the probabilities; None = they are as they were computed."""

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair, in the order of the pairs."""


def split_words(text: str, words: str = "spaces") -> tuple[str, ...]:
    """The words of a sentence: between white space, and with "icu" also where scripts without spaces have borders."""
    if words == "icu":
        text = mark_borders(text).replace(BORDER, " ")
    return tuple(text.split())


def read_pairs(source: str, target: str, words: str = "spaces") -> Iterator[Pair]:
    """The sentence pairs of two files, which may be compressed. One line is held at a time.

    Raises:
      UserError: the files have unequal numbers of lines, or `read_lines` refuses one.
    """
    missing = object()
    for (number, first), (_, second) in itertools.zip_longest(
        read_lines(source), read_lines(target), fillvalue=(0, missing)
    ):
        if not (isinstance(first, str) and isinstance(second, str)):
            raise _unequal(source, target)
        yield Pair(number, split_words(first, words), split_words(second, words))


def count_pairs(source: str, target: str) -> int:
    """The number of lines of both files. Raises UserError if they are unequal: before the work, not after it."""
    counts = [sum(1 for _ in read_lines(file)) for file in (source, target)]
    if counts[0] != counts[1]:
        raise _unequal(source, target, counts)
    return counts[0]


def _unequal(source: str, target: str, counts: Sequence[int] = ()) -> UserError:
    said = " and ".join(f"{count:,}" for count in counts) or "different numbers of"
    return UserError(f"{source} and {target} have {said} lines; line n of one must translate line n of the other")


def windows(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of up to `size` items, in order."""
    while held := list(itertools.islice(items, size)):
        yield held


def alignments(
    rows: np.ndarray, source: np.ndarray, target: np.ndarray, probability: np.ndarray, count: int
) -> list[Alignment]:
    """K links, sorted by sentence pair, as `count` alignments."""
    ends = np.searchsorted(rows, np.arange(count + 1))
    links = list(zip(source.tolist(), target.tolist(), strict=True))
    values = probability.tolist()
    return [Alignment(tuple(links[a:b]), tuple(values[a:b])) for a, b in itertools.pairwise(ends.tolist())]
