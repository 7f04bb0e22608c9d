"""The columns of a store: how each array is made of a document and its ids."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from xalign_jax.data.text.files import Document, keyed_hash, normal_text
from xalign_jax.data.text.readers import Example
from xalign_jax.data.tokens.vocabulary import Tokenizer


class Tokenised(NamedTuple):
    """A document with its ids.

    Attributes:
      ids: (n,) int32, ends with eos.
      normal: the text without differences in case and white space.
    """

    document: Document
    ids: np.ndarray
    normal: str


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


def _length(found: Tokenised) -> int:
    return len(found.ids)


def _words(found: Tokenised) -> int:
    return found.normal.count(" ") + 1 if found.normal else 0


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
        return (COLUMNS[0]._replace(dtype=ids), *COLUMNS[1:], *self.fields)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns."""
        return (*self.stored, *_PASSING)

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
        encoded = iter(self.tokenizer.encode_documents(texts))
        eos = np.array([self.tokenizer.eos], np.int32)
        found = []
        for document, ids in examples:
            row = next(encoded) if ids is None else ids
            row = row if len(row) and row[-1] == self.tokenizer.eos else np.concatenate([row, eos])
            found.append(Tokenised(document, row, normal_text(document.text)))
        return found
