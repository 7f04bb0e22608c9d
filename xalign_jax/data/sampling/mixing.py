"""Mixture arithmetic: which row belongs to which member, and which item it holds, in closed form.

Rows come in blocks of 1,000. A block holds so many rows of each member (by largest remainder), in an order that
hash(seed, block) selects. Members that share a cursor, as a language and its clones do, take successive items of it. So
within an epoch no item goes to two of them.

Where rates are constant, all blocks hold the same numbers. Where they change, a table says how many rows of each member
the blocks of each stretch hold. A stretch of many blocks is one line of the table, so a far row costs no more than the
first.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xalign_jax.data.sampling.hashing import hash64, permute
from xalign_jax.data.sampling.rates import BLOCK, block_counts, capped, largest_remainder, member_rates
from xalign_jax.data.sampling.schedules import Points, phases

if TYPE_CHECKING:
    from xalign_jax.data.sampling.mixture import Mixture

_STRETCHES = 1000  # most stretches between two points: a finer change would move less than one row of a block


@dataclasses.dataclass(frozen=True)
class MemberRows:
    """How many rows of each of M members the blocks hold.

    Attributes:
      names: the members that have rows in any block.
      start: (P,) int64, the first block of each stretch; the first is 0, and the last stretch does not end.
      counts: (P, M) int64, rows of each member in each block of a stretch; lines sum to BLOCK.
      lowered: a part of a sentence for each member whose rate `Mixture.cap` lowers.
      ends: the first row for which `Mixture.epochs` leaves no text; None if there always is some.
      changes: (N,) int64, the blocks from which a text has no more rows because of `Mixture.epochs`.
    """

    names: tuple[str, ...]
    start: np.ndarray
    counts: np.ndarray
    lowered: tuple[str, ...] = ()
    ends: int | None = None
    changes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def changing(self) -> bool:
        """The blocks do not all hold the same rows."""
        return len(self.start) > 1

    def shares(self, row: int) -> dict[str, float]:
        """The share of each member in the block of a row."""
        stretch = np.searchsorted(self.start, row // BLOCK, side="right") - 1
        return dict(zip(self.names, (self.counts[stretch] / BLOCK).tolist(), strict=True))


def member_rows(sizes: Mapping[str, int], mixture: Mixture, only_explicit: Sequence[str] = ()) -> MemberRows:
    """The rows of each member of a mixture, whose points count rows.

    Args:
      sizes: member -> number of tokens (or of other units) that its text has.
      only_explicit: members that join only when `Mixture.rates` names them, and that have no cap.
    Raises:
      UserError: as `member_rates` and `block_counts`.
    """
    course = _Course(sizes, mixture, only_explicit)
    # Members with rows at any point take part; elsewhere no other member has a rate.
    drawn = np.flatnonzero(course.at_points.any(axis=0))
    names = tuple(np.array(list(sizes))[drawn].tolist())
    # Raising small rates to one row is for rates that follow from sizes: by alpha, by a cap, or within a source.
    explicit = course.explicit and mixture.cap is None and not any(name.endswith(":*") for name in mixture.named)
    start, counts = [], []
    for first, last, steady in _stretches(course):
        if steady:
            rates = dict(zip(names, course.at(first * BLOCK)[drawn].tolist(), strict=True))
            start.append(first)
            counts.append(block_counts(rates, explicit))
            continue
        # (M,) rows by which the stretches so far fall short of the exact rates. The next stretch makes them up, so that
        # totals stay within a row of the exact ones where each block is a stretch.
        owed = np.zeros(len(names))
        cuts = np.unique(np.linspace(first, last, min(last - first, _STRETCHES) + 1).round().astype(np.int64))
        for here, there in itertools.pairwise(cuts.tolist()):
            share = course.mean(here * BLOCK, there * BLOCK)[drawn]
            start.append(here)
            if not course.explicit:
                counts.append(block_counts(dict(zip(names, share.tolist(), strict=True)), explicit=False))
                continue
            due = np.maximum(share * BLOCK + owed / (there - here), 0.0)
            counts.append(largest_remainder(due * (BLOCK / due.sum())))
            owed += (share * BLOCK - counts[-1]) * (there - here)
    return MemberRows(names, np.array(start, np.int64), np.stack(counts), course.lowered)


class _Course:
    """The exact rates of a mixture's members at any row.

    Attributes:
      explicit: `Mixture.rates` gives them, and not the sizes.
      starts: (K,) the rows of the points.
      linear: rates change between points.
      at_points: (K, M) rates at the points.
      lowered: as `MemberRows.lowered`.
    """

    def __init__(self, sizes: Mapping[str, int], mixture: Mixture, only_explicit: Sequence[str]) -> None:
        self._tokens, self._cap, self._only_explicit = sizes, mixture.cap, only_explicit
        self.explicit = mixture.rates != ()
        schedule = mixture.rates if self.explicit else mixture.alpha
        points = phases(schedule)
        self.starts = np.array([row for row, _ in points], np.int64)
        self.linear = isinstance(schedule, Points) and schedule.linear
        # (K, M) rates of each point, normalised before anything lies between two of them; or (K, 1) exponents.
        values = [self._of(value) if self.explicit else np.array([value], np.float64) for _, value in points]
        self._values = np.stack(values)
        asked = [value if self.explicit else self._of(value[0]) for value in values]
        self.at_points = np.stack([self._limit(rates) for rates in asked])
        self.lowered = self._compare(np.stack(asked))

    def at(self, row: float) -> np.ndarray:
        """(M,) rates at a row, summing to 1."""
        k = int(np.searchsorted(self.starts, row, side="right")) - 1
        value = self._values[k]
        if self.linear and k + 1 < len(self.starts):
            part = (row - self.starts[k]) / (self.starts[k + 1] - self.starts[k])
            value = value + part * (self._values[k + 1] - value)
        return self._limit(value if self.explicit else self._of(value[0]))

    def mean(self, first: int, last: int) -> np.ndarray:
        """(M,) mean rates of rows first to last - 1. Between two points, the middle row stands for all."""
        inside = self.starts[(self.starts > first) & (self.starts < last)].tolist()
        parts = list(itertools.pairwise([first, *inside, last]))
        return sum(((b - a) * self.at((a + b) / 2) for a, b in parts), np.zeros(len(self._tokens))) / (last - first)

    def _of(self, value: Sequence[tuple[str, float]] | float) -> np.ndarray:
        """(M,) rates of an exponent, or of given rates."""
        given = (value, 1.0) if self.explicit else ((), float(value))  # type: ignore[arg-type]
        return np.array(list(member_rates(self._tokens, *given, self._only_explicit).values()))  # type: ignore[arg-type]

    def _limit(self, rates: np.ndarray) -> np.ndarray:
        """(M,) rates with `Mixture.cap`."""
        if self._cap is None:
            return rates
        size = np.array([0 if name in self._only_explicit else n for name, n in self._tokens.items()], np.float64)
        return capped(rates, size, self._cap)

    def _compare(self, asked: np.ndarray) -> tuple[str, ...]:
        """What the cap does to the rates (K, M), a phrase for each member that it lowers, at the point of most effect."""
        less = asked - self.at_points
        point = less.argmax(axis=0)
        return tuple(
            f"{name} from {asked[k, m]:.1%} to {self.at_points[k, m]:.1%}"
            for m, (name, k) in enumerate(zip(self._tokens, point.tolist(), strict=True))
            if less[k, m] > 5e-4
        )


def _stretches(course: _Course) -> list[tuple[int, int, bool]]:
    """(first block, last block + 1, whether all their rows have equal rates); the last goes on without end."""
    # A point within a block gets a stretch of that one block.
    edges = sorted({0, *(course.starts // BLOCK).tolist(), *(-(-course.starts // BLOCK)).tolist()})
    found = []
    for first, last in itertools.pairwise(edges):
        inside = (course.starts > first * BLOCK) & (course.starts < last * BLOCK)
        k = int(np.searchsorted(course.starts, first * BLOCK, side="right")) - 1
        level = not course.linear or np.array_equal(course.at_points[k], course.at_points[k + 1])
        found.append((first, last, level and not inside.any()))
    return [*found, (edges[-1], edges[-1] + 1, True)]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Row -> member, and how many rows have read the member's cursor before.

    Attributes:
      counts: (M,) int64, rows of each member in a block; they sum to BLOCK. Or (P, M), as `MemberRows.counts`.
      cursor: (M,) int64, the number of the cursor that each member reads, from 0.
      seed: selects the order of the members in each block.
      start: (P,) int64, the first block of each stretch.
    """

    counts: np.ndarray
    cursor: np.ndarray
    seed: int
    start: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))

    @functools.cached_property
    def _widths(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, C) int64 each: rows of each cursor in a block of the stretch, and in all blocks before the stretch."""
        counts = np.atleast_2d(self.counts)
        width = np.stack([np.bincount(self.cursor, weights=line).astype(np.int64) for line in counts])
        rows = width[:-1] * np.diff(self.start)[:, None]
        return width, np.concatenate([np.zeros_like(width[:1]), np.cumsum(rows, axis=0)])

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Member and index in that member's cursor, (B,) int64 each, of rows (B,) int64 >= 0.

        Within a block a cursor's indices rise with the row, so an item comes again only when all others have come.
        """
        # (B,) rows -> N distinct blocks; slot (N,1000): a random order of the block's entries; stretch (N,).
        blocks, which = np.unique(rows // BLOCK, return_inverse=True)
        slot = np.argsort(hash64(self.seed, "block", blocks[:, None], np.arange(BLOCK)), axis=1)
        stretch = np.searchsorted(self.start, blocks, side="right") - 1
        # member (N,1000): each block's members one after another, so many times as it holds them, then in its order.
        counts = np.atleast_2d(self.counts)[stretch]
        members = np.tile(np.arange(counts.shape[1]), len(blocks))
        member = np.take_along_axis(np.repeat(members, counts.ravel()).reshape(slot.shape), slot, axis=1)
        # (N,1000) the cursor of each row; (N,C) rows of each cursor in the block, in all blocks before it, and its
        # first row after sorting.
        owner = self.cursor[member]
        width, before = (table[stretch] for table in self._widths)
        before = before + (blocks - self.start[stretch])[:, None] * width
        first = np.cumsum(width, axis=1) - width
        # rank (N,1000): the row's place among the block's rows sorted by cursor; less the cursor's first place, it is
        # the number of earlier rows of the same cursor.
        order = np.argsort(owner, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(BLOCK)[None], axis=1)
        index = np.take_along_axis(before - first, owner, axis=1) + rank
        at = which, rows % BLOCK
        return member[at], index[at]


class Located(NamedTuple):
    """Where B rows lie.

    Attributes:
      member: (B,) int64.
      epoch: (B,) int64, how often the row's cursor has been read to its end before.
      item: (B,) int64, the row's item.
      key: (B,) uint64, the key of this epoch of the cursor.
    """

    member: np.ndarray
    epoch: np.ndarray
    item: np.ndarray
    key: np.ndarray


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Row -> item. Each of C cursors reads its items again and again, in another order every epoch.

    Attributes:
      blocks: which cursor a row reads.
      first: (C,) int64, the number of each cursor's first item.
      size: (C,) int64, how many items it has.
      key: (C,) uint64, selects the orders.
    """

    blocks: Blocks
    first: np.ndarray
    size: np.ndarray
    key: np.ndarray

    def locate(self, rows: np.ndarray) -> Located:
        """The items of rows (B,) int64 >= 0."""
        member, index = self.blocks.locate(rows)
        cursor = self.blocks.cursor[member]
        epoch, index = np.divmod(index, self.size[cursor])
        key = hash64(self.key[cursor], epoch)
        return Located(member, epoch, self.first[cursor] + permute(index, self.size[cursor], key), key)

    def with_rows(self, names: tuple[str, ...], rows: MemberRows) -> Epochs:
        """The same epochs, whose members `names` have other numbers of rows; those that `rows` lacks have none."""
        counts = np.zeros((len(rows.start), len(names)), np.int64)
        counts[:, [names.index(name) for name in rows.names]] = rows.counts
        return dataclasses.replace(self, blocks=dataclasses.replace(self.blocks, counts=counts, start=rows.start))
