"""Word types and tokens of a corpus and how often they occur, counted on the stored tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.words import Keys, hash_words, read_words, split_words, word_flags

if TYPE_CHECKING:
    from xalign_jax.data.store.store import Store
    from xalign_jax.data.tokens.vocabulary import Tokenizer

SAMPLE = 20_000_000  # tokens counted of each store: documents are shuffled, so its beginning is a sample
_CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True)
class WordTypes:
    """Types, most frequent first: ids (K, max_tokens) int32 base ids padded with -1; counts (K,) int64."""

    ids: np.ndarray
    counts: np.ndarray

    def tuples(self) -> list[tuple[int, ...]]:
        """The types as plain tuples, in the same order."""
        return [tuple(row[:n]) for row, n in zip(self.ids.tolist(), (self.ids >= 0).sum(1).tolist(), strict=True)]


def count_types(stores: Iterable[Store], tokenizer: Tokenizer, max_tokens: int) -> WordTypes:
    """Counts the ordinary words (not specials, not punctuation) of up to `max_tokens` tokens."""
    flags = word_flags(tokenizer)
    factors = hash64("types", np.arange(max_tokens + 1)) | np.uint64(1)
    parts = [_count(tokens, flags, factors) for tokens in _chunks(stores)]
    if not parts:
        return WordTypes(np.zeros((0, max_tokens), np.int32), np.zeros(0, np.int64))
    hashes, words, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    words, counts = words[first], np.bincount(inverse, weights=counts).astype(np.int64)
    order = np.lexsort((*words.T[::-1], -counts))
    return WordTypes(words[order], counts[order])


def count_keys(stores: Iterable[Store], keys: Keys, max_tokens: int) -> tuple[np.ndarray, int]:
    """How often each key stands in the texts (K,) int64, and their ordinary words of up to `max_tokens` tokens.

    Args:
      keys: of one language, number 0.
    """
    counts, total = np.zeros(len(keys.hashes), np.int64), 0
    for tokens in _chunks(stores):
        base = tokens[None]
        begins, ordinary = split_words(keys.flags.take(base))
        _, _, key = keys.read(base, begins, np.flatnonzero(ordinary), np.zeros(1, np.int64))
        counts += np.bincount(key, minlength=len(counts))
        first = np.flatnonzero(begins)
        total += int(np.count_nonzero((np.diff(first) <= max_tokens) & ordinary[0, first[:-1]]))
    return counts, total


def token_shares(stores: Iterable[Store], tokenizer: Tokenizer) -> np.ndarray:
    """(base_size,) float64 share of each base token among the running tokens; zeros without text."""
    counts = np.zeros(tokenizer.base_size, np.int64)
    for store in stores:
        counts += np.bincount(np.asarray(store.tokens[:SAMPLE]), minlength=len(counts))
    return counts / max(int(counts.sum()), 1)


def _chunks(stores: Iterable[Store]) -> Iterator[np.ndarray]:
    """The tokens that are counted, (n,) with n of at most `_CHUNK` at a time."""
    for store in stores:
        for start in range(0, min(len(store.tokens), SAMPLE), _CHUNK):
            yield np.asarray(store.tokens[start : start + _CHUNK])


def _count(tokens: np.ndarray, flags: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, words and counts of one chunk's types; a word that the chunk's end cuts is left out."""
    begins, ordinary = split_words(flags.take(tokens)[None])
    n, words = read_words(tokens[None], begins, np.flatnonzero(ordinary), len(factors) - 1)
    words = words[n > 0]
    hashes, first, counts = np.unique(
        hash_words(words, np.zeros(len(words)), factors), return_index=True, return_counts=True
    )
    return hashes, words[first], counts
