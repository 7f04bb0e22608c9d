"""The columns of a store: how each array is made of a document and its ids."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from xalign_jax.data.text.files import Document, normal_text


class Tokenised(NamedTuple):
    """A document with its ids.

    Attributes:
      ids: (n,) int32, ends with eos.
      group: the number of the document's group within the task; -1 = no group.
      starts: (n,) bool, the tokens that begin words or are standalone; None without `Vocabulary.words`.
      borders: borders between words in scripts without spaces, and how many of them lie between two tokens.
    """

    document: Document
    ids: np.ndarray
    group: int
    starts: np.ndarray | None = None
    borders: tuple[int, int] = (0, 0)


class Column(NamedTuple):
    """A named array of a store.

    Attributes:
      dtype: a numpy dtype.
      per: "document": the array is (D,), and `make` gives one value. "token": the array is (N,) and goes along with
        the tokens, and `make` gives (n,) values for a document of n ids.
      make: a function of a module, because worker processes call it too.
    """

    name: str
    dtype: Any
    per: Literal["document", "token"]
    make: Callable[[Tokenised], Any]


def _ids(found: Tokenised) -> np.ndarray:
    return found.ids


def _group(found: Tokenised) -> int:
    return found.group


def _text_hash(found: Tokenised) -> int:
    return zlib.crc32(normal_text(found.document.text).encode())


def _utf8_bytes(found: Tokenised) -> int:
    return len(found.document.text.encode())


def _word_start(found: Tokenised) -> np.ndarray | None:
    return found.starts


# What every store has, beside `offsets`. The dtype of tokens is uint16 if all ids of the vocabulary fit into it.
COLUMNS = (
    Column("tokens", np.int32, "token", _ids),
    Column("group", np.int32, "document", _group),
    Column("text_hash", np.uint32, "document", _text_hash),
    Column("utf8_bytes", np.int32, "document", _utf8_bytes),
)
_WORDS = Column("word_start", np.bool_, "token", _word_start)


def columns(words: bool) -> tuple[Column, ...]:
    """The columns of a store.

    Args:
      words: the vocabulary finds words in scripts without spaces.
    """
    return (*COLUMNS, _WORDS) if words else COLUMNS
