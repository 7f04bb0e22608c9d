"""Tokenises a task into shards, and goes on where an earlier attempt stopped."""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from xalign_jax.data.store.columns import Arrays, Column, Encoder
from xalign_jax.data.store.shards import Part, Shards, batches, characters
from xalign_jax.data.store.workers import Workers, jobs
from xalign_jax.data.text.fields import covered
from xalign_jax.data.text.files import keyed_hash, normal_text
from xalign_jax.data.text.readers import Example
from xalign_jax.data.text.split import contained

SPLITS = ("validation", "train")  # validation first: training needs its texts


class ChangedError(Exception):
    """The text is not the text from which the shards were made."""


class Found(NamedTuple):
    """What tokenising found.

    Attributes:
      content: hash of every document that is kept, with its split, language and group, in order.
      shards: number of shards of each split.
      dropped: documents of training that are validation texts too.
    """

    content: str
    shards: dict[str, int]
    dropped: int


def tokenise(task: str, reader: Any, encoder: Encoder, validation: np.ndarray, shards: Shards) -> Found:
    """Complete the shards of a task. The text of shards that exist is read again, which is quick, but not tokenised.

    Args:
      validation: sorted hashes of texts that training leaves out. The task's own validation texts are added.
    Raises:
      ChangedError: there are shards, and they were made of another text.
      OSError: a shard cannot be written, or a worker process stopped.
    """
    content = hashlib.sha256()
    counts, dropped = {}, 0
    with Workers(encoder, jobs()) as workers:
        reader.divide(workers.keys)
        for split in SPLITS:
            missing = functools.cache(lambda number, split=split: not shards.whole(split, number))
            stream = workers.map(batches(reader.read(split), characters()), missing)
            progress = tqdm(stream, desc=f"{task} {split}", unit=" batches", mininterval=1)
            number = -1
            for number, group in itertools.groupby(progress, key=operator.itemgetter(0)):
                if missing(number):
                    part = _collect(split, group, validation, encoder.columns, content)
                    shards.write(split, number, part, content.hexdigest())
                    kept = part.kept
                else:
                    kept = [shards.load(split, number, "kept")]
                    _skip(split, group, kept[0], content)
                    if content.hexdigest() != shards.about(split, number)["content"]:
                        raise ChangedError
                dropped += sum(int((~one).sum()) for one in kept)
            counts[split] = number + 1
            if split == "validation":
                own = [shards.load(split, number, "key") for number in range(counts[split])]
                validation = np.unique(np.concatenate([validation, *own]))
    return Found(content.hexdigest(), counts, dropped)


def _collect(
    split: str,
    group: Iterable[tuple[int, Sequence[Example], Arrays | None]],
    validation: np.ndarray,
    columns: Sequence[Column],
    content: Any,
) -> Part:
    """The documents of a shard that are kept. They are added to the hash of the content."""
    part = Part()
    for _, batch, arrays in group:
        assert arrays is not None
        kept = np.ones(len(batch), bool)
        if split == "train":
            kept = ~contained(arrays["key"], validation)
            if not kept.all():
                arrays = _choose(arrays, kept, columns)
        part.arrays.append(arrays)
        part.kept.append(kept)
        chosen = list(itertools.compress(batch, kept))
        part.languages += [example.document.language for example in chosen]
        cover(split, chosen, content)
    return part


def _choose(arrays: Arrays, kept: np.ndarray, columns: Sequence[Column]) -> Arrays:
    """The columns of the documents that are kept; `kept` (n,) bool."""
    tokens = np.repeat(kept, arrays["length"])
    return {c.name: arrays[c.name][tokens if c.per == "token" else kept] for c in columns}


def _skip(
    split: str, group: Iterable[tuple[int, Sequence[Example], Arrays | None]], kept: np.ndarray, content: Any
) -> None:
    """Add the documents of a shard that exists to the hash of the content; `kept` (n,): which of them are kept."""
    first = 0
    for _, batch, _ in group:
        cover(split, itertools.compress(batch, kept[first : first + len(batch)]), content)
        first += len(batch)
    if first != len(kept):
        raise ChangedError


def cover(split: str, examples: Iterable[Example], content: Any) -> None:
    """Add documents to the hash of the content, each with its split, language, group and fields."""
    documents = (example.document for example in examples)
    rows = [f"{split}\0{d.text}\0{d.language}\0{d.group}{covered(d)}\n" for d in documents]
    content.update("".join(rows).encode())


def text_keys(examples: Iterable[Example]) -> np.ndarray:
    """(n,) uint64: the hash of each text, the column `key`."""
    return np.array([keyed_hash(normal_text(example.document.text)) for example in examples], np.uint64)
