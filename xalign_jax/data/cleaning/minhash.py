"""Near duplicates by MinHash and locality-sensitive hashing (Broder 1997), in numpy.

Two texts are as similar as their sets of shingles (runs of five characters) overlap: |A & B| / |A | B|, which is called
the Jaccard similarity. A signature holds, for each of `PERMUTATIONS` random orders of all shingles, the first shingle
of the text in this order. The share of equal places of two signatures estimates their similarity.

A signature keeps eight bits of each of these shingles (Li and König 2010). Thus a text takes 128 bytes, however long it
is, and four places of a signature make one number of 32 bits, by which similar texts are found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SHINGLE = 5  # characters
PERMUTATIONS = 128
_NEIGHBOURS = 4  # texts that agree in a band are compared with the first one and with so many before
_BLOCK = 1 << 15  # characters that are hashed at a time, so that their hashes stay in the processor's cache

# (PERMUTATIONS,) uint32 each: permutation k of the hashes is h -> (h ^ _OFFSETS[k]) * _FACTORS[k], with odd factors.
_RANDOM = np.random.Generator(np.random.PCG64(5))
_OFFSETS = _RANDOM.integers(0, 2**32, PERMUTATIONS, np.uint32)
_FACTORS = _RANDOM.integers(0, 2**32, PERMUTATIONS, np.uint32) | np.uint32(1)


def shingles(texts: list[str], width: int = SHINGLE) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of `width` characters of all texts.

    A run begins at each character of a text. Runs that reach over the text's end are filled up with NUL.

    Args:
      texts: without NUL characters.
    Returns:
      (N,) uint64 hashes, text after text, and (D,) the number of each text's.
    """
    gap = "\0" * width
    codes = np.frombuffer(gap.join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    counts = np.fromiter(map(len, texts), np.int64, len(texts))
    # A polynomial in the characters of each run, modulo 2^64, whose bits are then mixed. NUL begins no run.
    runs = max(0, len(codes) - width)
    values = np.zeros(runs, np.uint64)
    for place in range(width):
        values += codes[place : place + runs]
        values += np.uint64(1)
        values *= np.uint64(0x9E3779B97F4A7C15)
    values = values[codes[:runs] > 0]
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xD6E8FEB86659FD93)
    return values ^ (values >> np.uint64(32)), counts


def blocks(texts: list[str]) -> Iterator[slice]:
    """Parts of a list of about equal length in characters, so that hashes of long texts do not fill the memory."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    first = done = 0
    while first < len(texts):
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, "right")))
        yield slice(first, last)
        first, done = last, int(ends[last - 1])


def signatures(texts: list[str]) -> np.ndarray:
    """(D, PERMUTATIONS) uint8 signatures of texts in the form of `comparable`. None of them is empty."""
    least = np.empty((PERMUTATIONS, len(texts)), np.uint32)
    for block in blocks(texts):
        hashes, counts = shingles(texts[block])
        hashes, starts = hashes.astype(np.uint32), np.cumsum(counts) - counts
        # For each permutation, the least hash of each text.
        moved = np.empty_like(hashes)
        for k in range(PERMUTATIONS):
            np.bitwise_xor(hashes, _OFFSETS[k], out=moved)
            np.multiply(moved, _FACTORS[k], out=moved)
            least[k, block] = np.minimum.reduceat(moved, starts)
    # The upper bits of a minimum are mostly zero: mix them before eight bits are kept.
    return ((least * np.uint32(0x9E3779B1)) >> np.uint32(24)).astype(np.uint8).T.copy()


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) estimates of the similarity of N pairs of texts, from (N, PERMUTATIONS) signatures of each side."""
    equal = (first == second).mean(axis=1)
    # Eight bits of two different shingles are equal by chance once in 256 times.
    return (equal - 1 / 256) / (1 - 1 / 256)


def near_pairs(signed: np.ndarray, least: float) -> np.ndarray:
    """(P, 2) numbers i < j of similar texts, ordered by j and then i.

    In a group of texts that all agree in a band, each is compared with the first and with a few texts before it. So the
    number of comparisons grows with the number of texts, and not with its square.

    Args:
      signed: (D, PERMUTATIONS) signatures.
      least: similarity of a pair, from 0 to 1.
    """
    found = [np.empty(0, np.int64)]
    for band in _bands(signed):
        order = np.argsort(band, kind="stable")
        values = band[order]
        # (D,) place, in `order`, of the first text of the same band.
        new = np.append(True, values[1:] != values[:-1])
        firsts = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        places = np.flatnonzero(~new)
        for back in range(_NEIGHBOURS + 1):
            # The first text, then the texts 1, 2, ... places before, as long as they agree.
            partners = firsts[places] if back == 0 else places - back
            inside = partners >= firsts[places]
            i, j = order[partners[inside]], order[places[inside]]
            found.append(j * len(signed) + i)
    return _similar(np.unique(np.concatenate(found)), signed, signed, least)[:, ::-1]


def near_matches(signed: np.ndarray, others: np.ndarray, least: float) -> np.ndarray:
    """(P, 2) pairs of a text and one of the other texts that are similar, ordered.

    Args:
      signed: (D, PERMUTATIONS) signatures, many.
      others: (E, PERMUTATIONS) signatures, few.
    """
    found = [np.empty(0, np.int64)]
    for own, theirs in zip(_bands(signed), _bands(others), strict=True):
        order = np.argsort(theirs, kind="stable")
        left, right = (np.searchsorted(theirs[order], own, side) for side in ("left", "right"))
        # Text d agrees with the others order[left[d]:right[d]]; of very many the first are enough.
        for k in range(min(int((right - left).max(initial=0)), _NEIGHBOURS)):
            places = np.flatnonzero(right - left > k)
            found.append(places * len(others) + order[left[places] + k])
    return _similar(np.unique(np.concatenate(found)), signed, others, least)


def _bands(signed: np.ndarray) -> Iterator[np.ndarray]:
    """(D,) uint32 of each band: texts are compared if they agree in the four places of any band.

    Bands begin at every second place. Those that overlap find a part of what the others miss.
    """
    for first in range(0, PERMUTATIONS - 3, 2):
        yield np.ascontiguousarray(signed[:, first : first + 4]).view(np.uint32)[:, 0]


def _similar(pairs: np.ndarray, first: np.ndarray, second: np.ndarray, least: float) -> np.ndarray:
    """(P, 2) of those pairs, given as number of the first x length of the second + number of the second."""
    kept = [np.empty((0, 2), np.int64)]
    for block in np.split(pairs, range(_BLOCK, len(pairs), _BLOCK)):
        i, j = np.divmod(block, max(1, len(second)))
        kept.append(np.stack([i, j], axis=1)[similarity(first[i], second[j]) >= least])
    return np.concatenate(kept)
