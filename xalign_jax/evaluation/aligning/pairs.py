"""The links between the words of sentence pairs, and what finds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from xalign_jax.alignment.scores import Calibration
from xalign_jax.data.text.linked import Pair

_Item = TypeVar("_Item")


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
