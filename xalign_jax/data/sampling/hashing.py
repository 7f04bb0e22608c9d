"""Vectorised hashing. Every random choice about data is a pure function of integers, so no generator state exists.

All functions broadcast their arguments like numpy ufuncs. They are for shuffling and sampling, not for security.
"""

from __future__ import annotations

import zlib

import numpy as np

Part = int | str | np.ndarray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1
_ROUNDS = 6  # of the Feistel network in `permute`


def _as_uint64(part: Part) -> np.ndarray:
    if isinstance(part, str):
        return np.asarray(zlib.crc32(part.encode()), np.uint64)
    if isinstance(part, int):
        return np.asarray(part & _MASK, np.uint64)
    return np.asarray(part).astype(np.uint64)


def hash64(*parts: Part) -> np.ndarray:
    """A 64-bit hash of the parts, in order (splitmix64's finaliser after each part).

    Args:
      parts: integers, strings (by their CRC-32) or integer arrays that broadcast together.
    Returns:
      uint64 array of the broadcast shape.
    """
    state = np.zeros((), np.uint64)
    # Products wrap around modulo 2^64 on purpose; numpy would warn about scalars.
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ _as_uint64(part)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def uniform(*parts: Part) -> np.ndarray:
    """float64 in [0, 1), keyed by the parts (see `hash64`); the broadcast shape."""
    # The upper 53 bits: as many as a float64 holds exactly.
    return (hash64(*parts) >> np.uint64(11)) * 2.0**-53


def draw32(keys: np.ndarray, count: int) -> np.ndarray:
    """One uniform uint32 for each of `count` positions of each row.

    Args:
      keys: (B,) uint32, one hashed key per row.
    Returns:
      (B, count) uint32. Entry (b, t) is Wellons' lowbias32 of the key xor a constant of position t. It does not depend
      on `count`.
    """
    # (count,), (B,1) -> (B,count). The steps of lowbias32 are done in place: the array is large.
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ keys[:, None]
    shifted = np.empty_like(x)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        np.right_shift(x, np.uint32(shift), out=shifted)
        np.bitwise_xor(x, shifted, out=x)
        if factor is not None:
            np.multiply(x, np.uint32(factor), out=x)
    return x


def permute(index: int | np.ndarray, size: int | np.ndarray, seed: int | np.ndarray) -> np.ndarray:
    """The image of `index` under a pseudo-random bijection of range(size). No table is built.

    First a rotation, so that every image is equally likely however small the size. Then a Feistel network on a
    rectangle that barely covers `size`. An image outside of range(size) goes through the network again until it lies
    inside, which keeps the mapping one to one (cycle walking).

    Args:
      index: integers in [0, size).
      seed: integers that select the bijection.
    Returns:
      int64 array of the broadcast shape.
    Raises:
      ValueError: an index outside of range(size).
    """
    # All arguments -> flat arrays (n,) of the broadcast shape.
    arrays = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(size, np.int64), _as_uint64(seed))
    value, bound, key = (np.ravel(a) for a in arrays)
    if np.any((value < 0) | (value >= bound)):
        raise ValueError("permute: index outside range(size)")
    value = (value + (hash64(key, "rotate") >> np.uint64(33)).astype(np.int64)) % bound
    value = _feistel(value, bound, key)
    # Few images lie outside, so each further round works on fewer entries.
    outside = np.flatnonzero(value >= bound)
    while outside.size:
        value[outside] = _feistel(value[outside], bound[outside], key[outside])
        outside = outside[value[outside] >= bound[outside]]
    return value.reshape(arrays[0].shape)


def _feistel(value: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """One pass of the network, a bijection of range(high * low) for each entry; all arrays are (n,)."""
    # A rectangle of high x low >= size cells, nearly square; a value is (row, column) in it.
    high = np.ceil(np.sqrt(size)).astype(np.int64)
    low = -(-size // high)
    left, right = value // low, value % low
    # Each step moves one coordinate by a hash of the other one, modulo its range, which can be undone.
    for step in range(_ROUNDS):
        if step % 2:
            right = (right + (hash64(key, step, left) >> np.uint64(33)).astype(np.int64)) % low
        else:
            left = (left + (hash64(key, step, right) >> np.uint64(33)).astype(np.int64)) % high
    return left * low + right
