"""Which documents are for training and which for validation."""

from __future__ import annotations

import array
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from xalign_jax.data.text.files import VALIDATION_SHARE, Document, keyed_hash, normal_text
from xalign_jax.errors import UserError

Item = TypeVar("Item")

# Applies `document_keys` to batches of documents, in order: in this process, or in others.
Apply = Callable[[Iterable[Sequence[Document]]], Iterator[np.ndarray]]

_DOCUMENTS, _CHARACTERS = 1024, 2**19  # of a batch
SIDES = ("train", "validation", None)  # by the code that `Split` keeps of each document
_TRAIN, _VALIDATION, _DROPPED = range(3)


def document_keys(documents: Sequence[Document]) -> np.ndarray:
    """(n, 2) uint64: for each document the hash that decides its side, and the hash of its text."""
    rows = []
    for document in documents:
        text = keyed_hash(normal_text(document.text))
        rows.append((keyed_hash(f"group:{document.group}") if document.group else text, text))
    return np.array(rows, np.uint64).reshape(-1, 2)


def in_this_process(batches: Iterable[Sequence[Document]]) -> Iterator[np.ndarray]:
    """`document_keys` of batches."""
    return map(document_keys, batches)


class Split:
    """Divides documents into training and validation by a keyed hash of their group, or of the text if it has none.

    A language of which nothing is drawn gets a document or group for validation, if that leaves every language some
    text for training. It is the one that serves most such languages; of equal ones, the one with the smallest hash. If
    all of a language is drawn, the document or group with the largest hash goes back to training. Training drops texts
    that validation has, so the same text never stands in both splits.

    One pass over the documents decides. It takes 20 bytes of memory for each, of which one stays.

    Args:
      read: yields all documents, in each call the same.
      share: of the documents, for validation.
      apply: hashes the documents.
    """

    def __init__(
        self, read: Callable[[], Iterable[Document]], share: float = VALIDATION_SHARE, apply: Apply = in_this_process
    ) -> None:
        numbers: dict[str, int] = {}
        languages = array.array("I")

        def batches() -> Iterator[list[Document]]:
            batch: list[Document] = []
            characters = 0
            for document in read():
                languages.append(numbers.setdefault(document.language, len(numbers)))
                batch.append(document)
                characters += len(document.text)
                if len(batch) == _DOCUMENTS or characters >= _CHARACTERS:
                    yield batch
                    batch, characters = [], 0
            if batch:
                yield batch

        # (D, 2) -> (D,) hashes that decide, (D,) hashes of the texts.
        key, text = np.concatenate([np.empty((0, 2), np.uint64), *apply(batches())]).T
        validation = _held_out(key, np.array(languages), share)
        repeated = ~validation & contained(text, np.unique(text[validation]))
        self._codes = np.where(validation, _VALIDATION, np.where(repeated, _DROPPED, _TRAIN)).astype(np.uint8).tobytes()

    def sides(self) -> list[str | None]:
        """For each document "train", "validation", or None for a text of training that validation has too."""
        return [SIDES[code] for code in self._codes]

    def select(self, items: Iterable[Item], split: str) -> Iterator[Item]:
        """The items of a split.

        Args:
          items: one for each document, in the order in which they were read.
        Raises:
          UserError: there are more or fewer items than documents.
        """
        wanted = SIDES.index(split)
        try:
            for item, code in zip(items, self._codes, strict=True):
                if code == wanted:
                    yield item
        except ValueError as error:
            if "zip()" not in str(error):
                raise
            raise UserError("Mixture.tasks: the text changed while it was read; start again") from None


def contained(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the values stand in a sorted table (m,)."""
    if not len(table):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return table[places] == values


def _held_out(key: np.ndarray, language: np.ndarray, share: float) -> np.ndarray:
    """(D,) bool: the documents for validation, from their keys (D,) and the numbers of their languages (D,)."""
    limit = math.ceil(share * 2**64)
    drawn = np.full(len(key), True) if limit >= 2**64 else key < np.uint64(limit)
    # Language -> keys that are not drawn. Once a key of the language is drawn, the largest one suffices.
    training: dict[int, set[int]] = {}
    without: dict[int, set[int]] = {}
    kept: set[int] = set()
    for number in np.unique(language).tolist():
        own = language == number
        out, left = key[own & drawn], key[own & ~drawn]
        if len(out):
            training[number] = {int(left.max())} if len(left) else set()
            # A language of which all is drawn gives its largest key back.
            kept |= set() if len(left) else {int(out.max())}
        else:
            training[number] = without[number] = set(left.tolist())
    extra = _extra_keys(training, without)
    moved = functools.partial(np.isin, key)
    return ~moved(np.array([*kept], np.uint64)) & (drawn | moved(np.array([*extra], np.uint64)))


def _extra_keys(training: dict[int, set[int]], without: dict[int, set[int]]) -> set[int]:
    """Keys to move from training to validation, so that the languages in `without` get some validation text.

    Few keys are moved: first the one that serves most languages, of equal ones the smallest. Every language of
    `training` keeps a key.
    """
    extra: set[int] = set()
    # A key may be moved if every language keeps another one. Languages that the moved key serves are done.
    kept = [keys for keys in training.values() if keys]
    while without:
        serves = Counter(itertools.chain.from_iterable(without.values()))
        best_first = sorted(serves, key=lambda key: (-serves[key], key))
        key = next((key for key in best_first if all(keys - extra - {key} for keys in kept)), None)
        if key is None:
            break
        extra.add(key)
        without = {language: keys for language, keys in without.items() if key not in keys}
    return extra
