"""The columns of a store: how each array is made of a document and its ids."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from xalign_jax.data.text.fields import RANGES, Span
from xalign_jax.data.text.files import Document, keyed_hash, normal_text
from xalign_jax.data.text.readers import Example
from xalign_jax.data.tokens.tokenizer import Encoded, Tokenizer


class Tokenised(NamedTuple):
    """A document with its ids.

    Attributes:
      ids: (n,) int32, ends with eos.
      normal: the text without differences in case and white space.
      starts: (n,) bool, the tokens that begin words or are standalone; None without `Vocabulary.words`.
      borders: borders between words in scripts without spaces, and how many of them lie between two tokens.
      spans, roles: the ranges of the document as ranges of tokens, (first, past the last, name).
    """

    document: Document
    ids: np.ndarray
    normal: str
    starts: np.ndarray | None = None
    borders: tuple[int, int] = (0, 0)
    spans: tuple[Span, ...] = ()
    roles: tuple[Span, ...] = ()


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


def _value(found: Tokenised, field: str, numbers: Mapping[str, int]) -> int:
    return numbers.get(getattr(found.document, field), -1)


def _tags(found: Tokenised, field: str, numbers: Mapping[str, int]) -> np.ndarray:
    """(n,) uint16: 0 outside, 2 k + 1 at the first token of a range with name k, 2 k + 2 at its other tokens."""
    tags = np.zeros(len(found.ids), np.uint16)
    for first, past, name in getattr(found, field):
        tags[first:past] = 2 * numbers[name] + 2
        tags[first] -= 1
    return tags


def field_columns(tables: Mapping[str, Sequence[str]]) -> tuple[Column, ...]:
    """The columns of a task's fields: a number for a label or provenance (-1 = none), a tag of each token for ranges.

    Args:
      tables: the names of each field that the task declares, by number.
    """
    columns = []
    for field, known in tables.items():
        numbers = {name: number for number, name in enumerate(known)}
        if field in RANGES:
            columns.append(Column(field, np.uint16, "token", functools.partial(_tags, field=field, numbers=numbers)))
        else:
            columns.append(Column(field, np.int32, "document", functools.partial(_value, field=field, numbers=numbers)))
    return tuple(columns)


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
        places = any(column.name in RANGES for column in self.fields)
        encoded = iter(self.tokenizer.encode_texts(texts, places))
        rows = [next(encoded) if ids is None else Encoded(ids) for _, ids in examples]
        return [self._ended(document, row) for (document, _), row in zip(examples, rows, strict=True)]

    def _ended(self, document: Document, row: Encoded) -> Tokenised:
        """The document with eos at its end, which is a word by itself."""
        ids, starts = row.ids, row.starts
        if not len(ids) or ids[-1] != self.tokenizer.eos:
            ids = np.concatenate([ids, np.array([self.tokenizer.eos], np.int32)])
            starts = None if starts is None else np.append(starts, True)
        spans, roles = (self._of_tokens(document.text, one, row.places) for one in (document.spans, document.roles))
        return Tokenised(document, ids, normal_text(document.text), starts, row.borders, spans, roles)

    def _of_tokens(self, text: str, found: Sequence[Span], places: np.ndarray | None) -> tuple[Span, ...]:
        """Ranges of characters as ranges of tokens. A token that two of them share belongs to the first of them.

        Args:
          places: (n,) int64, the byte at which each token begins; None for texts without ranges.
        """
        if places is None or not found:
            return ()
        tokens, end = [], 0
        for one in found:
            # Bytes before the first and the last character -> the token that holds the first, the first token past it.
            start, past = (len(self.tokenizer.normal(text[:at]).encode()) for at in one[:2])
            first = np.searchsorted(places, places[np.searchsorted(places, start, side="right") - 1])
            first = max(int(first), end)
            end = max(end, int(np.searchsorted(places, past)))
            if first < end:
                tokens.append(Span(first, end, one.name))
        return tuple(tokens)
