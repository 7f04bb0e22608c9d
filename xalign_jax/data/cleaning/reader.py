"""A reader whose documents are cleaned, and the report about what it drops."""

from __future__ import annotations

import array
import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from xalign_jax.data.cleaning import identify, lengths, minhash
from xalign_jax.data.cleaning.comparable import comparable
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.text.files import Document, keyed_hash
from xalign_jax.data.text.readers import Example
from xalign_jax.data.text.split import Apply
from xalign_jax.data.tokens.tokenizer import Tokenizer

VERSION = 1  # of the rules; increase it when they begin to drop other texts, so that cleaned stores are made again
SPLITS = ("validation", "train")  # of duplicates, the one in validation stays
REASONS = ("short", "long", "language", "ratio", "exact", "near", "group")
EXAMPLES = 10  # of each reason
_SHOWN = 200  # characters of an example
_BATCH = 1024
_KEPT = 0  # codes of decisions: 0, or the number of the reason in REASONS from 1


class CleanReader:
    """Reads what another reader reads, without the texts that are dropped. Documents have numbers over both splits.

    A first pass over all documents decides. It keeps less than 200 bytes of each, and no text. Every document must come
    in the same order in each pass.

    Args:
      reader: as `text.readers.SourceReader`.
    """

    def __init__(self, reader: Any, cleaning: Cleaning) -> None:
        self._reader, self._cleaning = reader, cleaning
        self._examples: dict[int, str] = {}  # texts of examples, by number, as they are read

    def fingerprint(self) -> str:
        """A hash of the content and of the rules."""
        rules = json.dumps([VERSION, dataclasses.asdict(self._cleaning)])
        return hashlib.sha256(f"{self._reader.fingerprint()} {rules}".encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        """See `files.Source.stamps`."""
        return self._reader.stamps()

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """As the other reader does."""
        self._reader.check_vocabulary(tokenizer)

    def divide(self, apply: Apply) -> None:
        """As the other reader does."""
        self._reader.divide(apply)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of documents that the other reader declares."""
        return self._reader.fields

    @property
    def share(self) -> float | None:
        """The share of the documents that is meant for validation, before any is dropped."""
        return self._reader.share

    def read(self, split: str) -> Iterator[Example]:
        """Examples of a split that are kept, in a fixed order."""
        first, shown = self._decided.first[split], self._decided.shown
        for number, example in enumerate(self._reader.read(split), first):
            if number in shown:
                self._examples[number] = example.document.text
            if self._decided.reasons[number] == _KEPT:
                yield example

    @functools.cached_property
    def _decided(self) -> _Decisions:
        table = _Table(self._cleaning)
        first = {}
        for split in SPLITS:
            first[split] = len(table.length)
            examples = self._reader.read(split)
            while batch := [example.document for example in itertools.islice(examples, _BATCH)]:
                table.add(batch)
        return _decide(table, self._cleaning, first)

    def report(self) -> dict[str, Any]:
        """The contents of `cleaning.json`, once both splits have been read: settings, counts and examples."""
        found = self._decided
        examples: dict[str, list[dict[str, str]]] = {reason: [] for reason in REASONS}
        for number, kept in found.shown.items():
            if found.reasons[number] == _KEPT:
                continue
            entry = {"language": found.languages[found.language[number]], "text": self._examples[number][:_SHOWN]}
            entry |= {"duplicate of": self._examples[kept][:_SHOWN]} if kept is not None else {}
            examples[REASONS[found.reasons[number] - 1]].append(entry)
        return {
            "settings": dataclasses.asdict(self._cleaning),
            "documents": {split: found.counts(split) for split in SPLITS},
            "examples": {reason: entries for reason, entries in examples.items() if entries},
        }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A line for each language of which a text is dropped, over both splits."""
    total: dict[str, Counter[str]] = {}
    for languages in report["documents"].values():
        for language, counts in languages.items():
            total.setdefault(language, Counter()).update(counts)
    for language, counts in sorted(total.items()):
        reasons = ", ".join(f"{counts[reason]:,} {reason}" for reason in REASONS if counts[reason])
        if reasons:
            dropped = counts["read"] - counts["kept"]
            yield f"{language}: {dropped:,} of {counts['read']:,} texts dropped ({reasons})"


class _Table:
    """What decisions are made of: a few numbers of each document, in the order in which documents are read."""

    def __init__(self, cleaning: Cleaning) -> None:
        self._cleaning = cleaning
        self.languages: dict[str, int] = {}
        # Columns: number of the language, hash of the group (0 = none), characters and hash of the comparable text.
        self.language, self.length = array.array("i"), array.array("q")
        self.group, self.key = array.array("Q"), array.array("Q")
        self.other_language = array.array("b")
        self._signatures: list[np.ndarray] = []

    def add(self, documents: list[Document]) -> None:
        """Add documents."""
        texts = [comparable(document.text) for document in documents]
        for document, text in zip(documents, texts, strict=True):
            self.language.append(self.languages.setdefault(document.language, len(self.languages)))
            self.length.append(len(text))
            self.group.append(keyed_hash(document.group) if document.group else 0)
            self.key.append(keyed_hash(f"{document.language}\0{text}"))
            if self._cleaning.language is not None:
                other = identify.is_other(document.text, document.language, self._cleaning.language)
                self.other_language.append(other)
        if self._cleaning.near is not None:
            self._signatures.append(minhash.signatures(texts))

    @property
    def signatures(self) -> np.ndarray:
        """(D, PERMUTATIONS) uint8."""
        self._signatures = [np.concatenate(self._signatures or [np.empty((0, minhash.PERMUTATIONS), np.uint8)])]
        return self._signatures[0]


@dataclasses.dataclass(frozen=True)
class _Decisions:
    """What is dropped.

    Attributes:
      reasons: (D,) uint8, 0 for documents that are kept.
      language: (D,) numbers of `languages`.
      first: number of the first document of each split.
      shown: the examples, and the documents of which they are duplicates: number -> the number of the kept duplicate.
    """

    reasons: np.ndarray
    language: np.ndarray
    languages: tuple[str, ...]
    first: dict[str, int]
    shown: dict[int, int | None]

    def counts(self, split: str) -> dict[str, dict[str, int]]:
        """Documents of each language of a split: read, kept, and dropped for each reason."""
        end = self.first["train"] if split == "validation" else len(self.reasons)
        reasons, language = self.reasons[self.first[split] : end], self.language[self.first[split] : end]
        found = {}
        for number, name in enumerate(self.languages):
            times = np.bincount(reasons[language == number], minlength=len(REASONS) + 1).tolist()
            if any(times):
                named = dict(zip(("kept", *REASONS), times, strict=True))
                found[name] = {"read": sum(times)} | {key: n for key, n in named.items() if n or key == "kept"}
        return dict(sorted(found.items()))


def _decide(table: _Table, cleaning: Cleaning, first: dict[str, int]) -> _Decisions:
    """Why each document is dropped: filters of single texts come first, then those that compare texts."""
    length, language = np.array(table.length), np.array(table.language)
    reasons = np.zeros(len(length), np.uint8)
    partner = np.full(len(length), -1)  # the document of which each is a duplicate
    # (D,) number of the group, -1 = none.
    hashes, group = np.array(table.group), np.full(len(length), -1)
    group[hashes > 0] = np.unique(hashes[hashes > 0], return_inverse=True)[1]

    def drop(which: np.ndarray, reason: str) -> None:
        reasons[which & (reasons == _KEPT)] = REASONS.index(reason) + 1

    if cleaning.shortest is not None:
        drop(length < cleaning.shortest, "short")
    if cleaning.longest is not None:
        drop(length > cleaning.longest, "long")
    if cleaning.language is not None:
        drop(np.array(table.other_language, bool), "language")
    if cleaning.ratio is not None:
        left = np.flatnonzero(reasons == _KEPT)
        far = lengths.outliers(length[left], language[left], group[left], cleaning.ratio)
        drop(np.isin(np.arange(len(length)), left[far]), "ratio")
    if cleaning.exact:
        left = np.flatnonzero(reasons == _KEPT)
        # The first document of each hash stays.
        _, firsts, inverse = np.unique(np.array(table.key)[left], return_index=True, return_inverse=True)
        again = firsts[inverse] != np.arange(len(left))
        partner[left[again]] = left[firsts[inverse]][again]
        drop(partner >= 0, "exact")
    if cleaning.near is not None:
        left = np.flatnonzero(reasons == _KEPT)
        for one in np.unique(language[left]):
            own = left[language[left] == one]
            _drop_near(own, minhash.near_pairs(table.signatures[own], cleaning.near), partner)
        drop(partner >= 0, "near")
    if cleaning.whole_groups:
        drop(np.isin(group, np.unique(group[(reasons != _KEPT) & (group >= 0)])), "group")
    shown = _examples(reasons, partner)
    return _Decisions(reasons, language, tuple(table.languages), first, shown)


def _drop_near(numbers: np.ndarray, pairs: np.ndarray, partner: np.ndarray) -> None:
    """Set `partner` of each document that is similar to an earlier one that stays.

    Documents are decided in order. So a chain of small changes does not drop a text that is unlike all texts that stay.
    """
    for earlier, later in numbers[pairs].tolist():
        if partner[later] < 0 and partner[earlier] < 0:
            partner[later] = earlier


def _examples(reasons: np.ndarray, partner: np.ndarray) -> dict[int, int | None]:
    """The first dropped documents of each reason, and the documents of which they are duplicates."""
    shown: dict[int, int | None] = {}
    for code in range(1, len(REASONS) + 1):
        for number in np.flatnonzero(reasons == code)[:EXAMPLES].tolist():
            duplicate = REASONS[code - 1] in ("exact", "near")
            shown[number] = int(partner[number]) if duplicate else None
            if duplicate:
                shown.setdefault(int(partner[number]), None)
    return shown
