"""Words in rows of tokens: where they begin, and which of them are among a set of keys.

The pieces of the vocabulary cut text into *words*. A piece that begins a word starts one, punctuation is a word by
itself, and in scripts without spaces every piece is a word. With `Vocabulary.words`, a segmenter finds the words of
these scripts when a text is stored, and the store says which tokens begin words. A dictionary's word is cut in the same
way and may give several words in a row: "e-mail" gives three, a long Japanese word two. So a *key* is the tokens of one
or more whole words. If several keys begin at one place, the longest one counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.segmenter import is_unspaced

if TYPE_CHECKING:
    from xalign_jax.data.tokens.tokenizer import Tokenizer

Key = tuple[int, tuple[int, ...]]  # language, base ids

_BEGINS, _ENDS, _NO_WORD, _MAY_BEGIN = 1, 2, 4, 8
_STANDALONE = _BEGINS | _ENDS | _NO_WORD


def word_flags(tokenizer: Tokenizer) -> np.ndarray:
    """(base_size,) uint8 bits of the pieces.

    1 = begins a word, 2 = the next piece does, 4 = no word (specials, punctuation), 8 = a segmenter may find that it
    begins a word (only with `Vocabulary.words`).
    """
    flags = spaced_flags(tokenizer)
    # Pieces of scripts without spaces are words: bit 1 by their first character, bit 2 by their last.
    for bit, side in ((_BEGINS, 0), (_ENDS, -1)):
        flags |= np.array([bit * bool(text and is_unspaced(text[side])) for text in tokenizer.texts], np.uint8)
    if tokenizer.vocabulary.words:
        flags |= np.array([_MAY_BEGIN * bool(not text or is_unspaced(text)) for text in tokenizer.texts], np.uint8)
    return flags


def spaced_flags(tokenizer: Tokenizer) -> np.ndarray:
    """As `word_flags`, as far as spaces and punctuation tell."""
    return np.where(tokenizer.standalone, _STANDALONE, tokenizer.word_start.astype(np.uint8)).astype(np.uint8)


def marks_words(tokenizer: Tokenizer) -> bool:
    """True if any piece of text begins a word. Otherwise the borders between words cannot be known."""
    return bool((word_flags(tokenizer) & (_BEGINS | _NO_WORD) == _BEGINS).any())


def split_words(flags: np.ndarray, starts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Word borders of token rows.

    Args:
      flags: (B, L) uint8, `word_flags` of the tokens.
      starts: (B, L) bool, the tokens that begin words, if a segmenter has found them (`store.Store.word_start`).
    Returns:
      begins: (B, L) bool, a word or a standalone token begins here. After a standalone token, a word always begins.
      ordinary: (B, L) bool, an ordinary word begins here, which is not standalone.
    """
    # On bits, because this runs on all text: "the next piece begins one" of a token is moved to its successor.
    begins = flags & _BEGINS if starts is None else starts.view(np.uint8)
    if starts is None:
        begins[:, 1:] |= flags[:, :-1] >> 1 & 1
    return begins.view(bool), begins > (flags >> 2 & 1)


def read_words(
    base: np.ndarray, begins: np.ndarray, at: np.ndarray, width: int, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` words in a row that begin at some places of token rows.

    Args:
      base: (B, L) base ids.   begins: (B, L) bool from `split_words`.
      at: (C,) places row * L + column.   width: most tokens that are read.
    Returns:
      n (C,) int64 tokens of the words together, 0 where they are longer than `width` or go on past the row's end;
      ids (C, width) int32, padded with -1.
    """
    start, ahead = at[:, None], np.arange(1, width + 1)
    # (C, width): a word ends before the token that stands `ahead` places on.
    ends = begins.ravel().take(start + ahead, mode="clip") & (start % base.shape[1] + ahead < base.shape[1])
    if count > 1:  # the words end together where as many ends have come
        ends &= np.cumsum(ends, axis=1) == count
    n = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, 0)
    ids = base.ravel().take(start + ahead - 1, mode="clip").astype(np.int32)
    ids[ahead > n[:, None]] = -1
    return n, ids


def hash_words(words: np.ndarray, language: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(C,) uint64: a multilinear hash of words (C, n), padded with -1, and their languages (C,).

    Args:
      factors: (n + 1,) uint64 odd multipliers, the last one for the language.
    """
    with np.errstate(over="ignore"):
        return words.astype(np.uint64) @ factors[:-1] + language.astype(np.uint64) * factors[-1]


@dataclasses.dataclass(frozen=True)
class Keys:
    """K keys of some languages, sorted by a hash that is unique among them. Keys found by hash are compared exactly.

    Attributes:
      flags: (base_size,) uint8, see `word_flags`.
      most: (base_size,) int64, the number of words of the longest key that begins with each piece. It is 0 for
        punctuation, and if no key begins with the piece.
      factors: (n + 1,) uint64, see `hash_words`.
      hashes: (K,) uint64, sorted.
      keys: (K, n) int32 base ids, padded with -1.
      key_language: (K,) int32.
    """

    flags: np.ndarray
    most: np.ndarray
    factors: np.ndarray
    hashes: np.ndarray
    keys: np.ndarray
    key_language: np.ndarray

    def find(self, words: np.ndarray, language: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(C, n) int32 words padded with -1, (C,) languages -> key (C,) int64, which is valid where found (C,) bool."""
        key = np.searchsorted(self.hashes, hash_words(words, language, self.factors))
        np.minimum(key, len(self.hashes) - 1, out=key)
        found = (self.keys[key] == words).all(axis=1) & (self.key_language[key] == language)
        return key, found

    def read(
        self, base: np.ndarray, begins: np.ndarray, at: np.ndarray, language: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The keys that begin at some places of token rows.

        A place inside a key of several words that begins earlier has no key.

        Args:
          base: (B, L) base ids.   begins: (B, L) bool from `split_words`.
          at: (C,) sorted places row * L + column.   language: (B,) of the rows; -1 = a row without keys.
        Returns:
          at (F,) int64, the places that have a key; n (F,) int64, the tokens of the key; key (F,) int64.
        """
        # Keys of several words can begin at any word, not only at the places that are asked for: find them all first.
        if self.most.max() > 1:
            lead = np.flatnonzero((self.most.take(base) > 1) & begins)
            n, _ = self._longest(base, begins, lead, language)
            # A key covers its tokens except the first. (B * L + 1,) starts less ends -> running sum: keys over a token.
            first, past = (np.bincount(edge, minlength=base.size + 1) for edge in (lead + 1, lead + np.maximum(n, 1)))
            at = at[np.cumsum(first - past)[at] == 0]
        n, key = self._longest(base, begins, at, language)
        found = n > 0
        return at[found], n[found], key[found]

    def _longest(
        self, base: np.ndarray, begins: np.ndarray, at: np.ndarray, language: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(C,) places -> tokens (C,) int64 of the longest key at each, 0 = none, and the key's number (C,) int64."""
        length, key = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        most = self.most[base.ravel()[at]]
        # Try keys of 1, 2, .. words; a longer key that is found replaces a shorter one.
        for words in range(1, int(most.max(initial=0)) + 1):
            some = np.flatnonzero(most >= words)
            n, ids = read_words(base, begins, at[some], self.keys.shape[1], words)
            index, found = self.find(ids, language[at[some] // base.shape[1]])
            length[some[found]], key[some[found]] = n[found], index[found]
        return length, key


def make_keys(items: Sequence[Key], flags: np.ndarray) -> tuple[Keys, np.ndarray]:
    """The keys for some items (language, ids), and the number (K,) int64 of the item that each key was made of.

    Args:
      items: K of them, at least one, all different.
      flags: (base_size,) uint8, `word_flags` of the vocabulary.
    """
    width = max(len(ids) for _, ids in items)
    keys = np.full((len(items), width), -1, np.int32)
    for row, (_, ids) in enumerate(items):
        keys[row, : len(ids)] = ids
    language = np.array([language for language, _ in items], np.int32)
    # Draw multipliers until no two keys have the same hash.
    hashes = np.zeros(len(items), np.uint64)
    salt = 0
    while len(np.unique(hashes)) < len(items) or not salt:
        salt += 1
        factors = hash64("table", salt, np.arange(width + 1)) | np.uint64(1)
        hashes = hash_words(keys, language, factors)
    order = np.argsort(hashes)
    # (K,) words of each key, where the first piece always begins one; then the maximum for each first piece.
    # Where a segmenter finds words, this is the most that it can find in the key.
    of_keys = flags.take(np.maximum(keys, 0))
    begins, _ = split_words(of_keys)
    begins = begins | (of_keys & _MAY_BEGIN > 0)
    words = 1 + np.count_nonzero(begins[:, 1:] & (keys[:, 1:] >= 0), axis=1)
    most = np.zeros(len(flags), np.int64)
    np.maximum.at(most, keys[:, 0], np.where(flags[keys[:, 0]] & _NO_WORD, 0, words))
    return Keys(flags, most, factors, hashes[order], keys[order], language[order]), order
