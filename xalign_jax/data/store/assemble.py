"""Makes the arrays of a store from its shards: documents by language, in shuffled order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from xalign_jax.data.store.columns import Column
from xalign_jax.data.store.shards import Shards

Counts = dict[str, dict[str, int]]  # by language: documents, tokens, utf8_bytes, words

_CHUNK = 2**22  # tokens that are gathered at a time


def assemble(
    folder: Path, shards: Shards, numbers: Mapping[str, int], columns: Sequence[Column], counted: Sequence[str] = ()
) -> dict[str, Counts]:
    """Write the arrays of all splits and languages, `<folder>/<split>/<language>/<name>.npy`.

    It reads the small columns of all documents at once, about 50 bytes a document, and tokens in chunks.

    Args:
      numbers: how many shards each split has, in the order in which groups are numbered.
      columns: the columns to write. Offsets and groups are written too.
      counted: further columns of documents, of which each language's sum is returned unless it is 0.
    Raises:
      OSError: the arrays cannot be written.
    """
    group_keys = {split: _joined(shards, split, count, "group_key") for split, count in numbers.items()}
    groups = _numbered(np.concatenate(list(group_keys.values())))
    counts: dict[str, Counts] = {}
    first = 0
    for split, keys in group_keys.items():
        own, first = groups[first : first + len(keys)], first + len(keys)
        counts[split] = _assemble_split(folder / split, shards, split, numbers[split], own, columns, counted)
    return counts


def _numbered(keys: np.ndarray) -> np.ndarray:
    """(D,) hashes of groups -> (D,) int32 numbers in the order of each group's first document; no group is -1."""
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # Places of the groups in order of their first documents; hash 0 stands for no group and takes no number.
    real = keys[firsts] != 0
    rank = np.full(len(firsts), -1, np.int32)
    rank[real] = np.argsort(np.argsort(firsts[real]))
    return rank[inverse]


def _joined(shards: Shards, split: str, count: int, name: str) -> np.ndarray:
    """A column of all documents of a split, in the order in which they were read."""
    parts = [shards.load(split, number, name) for number in range(count)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _languages(shards: Shards, split: str, count: int) -> tuple[list[str], np.ndarray]:
    """The names of a split's languages, and the number of each document's (D,)."""
    named = [shards.about(split, number)["languages"] for number in range(count)]
    names = sorted({name for part in named for name in part})
    found = [np.empty(0, np.int64)]
    for number, part in enumerate(named):
        # A shard numbers its own languages.
        table = np.array([names.index(name) for name in part], np.int64)
        found.append(table[shards.load(split, number, "language")])
    return names, np.concatenate(found)


def _assemble_split(
    folder: Path, shards: Shards, split: str, count: int, groups: np.ndarray, columns: Sequence[Column],
    counted: Sequence[str],
) -> Counts:  # fmt: skip
    """Write a split. `groups` (D,): the numbers of its documents' groups."""
    names, language = _languages(shards, split, count)
    # (D,) columns of all documents; tokens stay on disk.
    small = {c.name: _joined(shards, split, count, c.name) for c in columns if c.per == "document"}
    lengths, words = (_joined(shards, split, count, name).astype(np.int64) for name in ("length", "words"))
    # (D,) shard of each document, and where it begins in the shard.
    documents = np.array([len(shards.load(split, number, "length")) for number in range(count)], np.int64)
    shard = np.repeat(np.arange(count), documents)
    ends = np.cumsum(lengths)
    sizes = np.add.reduceat(lengths, (np.cumsum(documents) - documents)) if count else documents
    begins = ends - lengths - np.repeat(np.cumsum(sizes) - sizes, documents)
    counts: Counts = {}
    for code, name in enumerate(names):
        place = folder / name
        place.mkdir(parents=True)
        own = np.flatnonzero(language == code)
        # The order of documents is a fixed one: batches depend on it.
        chosen = own[np.random.default_rng(0).permutation(len(own))]
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
        np.save(place / "offsets.npy", offsets)
        np.save(place / "group.npy", groups[chosen])
        for column in columns:
            file = place / f"{column.name}.npy"
            if column.per == "document":
                np.save(file, small[column.name][chosen])
                continue
            sources = [shards.load(split, number, column.name) for number in range(count)]
            _write(file, column.dtype, int(offsets[-1]), _gather(sources, shard[chosen], begins[chosen], offsets))
        counts[name] = {
            "documents": len(chosen),
            "tokens": int(offsets[-1]),
            "utf8_bytes": int(small["utf8_bytes"][chosen].sum(dtype=np.int64)),
            "words": int(words[chosen].sum()),
        }
        sums = {key: int(_joined(shards, split, count, key)[chosen].sum(dtype=np.int64)) for key in counted}
        counts[name] |= {key: total for key, total in sums.items() if total}
    return counts


def _gather(
    sources: Sequence[np.ndarray], shard: np.ndarray, begins: np.ndarray, offsets: np.ndarray
) -> Iterator[np.ndarray]:
    """The tokens of documents in their order, in chunks.

    Args:
      sources: tokens of each shard.
      shard, begins: (D,) where each document begins.
      offsets: (D + 1,) where it begins in the result.
    """
    first = 0
    while first < len(shard):
        # Documents of this chunk: at least one, and as many as fit.
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1)
        chunk = np.empty(offsets[last] - offsets[first], sources[0].dtype)
        places = offsets[first : last + 1] - offsets[first]
        for number in np.unique(shard[first:last]):
            source = sources[number]
            # In the order of the source, so that the disk is read forwards.
            among = np.flatnonzero(shard[first:last] == number)
            among = among[np.argsort(begins[first + among])]
            for start, end, begin in zip(
                places[among].tolist(), places[among + 1].tolist(), begins[first + among].tolist(), strict=True
            ):
                chunk[start:end] = source[begin : begin + end - start]
        yield chunk
        first = last


def _write(file: Path, dtype: type, size: int, chunks: Iterator[np.ndarray]) -> None:
    """Write a numpy file of (size,) values. Mapped files would crash the process if the disk were full."""
    with open(file, "wb") as written:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(written, header)
        for chunk in chunks:
            written.write(chunk.data)
