"""Packing: items of one or two views in rows of fixed shape, in closed form.

Items are numbered endlessly. Block b holds the items [4096 b, 4096 (b + 1)). Each block is packed by itself: longest
item first, each item into the first row with room. All blocks have the same number m of rows, so row r lies in block r
// m, and no state is kept.

Where whole groups must stay in one batch, a block is a batch. It holds as many groups as fit into the batch's rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xalign_jax.data.feeds.items import Items, Source
from xalign_jax.data.feeds.members import by_source, several_sources
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.rates import BLOCK
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.interfaces import Batches

if TYPE_CHECKING:
    from xalign_jax.data.sampling.mixture import Mixture

ITEMS = 4096  # items of a block
LEFT_OVER = 0.003  # largest share of a sampled block's items that may not fit into its rows
_SAMPLE = 8  # blocks that are packed at build, to find the number of rows of a block
_KEPT = 4  # blocks that are kept in memory; at T = 512 a block may take 70 MB

Batch = dict[str, np.ndarray]


class Form(NamedTuple):
    """How items become rows.

    Attributes:
      length: T, tokens of a row.
      slots: S, most items of a row.
      reset_positions: positions restart at every text of an item.
      language_types: the batch has token types, which are the languages.
      groups: G, the groups of an item that the batch names; 0 = none.
      targets: the batch has targets and weights for a causal language model.
      second: only tokens of an item's second text are targets.
      before: base ids between the bos and the first text of every item, such as those of "query:".
      after: base ids between the last text of every item and its eos.
    """

    length: int
    slots: int
    reset_positions: bool = False
    language_types: bool = False
    groups: int = 0
    targets: bool = False
    second: bool = False
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


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


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, if every smaller number does too; 0 = not even 1."""
    # Double the number while it fits, then halve the interval: `found` always fits, `beyond` never does.
    found, beyond = 0, 1
    while beyond <= most and fits(beyond):
        found, beyond = beyond, 2 * beyond
    beyond = min(beyond, most + 1)
    while beyond - found > 1:
        middle = (found + beyond) // 2
        found, beyond = (middle, beyond) if fits(middle) else (found, middle)
    return found


class PackedRows(Batches):
    """Rows of packed items: "bos x eos" for one text, "bos a eos b eos" for two; no bos if the vocabulary has none.

    Attributes:
      block_rows: rows of a block.   block_size: numbers (or groups) of a block.
    """

    def __init__(
        self, source: Source, mixture: Mixture, form: Form, tokenizer: Tokenizer, rows: int, seed: int
    ) -> None:
        self.length, self.languages = form.length, source.languages
        self._form, self._rows, self._seed = form, rows, seed
        self._written = tokenizer.clone_table
        self._eos, self._pad = tokenizer.eos, tokenizer.pad or 0
        # What stands before the first text of every item.
        self._heading = (*([] if tokenizer.bos is None else [tokenizer.bos]), *form.before)
        # All blocks have as many rows as those whose items need the most, at any point of the mixture's schedule.
        constant = [source.drawn_by(phase) for phase in mixture.phases()] if mixture.changes else [source]
        self.block_size, self.block_rows, filled = self._fit(source) if source.whole_groups else self._measure(constant)
        # Sources count units, and the schedule counts rows.
        self._row_units = source.units * self.block_size / self.block_rows
        if mixture.changes:
            source = source.drawn_by(mixture.in_rows(lambda row: round(row * self._row_units)))
        self._source, self.lowered, units = source, source.rows.lowered, source.rows.ends
        self.changing = source.rows.changing
        # In the last block of rows, some units may lie beyond the end.
        self.ends = None if units is None else units // source.units // self.block_size * self.block_rows
        blocks = {"groups a step": self.block_size} if source.whole_groups else {"rows a block": self.block_rows}
        self.report = {**source.report, **blocks, "percent filled": round(100 * filled)}
        self.report |= {"groups by languages": dict(source.degrees)} if source.degrees else {}
        self._block = functools.lru_cache(maxsize=_KEPT)(self._make)

    def shares(self, row: int) -> dict[str, float]:
        """The share of each member of the units around a row."""
        return self._source.rows.shares(int(row * self._row_units))

    def drawn(self, number: np.ndarray) -> dict[str, int]:
        """Texts of each source and language in the units around rows `number` (B,) int64; {} for one source."""
        if not several_sources(self._source.tasks):
            return {}
        block, row = np.divmod(number, self.block_rows)
        found = []
        for name in np.unique(block).tolist():
            items, mine = self._source.block(name, self.block_size), row[block == name]
            # (B,) rows -> the items that a row of mean size holds, so that no block need be packed again.
            edges = np.stack([mine, mine + 1]) * len(items.store) // self.block_rows
            chosen = ranges(edges[0], edges[1] - edges[0])
            real = items.size[chosen] > 0
            found.append((items.store[chosen][real], items.language[chosen][real]))
        store, language = (np.concatenate(column) for column in zip(*found, strict=True))
        return by_source(self._source.tasks, self.languages, store, language)

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the batch of `rows` rows that begins at `first_row`.

        Returns:
          tokens, positions: (R, T) int32.
          segment_ids: (R, T) int32, segment s is slot s - 1; 0 is padding.
          token_language: (R, T) int32 index into `languages`, -1 at padding.
          types: (R, T) int32, only with language types: as token_language, 0 at padding.
          key_...: the same arrays of the second view, only for items of two views.
          targets: (R, T) int32, only with `Form.targets`: the next token of the same item.
          weights: (R, T) float32, only with `Form.targets`: 0 at an item's last token and at padding, and with
            `Form.second` also where the target belongs to the item's first text.
          group: (R, S, G) int32, only with `Form.groups`: -1 for free slots, texts in the order of the query.
          text, key_text: (R, S, G) uint32, only with `Form.groups`: hashes of the texts.
          count_texts, count_pairs, count_documents or count_windows: (R,) int32, units packed in the row.
          count_cut: (R,) int32, texts that were cut.
          count_dropped: (R,) int32, units of the block that did not fit; the first row of a block has them all.
        """
        # (R,) row numbers -> block and row within the block. Each block is made once and gives all its rows. A batch of
        # whole groups is one block, also where streams of other batch sizes share the rows.
        first_row -= first_row % self.block_rows if self._source.whole_groups else 0
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
        return items.size.sum(2) + items.ends.sum(2) + len(self._heading) + len(self._form.after)

    def _fit(self, source: Source) -> tuple[int, int, float]:
        """The groups that a batch holds, its rows, and the share that is filled.

        It is the largest number with which all items of each sampled batch fit; 0 = not even one group always fits.
        """

        def filled(groups: int) -> float:
            """The share of the rows that is filled; 0 if some items do not fit."""
            total = 0
            for block in range(_SAMPLE):
                sizes = self._sizes(source.block(block, groups))
                if pack(sizes, self._form.length, self._form.slots)[0].max() >= self._rows:
                    return 0.0
                total += sizes.sum()
            return total / (_SAMPLE * sizes.shape[1] * self._rows * self._form.length)

        fits = largest(lambda groups: filled(groups) > 0, source.report["groups"])
        return fits, self._rows, filled(fits) if fits else 0.0

    def _measure(self, sources: Sequence[Source]) -> tuple[int, int, float]:
        """The numbers of a block, the rows that hold nearly all items of each sampled one, and the filled share."""
        count, rows, sizes = 0, [], []
        # Where texts end after their epochs, later blocks hold other texts than the first ones.
        places = [
            (source, block)
            for source in sources
            for block in sorted({*range(_SAMPLE), *(source.rows.changes * BLOCK // ITEMS + 1).tolist()})
        ]
        for source, block in places:
            sizes.append(self._sizes(source.block(block, ITEMS)))
            rows.append(pack(sizes[-1], self._form.length, self._form.slots)[0])
            # (rows,): items that are left over if the block ends with this row.
            beyond = ITEMS - np.cumsum(np.bincount(rows[-1]))
            count = max(count, int(np.argmax(beyond <= LEFT_OVER * ITEMS)) + 1)
        # (I, V) sizes of all sampled items -> those that fit.
        size = np.concatenate(sizes)[np.concatenate(rows) < count]
        return ITEMS, count, size.sum() / (size.shape[1] * len(rows) * count * self._form.length)

    def _make(self, block: int) -> Batch:
        """All m rows of a block, read-only arrays (m, ..)."""
        items = self._source.block(block, self.block_size)
        row, slot, place = pack(self._sizes(items), self._form.length, self._form.slots)
        # Items beyond row m are dropped, with all items of their groups where groups are whole. The rows are shuffled,
        # because packing puts the longest items first.
        kept = row < self.block_rows
        if self._source.whole_groups:
            kept = ~np.isin(items.group[:, 0], items.group[~kept, 0])
        items = Items(*(column[kept] for column in items))
        shuffle = np.argsort(hash64(self._seed, "rows", block, np.arange(self.block_rows)))
        row, slot, place = shuffle[row[kept]], slot[kept], place[kept]
        views = items.size.shape[1]
        batch = self._view(items, 0, row, slot, place[:, 0])
        if views == 2:
            batch |= {f"key_{name}": array for name, array in self._view(items, 1, row, slot, place[:, 1]).items()}
        if self._form.targets:
            batch |= _targets(batch, self._pad, self._form.second)
        if self._form.groups:  # (I, G) ids of the items -> (m, S, G) by row and slot
            texts = {"group": items.group, "text": items.text[:, 0]}
            texts |= {"key_text": items.text[:, 1]} if views == 2 else {}
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

        A run is a text with its eos, if one follows. The first run of an item also has the bos and the form's `before`, the
        last one its `after`. The block's runs, N tokens in all, are built as flat columns (N,) and then written to their
        places in the rows.

        Args:
          row, slot, place: (I,) int64, where each item lies.
        """
        shape = self.block_rows, self._form.length
        size, ends, k = items.size[:, view], items.ends[:, view], items.k[:, view].ravel()
        # (I, P) lengths of runs and their starts within the item; (I * P,) lengths and starts in the flat columns.
        lead, tail = np.zeros_like(size), np.zeros_like(size)
        lead[:, 0], tail[:, -1] = len(self._heading), len(self._form.after)
        runs = lead + size + tail + ends
        within, run = np.cumsum(runs, 1) - runs, runs.ravel()
        before = np.cumsum(run) - run
        # (N,): each token's number within its run, and its flat place in the rows.
        inside = np.arange(run.sum()) - np.repeat(before, run)
        at = np.repeat(((row * shape[1] + place)[:, None] + within).ravel(), run) + inside
        # (N,) tokens: eos everywhere, then the texts, and what stands before and after the texts of each item.
        values = np.repeat(self._written[k, self._eos], run)
        texts, parts = before + lead.ravel(), size.shape[1]
        values[ranges(texts, size.ravel())] = self._read(items, view)
        first, last = slice(0, None, parts), slice(parts - 1, None, parts)
        for here, starts, ids in ((first, before, self._heading), (last, texts + size.ravel(), self._form.after)):
            for number, one in enumerate(ids):
                values[starts[here] + number] = self._written[k[here], one]
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


def _targets(batch: Batch, pad: int, second: bool) -> Batch:
    """targets (m, T) int32 and weights (m, T) float32 of a view: the next token, where it belongs to the same item.

    Args:
      second: only where the next token belongs to the item's second text. The item's texts have different languages.
    """
    segment, weights = batch["segment_ids"], np.zeros(batch["tokens"].shape, np.float32)
    chosen = (segment[:, :-1] == segment[:, 1:]) & (segment[:, 1:] > 0)
    if second:
        # (m, T): the column where each token's item begins -> the language there, which is the first text's.
        begins = np.diff(segment, axis=1, prepend=-1) != 0
        start = np.maximum.accumulate(np.where(begins, np.arange(segment.shape[1]), 0), axis=1)
        language = batch["token_language"]
        chosen &= (language != np.take_along_axis(language, start, axis=1))[:, 1:]
    weights[:, :-1] = chosen
    targets = np.full_like(batch["tokens"], pad)
    targets[:, :-1] = np.where(weights[:, :-1] > 0, batch["tokens"][:, 1:], pad)
    return {"targets": targets, "weights": weights}


def blank_rows(rows: int, form: Form, unit: str, views: int = 1) -> Batch:
    """The arrays that `PackedRows.batch` returns, with zeros in place of text. They take no memory.

    Args:
      unit: "texts", "pairs", "documents" or "windows".
      views: V of the items.
    """
    names = ["tokens", "positions", "segment_ids", "token_language", *(["types"] if form.language_types else [])]
    names += [f"key_{name}" for name in names] if views == 2 else []
    batch = {name: blank((rows, form.length), np.int32) for name in names}
    if form.targets:
        batch |= {"targets": blank((rows, form.length), np.int32), "weights": blank((rows, form.length), np.float32)}
    if form.groups:
        kinds = {"group": np.int32, "text": np.uint32} | ({"key_text": np.uint32} if views == 2 else {})
        batch |= {name: blank((rows, form.slots, form.groups), dtype) for name, dtype in kinds.items()}
    return batch | {f"count_{name}": blank((rows,), np.int32) for name in (unit, "cut", "dropped")}


def blank(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros of that shape and type that take no memory; they are read-only."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def ranges(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(sum of sizes,) int64: the ranges [start_i, start_i + size_i) one after another; `start` and `size` are (n,)."""
    return np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
