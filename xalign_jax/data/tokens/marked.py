"""Sentences as the tokens of their words, and rows in which one word of a sentence is marked.

A marked row is "bos x1 .. <marker> xi <marker> .. xm eos y1 .. yn eos": a sentence with word i between two markers, and
its translation (Nagata et al. 2020, arXiv 2004.14516; Latouche et al. 2024, arXiv 2407.12881). No bos or eos stands where
the vocabulary has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError

_KNOWN_WORDS = 2**20  # words whose tokens are remembered


class WordTokens(NamedTuple):
    """The tokens of a sentence and the word of each, (n,) int32 each."""

    tokens: np.ndarray
    words: np.ndarray


Both = tuple[WordTokens, WordTokens]  # of a sentence pair


class WordEncoder:
    """Encodes each word by itself, and remembers its tokens.

    Args:
      spaced: words of scripts without spaces are encoded as after a space, as in texts whose words are apart.
    """

    def __init__(self, tokenizer: Tokenizer, spaced: bool = True) -> None:
        self._tokenizer, self._spaced = tokenizer, spaced
        self._known: dict[str, np.ndarray] = {}

    def encode(self, pairs: Sequence[Pair]) -> list[Both]:
        """The tokens of the source and of the target of each pair."""
        wanted = dict.fromkeys(word for pair in pairs for word in pair.source + pair.target)
        new = [word for word in wanted if word not in self._known]
        if len(self._known) + len(new) > _KNOWN_WORDS:
            self._known.clear()
            new = list(wanted)
        self._known.update(zip(new, self._tokenizer.encode_words(new, self._spaced), strict=True))
        return [(self._tokens(pair.source), self._tokens(pair.target)) for pair in pairs]

    def _tokens(self, words: Sequence[str]) -> WordTokens:
        ids = [self._known[word] for word in words]
        tokens = np.concatenate([np.zeros(0, np.int32), *ids])
        return WordTokens(tokens, np.repeat(np.arange(len(ids), dtype=np.int32), [len(i) for i in ids]))


class MarkedRow(NamedTuple):
    """A row of n tokens.

    Attributes:
      tokens: (n,) int32.
      words: (n,) int32, the word of the translation that each token belongs to; -1 at all other tokens.
    """

    tokens: np.ndarray
    words: np.ndarray


class Marking:
    """Makes marked rows.

    Args:
      marker: the text that stands before and after the marked word.
      binding: what the user calls the marker.

    Raises:
      UserError: the vocabulary cannot write the marker.
    """

    def __init__(self, tokenizer: Tokenizer, marker: str, binding: str) -> None:
        self._marker = tokenizer.encode_words([marker])[0] if marker else np.zeros(0, np.int32)
        if not len(self._marker) or tokenizer.unk in self._marker:
            raise UserError(f"{binding} = {marker!r}: the vocabulary has no token for it; choose another sign")
        specials = (tokenizer.bos, tokenizer.eos)
        self._bos, self._eos = ([] if special is None else [special] for special in specials)
        # The tokens of a row beside those of the two sentences.
        self.frame = len(self._bos) + 2 * len(self._eos) + 2 * len(self._marker)

    def row(self, both: Both, side: int, word: int) -> MarkedRow:
        """A sentence pair as the sentence of one side (0 = source) with one word marked, and the other sentence."""
        sentence, translation = both[side], both[1 - side]
        start, end = np.searchsorted(sentence.words, (word, word + 1))
        before, marked, after = np.split(sentence.tokens, (start, end))
        parts = (self._bos, before, self._marker, marked, self._marker, after, self._eos)
        first = np.concatenate(parts).astype(np.int32)
        words = np.full(len(first) + len(translation.words) + len(self._eos), -1, np.int32)
        words[len(first) : len(first) + len(translation.words)] = translation.words
        return MarkedRow(np.concatenate([first, translation.tokens, self._eos]).astype(np.int32), words)


def words_to_mark(pairs: Sequence[Both]) -> np.ndarray:
    """(E,3) int64, (pair, side, word): every word of both sentences of each pair that has tokens on both sides."""
    found = [
        (number, side, word)
        for number, both in enumerate(pairs)
        if all(len(one.tokens) for one in both)
        for side in (0, 1)
        for word in np.unique(both[side].words).tolist()
    ]
    return np.array(found, np.int64).reshape(-1, 3)
