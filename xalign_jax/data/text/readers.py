"""Readers of documents by split, from which stores are made. Tasks that only seqio knows are read in `tasks`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from xalign_jax.data.text.catalogs import Catalogs
from xalign_jax.data.text.docstrings import Documentation
from xalign_jax.data.text.fields import FIELDS
from xalign_jax.data.text.files import VALIDATION_SHARE, Document, Source
from xalign_jax.data.text.home_assistant import InterfaceStrings
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.split import Apply, Split
from xalign_jax.data.tokens.tokenizer import Tokenizer

# By task name.
EMBEDDED: dict[str, Source] = {
    "docs_en": Documentation(),
    "catalogs": Catalogs(),
    "home_assistant": InterfaceStrings(),
}


class Example(NamedTuple):
    """A document. `ids` is (n,) int32 for tasks that come tokenised, otherwise None."""

    document: Document
    ids: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class SourceReader:
    """The documents of a source, divided by `files.Split`."""

    source: Source

    def fingerprint(self) -> str:
        """A hash of the source's content."""
        return hashlib.sha256(self.source.fingerprint().encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        """See `files.Source.stamps`."""
        return self.source.stamps()

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Does nothing: text can be tokenised with any vocabulary."""

    def read(self, split: str) -> Iterator[Example]:
        """Examples of "train" or "validation", in a fixed order; the same text is never in both."""
        return map(Example, self._split.select(self.source.documents(), split))

    def divide(self, apply: Apply) -> None:
        """Divide the documents, if that has not been done; `apply` hashes them."""
        if "_split" not in vars(self):
            vars(self)["_split"] = Split(self.source.documents, self.share, apply)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of documents that the source declares, a part of `fields.FIELDS`."""
        declared = {name.partition(".")[0] for name, _ in getattr(self.source, "fields", ())}
        return tuple(field for field in FIELDS if field in declared)

    @property
    def share(self) -> float:
        """The share of the documents that is meant for validation."""
        return getattr(self.source, "validation_share", VALIDATION_SHARE)

    @functools.cached_property
    def _split(self) -> Split:
        return Split(self.source.documents, self.share)


def source_reader(task: str) -> SourceReader | None:
    """The reader of a task that is embedded or spelled as files; None for a task that only seqio knows."""
    spelled = parse_name(task)
    source = spelled[1] if spelled else EMBEDDED.get(task)
    return SourceReader(source) if source else None


def fields_of(task: str) -> tuple[str, ...] | None:
    """The fields that a task's documents declare; None for a task that only seqio knows."""
    reader = source_reader(task)
    return None if reader is None else reader.fields


def languages_of(tasks: Iterable[str]) -> frozenset[str] | None:
    """The languages of the tasks' documents; None if only reading tells."""
    readers = [source_reader(task) for task in tasks]
    found = [None if reader is None else reader.source.languages for reader in readers]
    return frozenset().union(*(languages or () for languages in found)) if None not in found else None
