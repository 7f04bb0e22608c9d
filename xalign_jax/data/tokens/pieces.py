"""`Pieces`: the small interface of all vocabularies without their clones, and what their kinds share."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

SPECIALS = ("pad", "eos", "unk", "bos", "mask")
SPACE = "▁"


class Pieces(Protocol):
    """A vocabulary of V base pieces.

    Attributes:
      specials: id or None for each of `SPECIALS`.
      control: (V,) bool, pieces that text never contains (the specials and other control pieces).
      word_start, standalone: (V,) bool, see `Tokenizer`.
      texts: the spelling of each piece, without its marker; "" for a part of a character.
      names: each piece as SentencePiece would write it, "▁" for a space and "<0x..>" for a part of a character, so that
        equal pieces of two vocabularies have equal names. A control piece has its vocabulary's own name.
      files: contents of the files that reproduce the vocabulary, by name.
      border: id of the piece `segmenter.BORDER`, which no other piece reaches over; None if the vocabulary lacks it.
      frame: the ids that the vocabulary's own files put before and after a text; None if they do not say.
    """

    size: int
    specials: dict[str, int | None]
    control: np.ndarray
    word_start: np.ndarray
    standalone: np.ndarray
    texts: list[str]
    names: list[str]
    files: dict[str, bytes]
    border: int | None
    frame: tuple[list[int], list[int]] | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Base ids of each text, without added specials."""

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`; a special's name in a text is encoded as ordinary text."""

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Base ids of each word as after a space."""

    def normal(self, text: str) -> str:
        """The text as it is when pieces are looked for. Only what the library itself does to it is left to do."""

    def places(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """`encode_documents` of texts that `normal` gave, and the byte of the text at which each piece begins.

        A piece that begins within a character has the character's first byte. Bytes never fall from piece to piece.
        """

    def decode(self, ids: list[int]) -> str:
        """The text of base ids."""


def fingerprint(pieces: Pieces) -> str:
    """A hash of everything that decides base ids."""
    digest = hashlib.sha256(type(pieces).__name__.encode())
    for name, content in sorted(pieces.files.items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def is_punctuation(text: str) -> bool:
    """True if the text has nothing but punctuation and symbols."""
    # Most pieces begin with a letter, which the first test finds at once.
    return not text[:1].isalnum() and bool(text) and all(unicodedata.category(one)[0] in "PS" for one in text)


def byte_name(byte: int) -> str:
    return f"<0x{byte:02X}>"


def some_id(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


class AsWritten:
    """Pieces of texts as they are written, without a piece for borders."""

    border: int | None = None
    frame: tuple[list[int], list[int]] | None = None

    def normal(self, text: str) -> str:
        """The text."""
        return text
