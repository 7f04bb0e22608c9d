"""The window feed: running text for a causal language model. This module also names all feeds for gin.

A feed's batches are pure functions of recipe, seed and row number: `batch(first_row, row_slice) -> arrays`. No iterator
state exists. Rows are numbered endlessly, and any slice of a batch equals the same rows of the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gin
import numpy as np

from xalign_jax.data.corpus import FACTS
from xalign_jax.data.feeds.codeswitch import COUNTS, Switch, Switched, Table, build_table, switch, unswitched
from xalign_jax.data.feeds.documents import GroupFeed, InterleavedFeed
from xalign_jax.data.feeds.members import Members, by_source, several_sources
from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed, reads
from xalign_jax.data.feeds.packing import Batch, blank
from xalign_jax.data.feeds.vectors import VectorFeed
from xalign_jax.data.feeds.words import PieceFeed, WordFeed
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Epochs
from xalign_jax.data.store.remote import take_windows
from xalign_jax.data.tokens.words import split_words
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batches, Feed
from xalign_jax.recipe import at_least_one, freeze

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.sampling.mixture import Mixture
    from xalign_jax.data.tokens.tokenizer import Tokenizer

__all__ = [
    "ContrastFeed",
    "GroupFeed",
    "InterleavedFeed",
    "PieceFeed",
    "Switch",
    "TextFeed",
    "TranslationFeed",
    "VectorFeed",
    "WindowFeed",
    "WordFeed",
]

_CHUNK = 1 << 17  # tokens that are worked on at a time, so that large batches need little memory


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WindowFeed(Feed):
    """Windows of running text for a causal language model, optionally with words switched in the input.

    Attributes:
      length: T, tokens of a row.
      switch: input-only code-switching (PreAlign, stage 2); None = off.
    """

    length: int = gin.REQUIRED
    switch: Switch | None = None

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length")

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        self._check_where(reads(self, mixture))
        if self.switch is not None and not lexicon:
            raise UserError("WindowFeed.switch needs Recipe.lexicon")

    @staticmethod
    def _check_where(mixture: Mixture) -> None:
        if mixture.where:
            raise UserError(
                "Mixture.where: a WindowFeed reads a task's text from end to end and cannot leave documents out; use a "
                "TextFeed, or write the documents into a file of their own"
            )

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> Windows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: the rates do not fit the mixture, a member has less text than one window, or there is no lexicon to
            switch with.
        """
        mixture = reads(self, mixture)
        self._check_where(mixture)
        members = corpus.members(mixture, split)
        # Rates are shares of rows, and all rows have the same length, so members count by their tokens.
        sizes = {member.name: member.size for member in members}
        text = {member.name: member.text for member in members}
        windows = {member.text: _windows_of(member.tokens, self.length) for member in members}
        used = Members(members, limited_rows(sizes, mixture, text, windows, only_explicit=(FACTS,)), seed)
        switching = _switching(self.switch, self.length, corpus, used)
        return Windows(self.length, rows, corpus.tokenizer, used, seed, switching)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        shape = (rows, self.length)
        batch = {name: blank(shape, np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
        batch |= {"weights": blank(shape, np.float32), "language": blank((rows,), np.int32)}
        return batch | {f"count_{name}": blank((rows,), np.int32) for name in COUNTS}


@dataclasses.dataclass(frozen=True)
class _Switching:
    """How the rows of M members are switched.

    Attributes:
      language: (M,) int64, each member's language in the table; -1 = its rows are not switched.
      slack: tokens that are read beyond a window.
    """

    config: Switch
    table: Table
    language: np.ndarray
    slack: int


def _switching(config: Switch | None, length: int, corpus: Corpus, members: Members) -> _Switching | None:
    """The switching that `config` asks for, None if it switches no word. Facts are switched like other source text."""
    if config is None:
        return None
    if corpus.lexicon is None:
        raise UserError("WindowFeed.switch needs Recipe.lexicon")
    table = build_table(corpus.lexicon.train, corpus.tokenizer, config.both_ways)
    if table is None or config.rate == 0:
        return None
    # Language of a member -> its number in the table; without `both_ways` only the source is switched.
    keyed = {name: i for i, name in enumerate(corpus.lexicon.languages) if i == 0 or config.both_ways}
    language = np.array([keyed.get(name, -1) for name in members.languages])[members.language]
    return _Switching(config, table, language, table.slack(length, config.rate))


class Windows(Batches):
    """Rows of T + 1 stored tokens. Each epoch takes all windows of a text in a new order and from a new offset.

    A language and its clones share one cursor: within an epoch no window comes twice, and none in two languages.
    """

    def __init__(
        self,
        length: int,
        rows: int,
        tokenizer: Tokenizer,
        members: Members,
        seed: int,
        switching: _Switching | None,
    ) -> None:
        self.length, self.languages = length, members.languages
        self._members, self._rows, self._seed, self._switching = members, rows, seed, switching
        # (S,) tokens of each store, room for its offset; (S + 1,) its first window; (C + 1,) first window of each text.
        self._sizes = np.array([len(tokens) for tokens in members.tokens])
        self._room, self._store_windows = _window_table(self._sizes, length)
        first = self._store_windows[members.arrays]
        self._epochs = Epochs(members.blocks(seed), first[:-1], np.diff(first), members.key)
        for member, windows in zip(members.texts, self._epochs.size, strict=True):
            if not windows:
                raise UserError(
                    f"Mixture.rates: {member.name!r} has {member.size} tokens, too few for one window of "
                    f"WindowFeed.length = {length} tokens; give it rate 0, more text or a shorter window"
                )
        self.lowered, self.ends, self.changing = members.rows.lowered, members.rows.ends, members.rows.changing
        self._written = tokenizer.clone_table
        self._eos, self._bos, self._pad = tokenizer.eos, tokenizer.bos, tokenizer.pad or 0

    def shares(self, row: int) -> dict[str, float]:
        """The share of each member of the rows around a row."""
        return self._members.rows.shares(row)

    def batch(self, first_row: int, row_slice: slice) -> Batch:
        """Rows `row_slice` of the batch of `rows` rows that begins at `first_row`.

        Returns:
          tokens, targets, positions: (B, T) int32.
          weights: (B, T) float32. A document's first target is predicted from bos; without bos its weight is 0.
          segment_ids: (B, T) int32, documents from 1; 0 is filled.
          language: (B,) int32 index into `languages`.
          count_words, count_drawn, count_switched, count_clipped, count_filled: (B,) int32, see `codeswitch.Switched`.
        """
        # (B,) row numbers and where each row's window lies; a few rows at a time become arrays.
        number = first_row + np.arange(*row_slice.indices(self._rows), dtype=np.int64)
        windows = (number, *self.windows(number))
        step = max(1, _CHUNK // self.length)
        cuts = range(0, max(1, len(number)), step)
        parts = [self._some_rows(*(column[at : at + step] for column in windows)) for at in cuts]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts[1:] else parts[0]

    def drawn(self, number: np.ndarray) -> dict[str, int]:
        """Rows of each source and language among rows `number` (B,) int64; {} for one source."""
        if not several_sources(self._members.tasks):
            return {}
        member, _, store, _ = self.windows(number)
        return by_source(self._members.tasks, self.languages, store, self._members.language[member])

    def windows(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Member, epoch, store (counted over all texts) and first token of rows (B,); each (B,) int64."""
        member, epoch, window, key = self._epochs.locate(number)
        # All windows of a store begin at multiples of T plus one offset, drawn from the store's room for this epoch.
        store = np.searchsorted(self._store_windows, window, side="right") - 1
        offset = hash64(key, "offset", store) % (self._room[store] + 1).astype(np.uint64)
        start = (window - self._store_windows[store]) * self.length + offset.astype(np.int64)
        return member, epoch, store, start

    def _some_rows(
        self, number: np.ndarray, member: np.ndarray, epoch: np.ndarray, store: np.ndarray, start: np.ndarray
    ) -> Batch:
        """The arrays of `batch` for rows whose windows are known; all arguments are (B,) int64."""
        # (B, T + 1 + slack) base ids -> ids as each row's clone writes them.
        slack = self._switching.slack if self._switching else 0
        base, valid = self._read(store, start, self.length + 1 + slack)
        k = self._members.k[member]
        tokens = base.astype(np.int32)
        for clone in np.unique(k[k > 0]).tolist():
            tokens[k == clone] = self._written[clone].take(base[k == clone])
        # (B, T + 1 + slack) -> (B, T + 1): switched and cut, or as it is.
        if self._switching:
            keys = hash64(self._seed, "switch", number, epoch)
            language = self._switching.language[member]
            found = switch(
                base, tokens, valid, keys, language, table=self._switching.table, config=self._switching.config,
                length=self.length + 1, pad=self._pad, starts=self._starts(base, store, start),
            )  # fmt: skip
        else:
            found = unswitched(tokens)
        batch = self._shift(found, k)
        # (B,) counts of switched words go with the rows.
        counts = {f"count_{name}": getattr(found, name) for name in COUNTS}
        return batch | {"language": self._members.language[member].astype(np.int32)} | counts

    def _read(self, store: np.ndarray, start: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) stores and places -> base ids (B, size), eos past the end of a store, and how many it had (B,)."""
        base = np.full((len(start), size), self._eos, self._members.tokens[0].dtype)
        valid = np.minimum(self._sizes[store] - start, size)
        for number in np.unique(store):
            tokens = self._members.tokens[number]
            # Rows that the store has whole are copied at once; the few at its end one by one.
            whole = np.flatnonzero((store == number) & (valid == size))
            if whole.size:
                base[whole] = take_windows(tokens, start[whole], size)
            for row in np.flatnonzero((store == number) & (valid < size)):
                base[row, : valid[row]] = tokens[start[row] :]
        return base, valid

    def _starts(self, base: np.ndarray, store: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """Which tokens of `_read` begin words, (B, L) bool; None if the vocabulary alone tells.

        Args:
          base: (B, L) base ids.   store, start: (B,).
        """
        if self._switching is None or all(starts is None for starts in self._members.starts):
            return None
        # Texts without the column (facts) are split by their pieces. Past the end of a store all is standalone.
        found, _ = split_words(self._switching.table.flags.take(base))
        for row, (number, first) in enumerate(zip(store.tolist(), start.tolist(), strict=True)):
            starts = self._members.starts[number]
            if starts is not None:
                own = starts[first : first + base.shape[1]]
                found[row, : len(own)] = own
        return found

    def _shift(self, found: Switched, k: np.ndarray) -> Batch:
        """(B, T + 1) -> decoder arrays (B, T): position t sees inputs up to t and predicts token t + 1.

        Documents are segments. An eos in the input is the border between two: it becomes the next document's bos.

        Args:
          k: (B,) int64, the clone that each row is written as.
        """
        eos = self._written[k, self._eos][:, None]
        # Inputs are the first T tokens, targets and weights the last T.
        inputs, targets, weights = (
            found.tokens[:, :-1],
            found.labels[:, 1:].copy(),
            found.weights[:, 1:].copy(),
        )
        border = inputs == eos
        if self._bos is None:
            inputs = inputs.copy()
            weights[border] = 0.0
        else:
            inputs = np.where(border, self._written[k, self._bos][:, None], inputs)
        batch = {"tokens": inputs, "targets": targets, "weights": weights}
        batch["positions"], batch["segment_ids"] = _segments(border)
        # A row with n < T + 1 tokens has n - 1 pairs of input and target; what follows is filled.
        for row in np.flatnonzero(found.length <= self.length):
            for key, array in batch.items():
                array[row, found.length[row] - 1 :] = self._pad if key in ("tokens", "targets") else 0
        return batch


def _segments(border: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions within segments, and segment numbers from 1, (B, T) int32 each.

    Args:
      border: (B, T) bool, True where a segment begins. The first column always begins one.
    """
    begins = border.copy()
    begins[:, 0] = True
    # (S,) segments of all rows: flat start, size, row. A segment's number counts from the first segment of its row.
    start = np.flatnonzero(begins).astype(np.int32)
    size = np.diff(start, append=np.int32(border.size))
    row, column = np.divmod(start, np.int32(border.shape[1]))
    number = np.arange(1, len(start) + 1, dtype=np.int32) - np.flatnonzero(column == 0).astype(np.int32)[row]
    # (S,) -> (B * T,): every token has its segment's number, and its distance from the segment's start.
    positions = np.arange(border.size, dtype=np.int32) - np.repeat(start, size)
    return positions.reshape(border.shape), np.repeat(number, size).reshape(border.shape)


def _windows_of(tokens: Sequence[np.ndarray], length: int) -> int:
    """The windows of a text, which lies in several arrays of tokens (N,)."""
    return int(_window_table(np.array([len(array) for array in tokens], np.int64), length)[1][-1])


def _window_table(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of stores of `sizes` (S,) tokens: room for their offset (S,), and each one's first window (S + 1,).

    A store of N tokens has (N - 1) // T windows. If there are two or more, one is given up, so that all windows can
    begin up to T - 1 tokens later.
    """
    fit = np.maximum(sizes - 1, 0) // length
    windows = np.where(fit > 1, fit - 1, fit)
    room = np.clip(sizes - 1 - windows * length, 0, length - 1)
    return room, np.concatenate([[0], np.cumsum(windows)])
