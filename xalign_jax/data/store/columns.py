"""The columns of a store: how each array is made of a document and its ids."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from xalign_jax.data.text.files import Document, keyed_hash, normal_text
from xalign_jax.data.text.readers import Example
from xalign_jax.data.tokens.vocabulary import Encoded, Tokenizer


class Tokenised(NamedTuple):
    """A document with its ids.

    Attributes:
      ids: (n,) int32, ends with eos.
      normal: the text without differences in case and white space.
      starts: (n,) bool, the tokens that begin words or are standalone; None without `Vocabulary.words`.
      borders: borders between words in scripts without spaces, and how many of them lie between two tokens.
    """

    document: Document
    ids: np.ndarray
    normal: str
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


def _text_hash(found: Tokenised) -> int:
    return zlib.crc32(found.normal.encode())


def _utf8_bytes(found: Tokenised) -> int:
    return len(found.document.text.encode())


def _word_start(found: Tokenised) -> np.ndarray | None:
    return found.starts


def _borders(found: Tokenised) -> int:
    return found.borders[0]


def _borders_found(found: Tokenised) -> int:
    return found.borders[1]


def _length(found: Tokenised) -> int:
    return len(found.ids)


def _words(found: Tokenised) -> int:
    return len(found.document.text.split())


def _key(found: Tokenised) -> int:
    return keyed_hash(found.normal)


def _group_key(found: Tokenised) -> int:
    group = found.document.group
    return max(1, keyed_hash(group)) if group else 0


# Every store has these columns, `offsets` (which are made of the lengths) and `group` (which is made of the keys of
# groups). The dtype of tokens is uint16 if all ids of the vocabulary fit into it.
COLUMNS = (
    Column("tokens", np.int32, "token", _ids),
    Column("text_hash", np.uint32, "document", _text_hash),
    Column("utf8_bytes", np.int32, "document", _utf8_bytes),
)
# These are needed until a store is made.
_PASSING = (
    Column("length", np.int32, "document", _length),
    Column("words", np.int32, "document", _words),
    Column("key", np.uint64, "document", _key),  # of the text: training leaves out texts that validation has
    Column("group_key", np.uint64, "document", _group_key),  # 0 = no group
)
# With `Vocabulary.words`: one column that stays, and two that are only counted (`store.BORDERS`).
_WORD_START = Column("word_start", np.bool_, "token", _word_start)
_BORDERS = (
    Column("borders", np.int32, "document", _borders),
    Column("borders_found", np.int32, "document", _borders_found),
)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Makes the columns of examples. It is sent to worker processes.

    Attributes:
      fields: the columns that a task declares beyond `COLUMNS`.
    """

    tokenizer: Tokenizer
    fields: tuple[Column, ...] = ()

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns of the store, with their dtypes."""
        ids = np.uint16 if self.tokenizer.base_size <= 65536 else np.int32
        return (COLUMNS[0]._replace(dtype=ids), *COLUMNS[1:], *self.own)

    @property
    def own(self) -> tuple[Column, ...]:
        """The columns of the store that not every store has."""
        return (*((_WORD_START,) if self.tokenizer.vocabulary.words else ()), *self.fields)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns."""
        return (*self.stored, *_PASSING, *self.counted)

    @property
    def counted(self) -> tuple[Column, ...]:
        """Columns whose sums are kept, beside those of every store."""
        return _BORDERS if self.tokenizer.vocabulary.words else ()

    def encode(self, examples: Sequence[Example]) -> Arrays:
        """The columns of n examples, by name: (n,), or (tokens of all examples,)."""
        found = self._tokenise(examples)
        arrays = {}
        for column in self.columns:
            values = [column.make(one) for one in found]
            if column.per == "token":
                arrays[column.name] = np.concatenate(values or [[]]).astype(column.dtype)
            else:
                arrays[column.name] = np.array(values, column.dtype)
        return arrays

    def _tokenise(self, examples: Sequence[Example]) -> list[Tokenised]:
        # Encode the texts in one call; examples that come tokenised keep their ids.
        texts = [example.document.text for example in examples if example.ids is None]
        encoded = iter(self.tokenizer.encode_texts(texts))
        rows = [next(encoded) if ids is None else Encoded(ids) for _, ids in examples]
        return [self._ended(document, row) for (document, _), row in zip(examples, rows, strict=True)]

    def _ended(self, document: Document, row: Encoded) -> Tokenised:
        """The document with eos at its end, which is a word by itself."""
        ids, starts = row.ids, row.starts
        if not len(ids) or ids[-1] != self.tokenizer.eos:
            ids = np.concatenate([ids, np.array([self.tokenizer.eos], np.int32)])
            starts = None if starts is None else np.append(starts, True)
        return Tokenised(document, ids, normal_text(document.text), starts, row.borders)
