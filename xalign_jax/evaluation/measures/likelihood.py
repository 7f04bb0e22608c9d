"""Losses on text, made comparable: bits per byte between models, information parity between languages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xalign_jax.alignment import checked


def utf8_bytes(texts: Sequence[str]) -> np.ndarray:
    """(N,) bytes of each text in UTF-8: 1 for ASCII, 2 for Cyrillic, 3 for most CJK characters."""
    return np.asarray([len(text.encode()) for text in texts], np.int64)


def bits_per_byte(nats: np.ndarray, bytes_: np.ndarray) -> float:
    """sum(nats) / (ln 2 sum(bytes)), in bits per byte; lower is better.

    Sums run over all texts before the one division. It compares models on one language. It does not compare languages,
    because UTF-8 spends more bytes on some scripts.

    Args:
      nats: (N,) summed negative log-likelihood of each text, all of its tokens, eos always or never.
      bytes_: (N,) UTF-8 bytes of each text.

    Raises:
      UserError: columns of unequal length, no bytes, or a number that is not finite.
    """
    nats = checked.column("bits_per_byte", "nats", nats)
    size = checked.column("bits_per_byte", "bytes", bytes_, len(nats)).sum()
    if size <= 0:
        checked.refuse("bits_per_byte", "the texts have no bytes")
    return float(nats.sum() / (np.log(2) * size))


def information_parity(nats: np.ndarray, pivot_nats: np.ndarray) -> float:
    """sum(nats) / sum(pivot_nats) over parallel texts; 1 = both languages cost alike, above 1 = this one costs more.

    Some papers report the inverse. `statistics.bootstrap_ratio` of the same columns gives an interval.

    Args:
      nats, pivot_nats: (N,) summed negative log-likelihoods of a text and of its translation in the pivot, usually
        English. Neither side is cut.

    Raises:
      UserError: columns of unequal length, a pivot whose losses are not positive, or a number that is not finite.
    """
    nats = checked.column("information_parity", "nats", nats)
    total = checked.column("information_parity", "pivot_nats", pivot_nats, len(nats)).sum()
    if total <= 0:
        checked.refuse("information_parity", "the losses of the pivot must be positive")
    return float(nats.sum() / total)
