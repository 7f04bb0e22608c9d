"""Texts as a model reads them: ids with bos and eos, and the place of each token in its text.

Shapes: T tokens of a text, with those of the frame: the ids that stand before and after every text, such as bos and eos.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.tokens.prompts import prompt
from xalign_jax.data.tokens.tokenizer import Encoded, Frame, Tokenizer
from xalign_jax.data.tokens.words import split_words, word_flags
from xalign_jax.errors import UserError
from xalign_jax.interfaces import ProbedRun


class ReadText(NamedTuple):
    """A text of T tokens.

    Attributes:
      text: as it is when pieces are looked for; some vocabularies compose or lower it (`Tokenizer.normal`).
      ids: (T,) int32, with the frame.
      own: (T,) bool, False for tokens of the frame.
      spans: (T,2) int32, begin and end of each token in `text`, in characters, without spaces around it; (0,0) for the
        frame. Tokens that are parts of one character have its span.
      words: (T,) int32, the number of the word that each token belongs to, -1 for the frame. The vocabulary says where
        words begin (`data.tokens.words`): punctuation is a word by itself.
    """

    text: str
    ids: np.ndarray
    own: np.ndarray
    spans: np.ndarray
    words: np.ndarray

    @property
    def pieces(self) -> list[str]:
        """The spelling of each token in the text; "" for the frame."""
        return [self.text[begin:end] for begin, end in self.spans]

    def between_spaces(self) -> np.ndarray:
        """(T,) int32: the number of the word between spaces that each token belongs to, -1 for the frame.

        These are the words of files whose text was split into words before.
        """
        # (characters + 1,): how many words have begun up to each character.
        space = np.array([True, *(character.isspace() for character in self.text)])
        begun = np.cumsum(np.append(space[:-1] & ~space[1:], False))
        # A token of spaces alone goes to the word after it. At the end of a text there is none: the last word.
        last = max(int(begun[-1]) - 1, 0)
        return np.where(self.own, np.minimum(begun[self.spans[:, 0]] - 1, last).clip(0), -1).astype(np.int32)


class TextReader:
    """Turns texts into rows of ids for one model.

    Args:
      frame: ids before and after each text.
      max_length: most tokens of a row, with the frame.
    """

    def __init__(self, tokenizer: Tokenizer, frame: Frame, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.frame = frame
        self.max_length = max_length

    @property
    def around(self) -> tuple[int, int]:
        """How many ids stand before and after each text."""
        before, after = self.frame
        return len(before), len(after)

    @functools.cached_property
    def _flags(self) -> np.ndarray:
        return word_flags(self.tokenizer)

    def ids(self, texts: Sequence[str], cut: bool = True) -> list[np.ndarray]:
        """(T,) int32 ids of each text, with the frame. Names of special tokens in a text are ordinary text.

        Texts that are too long lose their ends, and one line tells how many did.

        Raises:
          UserError: not a list of texts, an empty text, or a text that is too long if `cut` is False.
        """
        check_texts(texts)
        return self._framed(self.tokenizer.encode_documents(list(texts)), cut)

    def read(self, texts: Sequence[str]) -> list[ReadText]:
        """As `ids`, with the place of each token."""
        check_texts(texts)
        encoded = self.tokenizer.encode_texts(list(texts), places=True)
        rows = self._framed([one.ids for one in encoded], cut=True)
        return [self._read(*each) for each in zip(texts, encoded, rows, strict=True)]

    def _framed(self, bodies: Sequence[np.ndarray], cut: bool) -> list[np.ndarray]:
        """The ids with the frame around them, at most `max_length` together."""
        before, after = (np.array(ids, np.int32) for ids in self.frame)
        room = self.max_length - len(before) - len(after)
        for number, body in enumerate(bodies):
            if not len(body):
                raise UserError(f"text {number} (counted from 0) has no token: it is empty; leave it out")
        long = [number for number, body in enumerate(bodies) if len(body) > room]
        if long and not cut:
            raise UserError(
                f"text {long[0]} (counted from 0) has {len(bodies[long[0]])} tokens, but the model reads {room}: a part of "
                "its probability would be missing; cut it into several texts"
            )
        if long:
            print(
                f"{len(long)} of {len(bodies)} texts are longer than the {room} tokens that the model reads; cut, "
                f"the first is text {long[0]} (counted from 0)",
                file=sys.stderr,
            )
        return [np.concatenate([before, body[:room], after]) for body in bodies]

    def _read(self, text: str, encoded: Encoded, row: np.ndarray) -> ReadText:
        text = self.tokenizer.normal(text)
        first, last = len(self.frame[0]), len(row) - len(self.frame[1])
        own = np.zeros(len(row), bool)
        own[first:last] = True
        # Words over the whole text, then as many tokens as the row has.
        starts = None if encoded.starts is None else encoded.starts[None]
        begins = split_words(self._flags[encoded.ids][None], starts)[0][0].copy()
        begins[:1] = True
        words = np.full(len(row), -1, np.int32)
        words[own] = np.cumsum(begins)[: last - first] - 1
        spans = np.zeros((len(row), 2), np.int32)
        places = np.zeros(0, np.int64) if encoded.places is None else encoded.places
        spans[own] = _spans(text, places)[: last - first]
        return ReadText(text, row, own, spans, words)


def prompted(reader: TextReader, owner: str, prefix: str, suffix: str) -> TextReader:
    """A reader that puts the words of a prompt between the frame and the text (`data.tokens.prompts`).

    Raises:
      UserError: as `prompt`, or no room is left for a text.
    """
    before, after = prompt(reader.tokenizer, owner, prefix, suffix)
    frame = [*reader.frame[0], *before], [*after, *reader.frame[1]]
    found = TextReader(reader.tokenizer, frame, reader.max_length)
    if (around := sum(found.around)) >= reader.max_length:
        raise UserError(
            f"{owner}: prefix, suffix and specials have {around} tokens, which leave no room for a text in "
            f"{reader.max_length}; shorten them"
        )
    return found


def probe_reader(run: ProbedRun, length: int) -> TextReader:
    """How a probe's model reads texts, with at most `length` tokens."""
    tokenizer = run.corpus.tokenizer
    return TextReader(tokenizer, run.frame or tokenizer.framing(run.model.causal), length)


def check_texts(texts: Sequence[str]) -> None:
    """Refuse anything but a list of strings: a single string would be read letter by letter."""
    if isinstance(texts, str):
        raise UserError("texts: a list of texts is expected, not one text; write [text]")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{number}] is a {type(text).__name__}, not a text")


def _spans(text: str, places: np.ndarray) -> np.ndarray:
    """(n,2) int32 characters of each token, from the byte (n,) at which it begins. Spaces around a token are left out."""
    if not len(places):
        return np.zeros((0, 2), np.int32)
    # (characters + 1,): the byte at which each character begins, and the end.
    byte = np.cumsum([0, *(len(character.encode()) for character in text)])
    begins = np.searchsorted(byte, places)
    # A token ends where the next one begins that does not begin at the same place.
    ends = np.append(begins[1:], len(text))
    for i, j in reversed(list(itertools.pairwise(range(len(begins))))):
        if begins[i] == begins[j]:
            ends[i] = ends[j]
    # A piece may hold the space before its word, or the space after a text's last word.
    own = [text[begin:end] for begin, end in zip(begins, ends, strict=True)]
    left = np.array([len(part) - len(part.lstrip()) for part in own])
    right = np.array([len(part) - len(part.rstrip()) for part in own])
    blank = left + right > ends - begins  # spaces alone: the token stands at its end
    begins, ends = np.where(blank, ends, begins + left), np.where(blank, ends, ends - right)
    return np.stack([begins, ends], axis=1).astype(np.int32)
