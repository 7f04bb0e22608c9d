"""Shards: what has been tokenised of a task, kept until its store is made, so that a killed preparation goes on.

A shard holds the columns of the documents of a few hundred megabytes of text, in the order in which they are read. It
is made whole or not at all, and sealed (`cache`). Where a shard ends depends on the text alone. So all preparations of
a task make the same shards, however many processes work, and each may use the shards of the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xalign_jax.data.store.cache import damage, make, read_object
from xalign_jax.data.store.columns import Arrays, Column
from xalign_jax.data.text.lines import is_language
from xalign_jax.data.text.readers import Example
from xalign_jax.errors import UserError

SIZE = "XALIGN_SHARD"
_CHARACTERS = 2**28  # of text in a shard: about 2^26 tokens of a usual vocabulary
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 1024, 2**19
_STALE = 7 * 24 * 3600  # seconds after which shards that nobody added to are deleted


@dataclasses.dataclass
class Part:
    """Consecutive documents of one split, in batches.

    Attributes:
      arrays: the columns of the documents that are kept.
      languages: of these documents.
      kept: for each document that was read, whether it is kept.
    """

    arrays: list[Arrays] = dataclasses.field(default_factory=list)
    languages: list[str] = dataclasses.field(default_factory=list)
    kept: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of one task: `<folder>/<split>-<number>/{shard.json, <column>.npy}`.

    Attributes:
      folder: in the cache; its name says what decides the shards' contents.
      columns: the columns that they hold, besides the language.
    """

    folder: Path
    columns: Sequence[Column]

    def place(self, split: str, number: int) -> Path:
        """The folder of a shard."""
        return self.folder / f"{split}-{number:06d}"

    def write(self, split: str, number: int, part: Part, content: str) -> None:
        """Write a shard unless it is there.

        Args:
          content: the hash of everything that was read so far.
        Raises:
          UserError: a language cannot be the name of a folder.
          OSError: the shard cannot be written.
        """
        # (D,) numbers of languages in the order of their names.
        names = sorted(set(part.languages))
        if wrong := [name for name in names if not is_language(name)]:
            raise UserError(f"Mixture.tasks: a text is in {wrong[0][:60]!r}, which is no name for a language")
        numbers = {name: number for number, name in enumerate(names)}

        def fill(folder: Path) -> None:
            np.save(folder / "language.npy", np.array([numbers[name] for name in part.languages], np.int32))
            np.save(folder / "kept.npy", np.concatenate(part.kept))
            for column in self.columns:
                np.save(folder / f"{column.name}.npy", np.concatenate([arrays[column.name] for arrays in part.arrays]))
            (folder / "shard.json").write_text(json.dumps({"content": content, "languages": names}) + "\n")

        make(self.place(split, number), fill)

    def whole(self, split: str, number: int) -> bool:
        """True if the shard is there and is as it was written."""
        place = self.place(split, number)
        if not place.exists():
            return False
        if (found := damage(place)) is not None:
            print(f"{found}; making it again", file=sys.stderr)
        return found is None

    def about(self, split: str, number: int) -> dict[str, Any]:
        """The contents of a shard's shard.json: the names of its languages, and the hash of the content."""
        return read_object(self.place(split, number) / "shard.json", languages=list, content=str)

    def load(self, split: str, number: int, name: str) -> np.ndarray:
        """A column of a shard, on disk."""
        return np.load(self.place(split, number) / f"{name}.npy", mmap_mode="r")


def shards_folder(cache: Path, key: str, size: int) -> Path:
    """The folder of a store's shards of `size` characters."""
    return cache / "partial" / f"{key}-{size}"


def open_shards(cache: Path, key: str, columns: Sequence[Column]) -> Shards:
    """The shards of a store in the cache, some of which may exist. Old shards of other stores are deleted.

    Args:
      key: the store's, which covers its texts and vocabulary.
    Raises:
      UserError: $XALIGN_SHARD is no number.
    """
    folder = shards_folder(cache, key, characters())
    for other in (cache / "partial").glob("*"):
        if other != folder and time.time() - other.stat().st_mtime > _STALE:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return Shards(folder, columns)


def delete_shards(cache: Path, key: str) -> None:
    """Delete the shards of a store that has been made."""
    for folder in (cache / "partial").glob(f"{key}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        (cache / "partial").rmdir()  # unless other stores are being made


def characters() -> int:
    """The characters of text in a shard: $XALIGN_SHARD, otherwise 2^28. Raises UserError if it is no number."""
    text = os.environ.get(SIZE, str(_CHARACTERS))
    if not text.isdecimal() or not 1 <= int(text) <= 2**40:
        raise UserError(f"{SIZE} = {text[:60]!r}: expected the characters of text in a shard, such as {_CHARACTERS}")
    return int(text)


def batches(examples: Iterable[Example], limit: int) -> Iterator[tuple[int, list[Example]]]:
    """Batches of examples that are neither long nor large, each with the number of its shard.

    Args:
      limit: characters of text in a shard.
    """
    number, shard = 0, 0
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += len(example.document.text)
        if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield number, batch
            shard += size
            number, shard = (number + 1, 0) if shard >= limit else (number, shard)
            batch, size = [], 0
    if batch:
        yield number, batch
