"""Packing: items of one or two views in rows of fixed shape, in closed form.

Items are numbered endlessly. Block b is items [4096 b, 4096 (b + 1)); it is packed by itself, longest first, each item
into the first row with room, into the same number m of rows. So row r lies in block r // m, and no state is kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import numpy as np

from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.vocabulary import Tokenizer

ITEMS = 4096  # items of a block
LEFT_OVER = 0.003  # of the items of each sampled block at most, do not fit into its rows
_SAMPLE = 8  # blocks packed at build to find the rows of a block
_KEPT = 4  # blocks kept in memory; at T = 512 one may take 70 MB

Batch = dict[str, np.ndarray]


class Items(NamedTuple):
    """I items of V views of P texts each; a text is a span of stored tokens, without its eos.

    Attributes:
      store, start, size, language, k: (I, V, P) int64: which token array, first token, tokens, index into the feed's
        languages, clone it is written as.
      cut: (I,) int64 texts of which only a part is there.
      group: (I, P) int32, text: (I, V, P) uint32 hashes; empty (P = 0) where a feed knows neither.
    """

    store: np.ndarray
    start: np.ndarray
    size: np.ndarray
    language: np.ndarray
    k: np.ndarray
    cut: np.ndarray
    group: np.ndarray
    text: np.ndarray


class Source(Protocol):
    """What is packed.

    Attributes:
      tokens: token arrays, base ids.   languages: names.
      unit: "texts" or "pairs", what is counted.   units: of them in an item.
      report: what became of the documents at build, by name.
    """

    tokens: list[np.ndarray]
    languages: tuple[str, ...]
    unit: str
    units: int
    report: dict[str, int]

    def items(self, number: np.ndarray) -> Items:
        """The items of these numbers, (I,) int64 >= 0."""


class Form(NamedTuple):
    """How items become rows: T tokens, S slots, positions that restart at every text, languages as token types."""

    length: int
    slots: int
    reset_positions: bool = False
    language_types: bool = False


def pack(
    sizes: np.ndarray, length: int, slots: int, longest_first: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs items one after another, each into the first row where all its views fit.

    Rows are opened on demand, so dropping all items beyond row m gives the same result as packing into m rows.

    Args:
      sizes: (I, V) int64, tokens of each view of each item; V is 1 or 2.
      length: tokens that a row holds.   slots: items that a row holds.
      longest_first: items are taken by falling size, equal ones in their order; False: all in their order.
    Returns:
      row (I,), slot (I,), first place in the row of each view (I, V); int64.
    """
    count, views = sizes.shape
    room = [np.full(count, length, np.int32) for _ in range(views)]  # -1: no slot is free
    left = [[length] * count for _ in range(views)]  # as room; single entries of a list are read faster
    taken, row, slot = [0] * count, [0] * count, [0] * count
    place = np.zeros((count, views), np.int64)
    opened = 1
    listed = sizes.tolist()
    for item in np.argsort(-sizes.sum(1), kind="stable").tolist() if longest_first else range(count):
        fits = room[0][:opened] >= listed[item][0]
        if views == 2:
            fits &= room[1][:opened] >= listed[item][1]
        found = int(fits.argmax())
        if not fits[found]:
            found, opened = opened, opened + 1
        row[item], slot[item] = found, taken[found]
        taken[found] += 1
        for view, size in enumerate(listed[item]):
            place[item, view] = length - left[view][found]
            left[view][found] -= size
            room[view][found] = left[view][found] if taken[found] < slots else -1
    return np.array(row), np.array(slot), place


class PackedRows:
    """Rows of packed items: bos x eos for one text, bos a eos b eos for two (without a bos in the vocabulary, no bos)."""

    def __init__(self, source: Source, form: Form, tokenizer: Tokenizer, rows: int, seed: int) -> None:
        self.length, self.languages = form.length, source.languages
        self._source, self._form, self._rows, self._seed = source, form, rows, seed
        self._written = tokenizer.clone_table
        self._eos, self._bos, self._pad = tokenizer.eos, tokenizer.bos, tokenizer.pad or 0
        self.block_rows, filled = self._measure()
        self.report = {**source.report, "rows a block": self.block_rows, "percent filled": round(100 * filled)}
        self._block = functools.lru_cache(maxsize=_KEPT)(self._make)

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the batch of `rows` rows that begins at `first_row`.

        Returns:
          tokens, positions, segment_ids (R, T) int32: segment s is slot s - 1, 0 padding; token_language (R, T) int32
          index into `languages`, -1 at padding; types (R, T) int32 (with language types): token_language, 0 at padding;
          for items of two views the same of the second view under key_..., and group (R, S, P) int32 (-1 absent; in the order of the query's texts), text
          and key_text (R, S, P) uint32; count_texts or count_pairs packed, count_cut texts cut, count_dropped texts or
          pairs of the block that did not fit (in its first row); (R,) int32.
        """
        number = first_row + np.arange(*row_slice.indices(self._rows), dtype=np.int64)
        block, row = np.divmod(number, self.block_rows)
        parts = []
        for name in dict.fromkeys(block.tolist()):
            made = self._block(name)
            parts.append({key: array[row[block == name]] for key, array in made.items()})
        parts = parts or [{key: array[:0] for key, array in self._block(0).items()}]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts[1:] else parts[0]

    def _sizes(self, items: Items) -> np.ndarray:
        """Tokens of each view with its specials, (I, V)."""
        return items.size.sum(2) + items.size.shape[2] + (self._bos is not None)

    def _measure(self) -> tuple[int, float]:
        """Rows of a block, such that of no sampled block more than a few items are left over; how full they are."""
        count, rows, sizes = 0, [], []
        for block in range(_SAMPLE):
            items = self._source.items(block * ITEMS + np.arange(ITEMS))
            sizes.append(self._sizes(items))
            rows.append(pack(sizes[-1], self._form.length, self._form.slots)[0])
            beyond = ITEMS - np.cumsum(np.bincount(rows[-1]))
            count = max(count, int(np.argmax(beyond <= LEFT_OVER * ITEMS)) + 1)
        size = np.concatenate(sizes)[np.concatenate(rows) < count]
        return count, size.sum() / (size.shape[1] * _SAMPLE * count * self._form.length)

    def _make(self, block: int) -> Batch:
        """All rows of a block."""
        items = self._source.items(block * ITEMS + np.arange(ITEMS))
        row, slot, place = pack(self._sizes(items), self._form.length, self._form.slots)
        kept = row < self.block_rows
        items = Items(*(column[kept] for column in items))
        shuffle = np.argsort(hash64(self._seed, "rows", block, np.arange(self.block_rows)))
        row, slot, place = shuffle[row[kept]], slot[kept], place[kept]
        views = items.size.shape[1]
        batch = self._view(items, 0, row, slot, place[:, 0])
        if views == 2:
            batch |= {f"key_{name}": array for name, array in self._view(items, 1, row, slot, place[:, 1]).items()}
            texts = {"group": items.group, "text": items.text[:, 0], "key_text": items.text[:, 1]}
            for name, values in texts.items():
                shape = (self.block_rows, self._form.slots, values.shape[1])
                batch[name] = np.full(shape, -1 if name == "group" else 0, values.dtype)
                batch[name][row, slot] = values
        units, rows = self._source.units, self.block_rows
        batch[f"count_{self._source.unit}"] = units * np.bincount(row, minlength=rows).astype(np.int32)
        batch["count_cut"] = np.bincount(row, items.cut, minlength=rows).astype(np.int32)
        batch["count_dropped"] = np.zeros(rows, np.int32)
        batch["count_dropped"][0] = units * np.count_nonzero(~kept)
        for array in batch.values():
            array.setflags(write=False)
        return batch

    def _view(self, items: Items, view: int, row: np.ndarray, slot: np.ndarray, place: np.ndarray) -> Batch:
        """tokens, positions, segment_ids, token_language (and types) of one view of a block; a run is a text + eos."""
        shape = self.block_rows, self._form.length
        size, k = items.size[:, view], items.k[:, view].ravel()
        runs = size + 1
        runs[:, 0] += self._bos is not None
        within, run = np.cumsum(runs, 1) - runs, runs.ravel()
        before = np.cumsum(run) - run
        inside = np.arange(run.sum()) - np.repeat(before, run)
        at = np.repeat(((row * shape[1] + place)[:, None] + within).ravel(), run) + inside
        values = np.repeat(self._written[k, self._eos], run)
        if self._bos is not None:
            first = slice(None, None, size.shape[1])
            values[before[first]] = self._written[k[first], self._bos]
        lead = run - 1 - size.ravel()
        values[ranges(before + lead, size.ravel())] = self._read(items, view)
        offset = np.zeros_like(inside) if self._form.reset_positions else np.repeat(within.ravel(), run)
        language = np.repeat(items.language[:, view].ravel(), run)
        segment = np.repeat(np.repeat(slot + 1, size.shape[1]), run)
        columns = [("tokens", self._pad, values), ("positions", 0, offset + inside), ("segment_ids", 0, segment)]
        columns.append(("token_language", -1, language))
        if self._form.language_types:
            columns.append(("types", 0, language))
        batch = {}
        for name, absent, column in columns:
            batch[name] = np.full(shape, absent, np.int32)
            batch[name].ravel()[at] = column
        return batch

    def _read(self, items: Items, view: int) -> np.ndarray:
        """The tokens of a view's texts one after another, as their clones write them, (N,) int32."""
        store, start, size, k = (column[:, view].ravel() for column in (items.store, items.start, items.size, items.k))
        order = np.argsort(store, kind="stable")
        places = ranges((np.cumsum(size) - size)[order], size[order])
        reads = ranges(start[order], size[order])
        ends = np.cumsum(size[order])
        found = np.empty(size.sum(), np.int32)
        names, first = np.unique(store[order], return_index=True)
        bounds = [*(ends - size[order])[first].tolist(), len(found)]
        for i, name in enumerate(names.tolist()):
            part = slice(bounds[i], bounds[i + 1])
            found[places[part]] = self._source.tokens[name][reads[part]]
        return self._written[np.repeat(k, size), found] if k.any() else found


def blank_rows(rows: int, form: Form, unit: str, views: int = 1, texts: int = 0) -> Batch:
    """What `PackedRows.rows` returns, with zeros in place of text; the arrays take no memory.

    Args:
      unit: "texts" or "pairs".   views, texts: V and P of the items.
    """
    names = ["tokens", "positions", "segment_ids", "token_language", *(["types"] if form.language_types else [])]
    names += [f"key_{name}" for name in names] if views == 2 else []
    batch = {name: blank((rows, form.length), np.int32) for name in names}
    if views == 2:
        kinds = {"group": np.int32, "text": np.uint32, "key_text": np.uint32}
        batch |= {name: blank((rows, form.slots, texts), dtype) for name, dtype in kinds.items()}
    return batch | {f"count_{name}": blank((rows,), np.int32) for name in (unit, "cut", "dropped")}


def blank(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros of that shape that take no memory; they cannot be written to."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def ranges(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[start_0, start_0 + 1, ..., start_0 + size_0 - 1, start_1, ...], (sum of sizes,) int64."""
    return np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
