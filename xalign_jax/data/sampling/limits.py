"""A limit of epochs: texts that have been read often enough have no more rows, and other texts get their places.

The table of rows is worked out once, from rates and sizes alone. It does not depend on the length of the run. So a run
that is extended goes on with the rows that a longer run would have read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from xalign_jax.data.sampling.mixing import MemberRows, member_rows
from xalign_jax.data.sampling.rates import BLOCK, largest_remainder
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.data.sampling.mixture import Mixture

_ENDLESS = 1 << 62  # rows of a text without a limit


def limited_rows(
    sizes: Mapping[str, int],
    mixture: Mixture,
    text: Mapping[str, str],
    items: Mapping[str, int],
    only_explicit: Sequence[str] = (),
) -> MemberRows:
    """`member_rows` with the limit of `Mixture.epochs`.

    Args:
      sizes, only_explicit: as for `member_rows`. Members of `only_explicit` have no limit.
      text: member -> the text that it reads; members of one text, such as a language and its clones, share its epochs.
      items: text -> the rows of one epoch.
    Raises:
      UserError: as `member_rows`, or `Mixture.epochs` names a text that the mixture lacks.
    """
    rows = member_rows(sizes, mixture, only_explicit)
    if mixture.epochs is None:
        return rows
    texts = list(dict.fromkeys(one for name, one in text.items() if name not in only_explicit))
    limits: dict[str, float] = {}
    for name, epochs in mixture.limits.items():
        # "" stands for all texts, and "SOURCE:*" for all texts of a source.
        of = [one for one in texts if name in ("", one) or (name.endswith(":*") and one.startswith(name[:-1]))]
        if not of:
            raise UserError(
                f"Mixture.epochs names {name!r}, which is no text of this mixture; texts: {', '.join(texts)}"
            )
        limits |= dict.fromkeys(of, epochs)
    return _limited(rows, text, items, limits, only_explicit)


def _limited(
    rows: MemberRows,
    text: Mapping[str, str],
    items: Mapping[str, int],
    limits: Mapping[str, float],
    beside: Sequence[str],
) -> MemberRows:
    """The rows with at most `limits` epochs of each text.

    A text is read exactly as often as it may: in the block in which it ends, it gets the rows that are left to it. From
    then on its members have no rows. The others get these rows in proportion to their own.

    Args:
      beside: texts that are no reason to go on when all others have ended.
    """
    texts = list(dict.fromkeys(text[name] for name in rows.names))
    cursor = np.array([texts.index(text[name]) for name in rows.names])
    beside_it = np.array([name in beside for name in rows.names])
    # (C,) int64 rows that are left to each text.
    left = np.array([int(limits[one] * items[one]) if one in limits else _ENDLESS for one in texts], np.int64)
    bounded = left < _ENDLESS
    start: list[int] = []
    counts: list[np.ndarray] = []
    changes: list[int] = []
    for line, first in enumerate(rows.start.tolist()):
        last = int(rows.start[line + 1]) if line + 1 < len(rows.start) else _ENDLESS
        while first < last:
            found = _block(rows.counts[line], cursor, left, beside_it)
            if found is None:
                # Rows from here on are never read; the table needs a line nevertheless.
                start, counts = start or [0], counts or [rows.counts[line]]
                return _with_table(rows, start, counts, changes, first * BLOCK)
            start.append(first)
            counts.append(found)
            # (C,) rows of each text in the block -> as many such blocks as all texts have room for, at least this one.
            width = np.bincount(cursor, found, len(texts)).astype(np.int64)
            read = bounded & (width > 0)
            blocks = min(last - first, int((left[read] // width[read]).min(initial=_ENDLESS)))
            left = np.where(bounded, left - blocks * width, left)
            first += blocks
            changes += [first] if (read & (left == 0)).any() else []
    return _with_table(rows, start, counts, changes, None)


def _with_table(
    rows: MemberRows, start: list[int], counts: list[np.ndarray], changes: list[int], ends: int | None
) -> MemberRows:
    """The rows with another table."""
    blocks, later = np.array(start, np.int64), np.array(changes, np.int64)
    return dataclasses.replace(rows, start=blocks, counts=np.stack(counts), changes=later, ends=ends)


def _block(counts: np.ndarray, cursor: np.ndarray, left: np.ndarray, beside: np.ndarray) -> np.ndarray | None:
    """(M,) rows of the next block, where members would have `counts` (M,) rows without limits; None if text is out.

    Args:
      left: (C,) rows that are left to each text.   beside: (M,) bool, members that do not stand in for others.
    """
    share = np.where(left[cursor] > 0, counts, 0).astype(np.float64)
    # Texts that end in this block get what is left to them. That gives the others more, so that another one may end.
    full = np.zeros(len(left), bool)
    while True:
        free = ~full[cursor] & (share > 0)
        room = BLOCK - int(left[full].sum())
        if not free.any() or (not (free & ~beside).any() and counts[~beside].any()):
            return None
        exact = np.where(free, share, 0.0)
        found = largest_remainder(exact * (room / exact.sum()))
        over = ~full & (np.bincount(cursor, found, len(left)) > left)
        if not over.any():
            break
        full |= over
    for one in np.flatnonzero(full):
        mine = np.where(cursor == one, share, 0.0)
        found += largest_remainder(mine * (left[one] / mine.sum()))
    return found
