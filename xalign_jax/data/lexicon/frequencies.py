"""How often word types and tokens occur in a corpus, counted on the stored tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.words import Keys, hash_words, read_words, split_words, word_flags

if TYPE_CHECKING:
    from xalign_jax.data.store.store import Store
    from xalign_jax.data.tokens.tokenizer import Tokenizer

SAMPLE = 20_000_000  # tokens that are counted in each store; documents are shuffled, so its beginning is a sample
_CHUNK = 1 << 18  # tokens that are worked on at a time


@dataclasses.dataclass(frozen=True)
class WordTypes:
    """K word types, the most frequent first.

    Attributes:
      ids: (K, max_tokens) int32 base ids, padded with -1.
      counts: (K,) int64.
    """

    ids: np.ndarray
    counts: np.ndarray

    def tuples(self) -> list[tuple[int, ...]]:
        """The types as plain tuples, in the same order."""
        return [tuple(row[:n]) for row, n in zip(self.ids.tolist(), (self.ids >= 0).sum(1).tolist(), strict=True)]


def count_types(stores: Iterable[Store], tokenizer: Tokenizer, max_tokens: int) -> WordTypes:
    """The types of the ordinary words (neither specials nor punctuation) of up to `max_tokens` tokens, with counts."""
    flags = word_flags(tokenizer)
    factors = hash64("types", np.arange(max_tokens + 1)) | np.uint64(1)
    parts = [_count(tokens, starts, flags, factors) for tokens, starts in _chunks(stores)]
    if not parts:
        return WordTypes(np.zeros((0, max_tokens), np.int32), np.zeros(0, np.int64))
    # Types of all chunks -> (K,) distinct hashes with summed counts, sorted by falling count, then ids.
    hashes, words, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    words, counts = words[first], np.bincount(inverse, weights=counts).astype(np.int64)
    order = np.lexsort((*words.T[::-1], -counts))
    return WordTypes(words[order], counts[order])


def count_keys(stores: Iterable[Store], keys: Keys, max_tokens: int) -> tuple[np.ndarray, int]:
    """How often each key occurs in the texts, and how many ordinary words of up to `max_tokens` tokens the texts have.

    Args:
      keys: K keys, all in language 0.
    Returns:
      (K,) int64, and a number.
    """
    counts, total = np.zeros(len(keys.hashes), np.int64), 0
    for tokens, starts in _chunks(stores):
        base = tokens[None]
        begins, ordinary = split_words(keys.flags.take(base), starts)
        _, _, key = keys.read(base, begins, np.flatnonzero(ordinary), np.zeros(1, np.int64))
        counts += np.bincount(key, minlength=len(counts))
        # (W,) starts of words -> a word's length is the distance to the next one; the chunk's last word is not counted.
        first = np.flatnonzero(begins)
        total += int(np.count_nonzero((np.diff(first) <= max_tokens) & ordinary[0, first[:-1]]))
    return counts, total


def token_shares(stores: Iterable[Store], tokenizer: Tokenizer) -> np.ndarray:
    """(base_size,) float64: share of each base token among the running tokens; zeros if there is no text."""
    counts = np.zeros(tokenizer.base_size, np.int64)
    for store in stores:
        counts += np.bincount(np.asarray(store.tokens[:SAMPLE]), minlength=len(counts))
    return counts / max(int(counts.sum()), 1)


def _chunks(stores: Iterable[Store]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The tokens that are counted, (n,) with n of at most `_CHUNK` at a time, and their `Store.word_start` (1, n)."""
    for store in stores:
        for start in range(0, min(len(store.tokens), SAMPLE), _CHUNK):
            tokens = np.asarray(store.tokens[start : start + _CHUNK])
            starts = store.word_start
            yield tokens, None if starts is None else np.asarray(starts[start : start + len(tokens)])[None]


def _count(
    tokens: np.ndarray, starts: np.ndarray | None, flags: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The types of one chunk (n,): hashes (K,) uint64, ids (K, max_tokens) int32, counts (K,) int64.

    A word that the chunk's end cuts is left out, as is a longer word.

    Args:
      factors: (max_tokens + 1,) uint64, see `hash_words`.
    """
    begins, ordinary = split_words(flags.take(tokens)[None], starts)
    n, words = read_words(tokens[None], begins, np.flatnonzero(ordinary), len(factors) - 1)
    words = words[n > 0]
    hashes, first, counts = np.unique(
        hash_words(words, np.zeros(len(words)), factors), return_index=True, return_counts=True
    )
    return hashes, words[first], counts
