"""Packing: items of one or two views in rows of fixed shape, in closed form.

Items are numbered endlessly. Block b holds the items [4096 b, 4096 (b + 1)). Each block is packed by itself: longest
item first, each item into the first row with room. All blocks have the same number m of rows, so row r lies in block r
// m, and no state is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from xalign_jax.data.feeds.members import by_source
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.mixing import BLOCK, MemberRows
from xalign_jax.data.tokens.vocabulary import Tokenizer
from xalign_jax.interfaces import Batches

if TYPE_CHECKING:
    from xalign_jax.data.store.store import Mixture

ITEMS = 4096  # items of a block
LEFT_OVER = 0.003  # largest share of a sampled block's items that may not fit into its rows
_SAMPLE = 8  # blocks that are packed at build, to find the number of rows of a block
_KEPT = 4  # blocks that are kept in memory; at T = 512 a block may take 70 MB

Batch = dict[str, np.ndarray]


class Items(NamedTuple):
    """I items of V views of P texts each. A text is a span of stored tokens, without its eos.

    Attributes:
      store: (I, V, P) int64, the token array that the text lies in.
      start, size: (I, V, P) int64, its first token there and its number of tokens.
      language: (I, V, P) int64, index into the feed's languages.
      k: (I, V, P) int64, the clone that the text is written as.
      cut: (I,) int64, texts of the item that are shorter than their document.
      group: (I, P) int32, equal for texts that translate each other; P = 0 where the feed does not know it.
      text: (I, V, P) uint32, hashes of the texts; P = 0 where the feed does not know them.
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
    """The source of the items that are packed.

    Attributes:
      tokens: arrays of base ids, (N,) each.
      tasks: the task of each of these arrays; "" for the facts.
      languages: their names.
      unit: "texts" or "pairs", the unit of the counts.
      units: how many units an item has.
      report: counts of the documents that are used and not used, by name.
      rows: how many units of each member the blocks of its mixture hold.
    """

    tokens: list[np.ndarray]
    tasks: list[str]
    languages: tuple[str, ...]
    unit: str
    units: int
    report: dict[str, int]
    rows: MemberRows

    def drawn_by(self, mixture: Mixture) -> Self:
        """A copy that draws the same members at other rates. The points of the mixture's schedules count units."""

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0."""


class Form(NamedTuple):
    """How items become rows.

    Attributes:
      length: T, tokens of a row.
      slots: S, most items of a row.
      reset_positions: positions restart at every text of an item.
      language_types: the batch has token types, which are the languages.
    """

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
    # Free tokens of each row, for each view: `room` is compared as a whole, and is -1 where no slot is free. `left`
    # holds the same numbers as lists, because single entries of a list are read faster.
    room = [np.full(count, length, np.int32) for _ in range(views)]
    left = [[length] * count for _ in range(views)]
    taken, row, slot = [0] * count, [0] * count, [0] * count
    place = np.zeros((count, views), np.int64)
    opened = 1
    listed = sizes.tolist()
    for item in np.argsort(-sizes.sum(1), kind="stable").tolist() if longest_first else range(count):
        # (opened,) bool: rows that have room for every view; if there is none, the next row is opened.
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


class PackedRows(Batches):
    """Rows of packed items: "bos x eos" for one text, "bos a eos b eos" for two; no bos if the vocabulary has none."""

    def __init__(
        self, source: Source, mixture: Mixture, form: Form, tokenizer: Tokenizer, rows: int, seed: int
    ) -> None:
        self.length, self.languages = form.length, source.languages
        self._form, self._rows, self._seed = form, rows, seed
        self._written = tokenizer.clone_table
        self._eos, self._bos, self._pad = tokenizer.eos, tokenizer.bos, tokenizer.pad or 0
        # All blocks have as many rows as those whose items need the most, at any point of the mixture's schedule.
        constant = [source.drawn_by(phase) for phase in mixture.phases()] if mixture.changes else [source]
        self.block_rows, filled = self._measure(constant)
        # Sources count units, and the schedule counts rows.
        self._row_units = source.units * ITEMS / self.block_rows
        if mixture.changes:
            source = source.drawn_by(mixture.in_rows(lambda row: round(row * self._row_units)))
        self._source, self.lowered, units = source, source.rows.lowered, source.rows.ends
        # In the last block of rows, some units may lie beyond the end.
        self.ends = None if units is None else units // source.units // ITEMS * self.block_rows
        self.report = {**source.report, "rows a block": self.block_rows, "percent filled": round(100 * filled)}
        self._block = functools.lru_cache(maxsize=_KEPT)(self._make)

    def rates(self, row: int) -> dict[str, float]:
        """The share of each member in the units around a row; {} where the shares do not change."""
        return self._source.rows.rates(int(row * self._row_units))

    def drawn(self, number: np.ndarray) -> dict[str, int]:
        """Texts of each source and language in the units around rows `number` (B,) int64; {} for one source."""
        if len({*self._source.tasks} - {""}) < 2:
            return {}
        # (B,) rows -> the items that a row of mean size holds, so that no row need be packed again.
        edges = np.stack([number, number + 1]) * ITEMS // self.block_rows
        items = self._source.items(ranges(edges[0], edges[1] - edges[0]))
        return by_source(self._source.tasks, self.languages, items.store.ravel(), items.language.ravel())

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the batch of `rows` rows that begins at `first_row`.

        Returns:
          tokens, positions: (R, T) int32.
          segment_ids: (R, T) int32, segment s is slot s - 1; 0 is padding.
          token_language: (R, T) int32 index into `languages`, -1 at padding.
          types: (R, T) int32, only with language types: as token_language, 0 at padding.
          key_...: the same arrays of the second view, only for items of two views.
          group: (R, S, P) int32, only for items of two views: -1 for free slots, texts in the order of the query.
          text, key_text: (R, S, P) uint32, only for items of two views: hashes of the texts.
          count_texts or count_pairs: (R,) int32, units packed in the row.
          count_cut: (R,) int32, texts that were cut.
          count_dropped: (R,) int32, units of the block that did not fit; the first row of a block has them all.
        """
        # (R,) row numbers -> block and row within the block. Each block is made once and gives all its rows.
        number = first_row + np.arange(*row_slice.indices(self._rows), dtype=np.int64)
        block, row = np.divmod(number, self.block_rows)
        parts = []
        for name in dict.fromkeys(block.tolist()):
            made = self._block(name)
            parts.append({key: array[row[block == name]] for key, array in made.items()})
        parts = parts or [{key: array[:0] for key, array in self._block(0).items()}]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts[1:] else parts[0]

    def _sizes(self, items: Items) -> np.ndarray:
        """(I, V) int64: tokens of each view with its specials, an eos for each text and a bos."""
        return items.size.sum(2) + items.size.shape[2] + (self._bos is not None)

    def _measure(self, sources: Sequence[Source]) -> tuple[int, float]:
        """The number of rows that hold nearly all items of each sampled block, and the share that is filled."""
        count, rows, sizes = 0, [], []
        # Where texts end after their epochs, later blocks hold other texts than the first ones.
        places = [
            (source, block)
            for source in sources
            for block in sorted({*range(_SAMPLE), *(source.rows.changes * BLOCK // ITEMS + 1).tolist()})
        ]
        for source, block in places:
            items = source.items(block * ITEMS + np.arange(ITEMS))
            sizes.append(self._sizes(items))
            rows.append(pack(sizes[-1], self._form.length, self._form.slots)[0])
            # (rows,): items that are left over if the block ends with this row.
            beyond = ITEMS - np.cumsum(np.bincount(rows[-1]))
            count = max(count, int(np.argmax(beyond <= LEFT_OVER * ITEMS)) + 1)
        # (I, V) sizes of all sampled items -> those that fit.
        size = np.concatenate(sizes)[np.concatenate(rows) < count]
        return count, size.sum() / (size.shape[1] * len(rows) * count * self._form.length)

    def _make(self, block: int) -> Batch:
        """All m rows of a block, read-only arrays (m, ..)."""
        items = self._source.items(block * ITEMS + np.arange(ITEMS))
        row, slot, place = pack(self._sizes(items), self._form.length, self._form.slots)
        # Items beyond row m are dropped. The rows are shuffled, because packing puts the longest items first.
        kept = row < self.block_rows
        items = Items(*(column[kept] for column in items))
        shuffle = np.argsort(hash64(self._seed, "rows", block, np.arange(self.block_rows)))
        row, slot, place = shuffle[row[kept]], slot[kept], place[kept]
        views = items.size.shape[1]
        batch = self._view(items, 0, row, slot, place[:, 0])
        if views == 2:  # (I, P) ids of the items -> (m, S, P) by row and slot
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
        """tokens, positions, segment_ids, token_language (and types) of one view of a block, (m, T) int32 each.

        A run is a text with its eos; the first run of an item also has the bos. The block's runs, N tokens in all, are
        built as flat columns (N,) and then written to their places in the rows.

        Args:
          row, slot, place: (I,) int64, where each item lies.
        """
        shape = self.block_rows, self._form.length
        size, k = items.size[:, view], items.k[:, view].ravel()
        # (I, P) lengths of runs and their starts within the item; (I * P,) lengths and starts in the flat columns.
        runs = size + 1
        runs[:, 0] += self._bos is not None
        within, run = np.cumsum(runs, 1) - runs, runs.ravel()
        before = np.cumsum(run) - run
        # (N,): each token's number within its run, and its flat place in the rows.
        inside = np.arange(run.sum()) - np.repeat(before, run)
        at = np.repeat(((row * shape[1] + place)[:, None] + within).ravel(), run) + inside
        # (N,) tokens: eos everywhere, then bos at the start of each item, then the texts between them.
        values = np.repeat(self._written[k, self._eos], run)
        if self._bos is not None:
            first = slice(None, None, size.shape[1])
            values[before[first]] = self._written[k[first], self._bos]
        lead = run - 1 - size.ravel()
        values[ranges(before + lead, size.ravel())] = self._read(items, view)
        # (N,) further columns; a position counts from the item's start, or from the run's with `reset_positions`.
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
        """(N,) int32: the tokens of a view's texts one after another, as their clones write them."""
        store, start, size, k = (column[:, view].ravel() for column in (items.store, items.start, items.size, items.k))
        # Read each token array once: sort the texts by array, and take all tokens of an array's texts at a time.
        order = np.argsort(store, kind="stable")
        places = ranges((np.cumsum(size) - size)[order], size[order])
        reads = ranges(start[order], size[order])
        ends = np.cumsum(size[order])
        found = np.empty(size.sum(), np.int32)
        # Array `names[i]` has the entries bounds[i] to bounds[i + 1] - 1 of `reads` and `places`.
        names, first = np.unique(store[order], return_index=True)
        bounds = [*(ends - size[order])[first].tolist(), len(found)]
        for i, name in enumerate(names.tolist()):
            part = slice(bounds[i], bounds[i + 1])
            found[places[part]] = self._source.tokens[name][reads[part]]
        return self._written[np.repeat(k, size), found] if k.any() else found


def blank_rows(rows: int, form: Form, unit: str, views: int = 1, texts: int = 0) -> Batch:
    """The arrays that `PackedRows.batch` returns, with zeros in place of text. They take no memory.

    Args:
      unit: "texts" or "pairs".
      views, texts: V and P of the items.
    """
    names = ["tokens", "positions", "segment_ids", "token_language", *(["types"] if form.language_types else [])]
    names += [f"key_{name}" for name in names] if views == 2 else []
    batch = {name: blank((rows, form.length), np.int32) for name in names}
    if views == 2:
        kinds = {"group": np.int32, "text": np.uint32, "key_text": np.uint32}
        batch |= {name: blank((rows, form.slots, texts), dtype) for name, dtype in kinds.items()}
    return batch | {f"count_{name}": blank((rows,), np.int32) for name in (unit, "cut", "dropped")}


def blank(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros of that shape and type that take no memory; they are read-only."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def ranges(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(sum of sizes,) int64: the ranges [start_i, start_i + size_i) one after another; `start` and `size` are (n,)."""
    return np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
