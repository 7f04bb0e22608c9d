"""Finds texts that training should not have seen in texts that it has: equal, inside a longer text, or nearly equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.cleaning import minhash

WINDOW = 24  # characters of `comparable` from which a text is also looked for inside longer ones
_BITS = 24  # of a hash, by which windows are looked up in a table first


class Hit(NamedTuple):
    """Text `number` of those that are looked for is in text `place` of a batch. How: "equal", "inside" or "near"."""

    number: int
    place: int
    how: str


class Finder:
    """Looks for some texts in many others. All texts are in the form of `comparable`.

    Args:
      texts: those to look for.
      near: the similarity from which texts are near duplicates (`minhash`); None = these are not looked for.
    """

    def __init__(self, texts: Sequence[str], near: float | None = None) -> None:
        self._equal: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            self._equal.setdefault(text, []).append(number)
        # The first window of each long text, by its hash, and a table of bits that rules most windows out.
        self._windows: dict[int, list[str]] = {}
        long = [text for text in self._equal if len(text) >= WINDOW]
        for text, value in zip(long, _first_windows(long), strict=True):
            self._windows.setdefault(int(value), []).append(text)
        self._begins = np.zeros(1 << _BITS, bool)
        self._begins[[value >> (64 - _BITS) for value in self._windows]] = True
        self._near = near
        self._signatures = minhash.signatures(list(texts)) if near is not None and texts else None

    def search(self, batch: list[str]) -> Iterator[Hit]:
        """Every text that is found in a batch; a text can be found several times and in several ways."""
        for place, text in enumerate(batch):
            yield from (Hit(number, place, "equal") for number in self._equal.get(text, ()))
        if self._windows:
            for block in minhash.blocks(batch):
                yield from self._inside(batch[block], block.start)
        if self._signatures is not None and self._near is not None:
            found = minhash.near_matches(minhash.signatures(batch), self._signatures, self._near)
            yield from (Hit(number, place, "near") for place, number in found.tolist())

    def _inside(self, batch: list[str], first: int) -> Iterator[Hit]:
        """Texts that begin with a window of the batch and go on as the batch does. `first`: the place of batch[0]."""
        hashes, counts = minhash.shingles(batch, WINDOW)
        ends = np.cumsum(counts)
        for at in np.flatnonzero(self._begins[hashes >> np.uint64(64 - _BITS)]).tolist():
            place = int(np.searchsorted(ends, at, "right"))
            text, start = batch[place], at - int(ends[place] - counts[place])
            for wanted in self._windows.get(int(hashes[at]), ()):
                if len(wanted) < len(text) and text.startswith(wanted, start):
                    yield from (Hit(number, first + place, "inside") for number in self._equal[wanted])


def _first_windows(texts: list[str]) -> np.ndarray:
    """(D,) uint64 hashes of the first window of each text."""
    hashes, counts = minhash.shingles([text[:WINDOW] for text in texts], WINDOW)
    return hashes[np.cumsum(counts) - counts]
