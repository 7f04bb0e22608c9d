"""Mixture arithmetic: which row belongs to which member, and which item it holds, in closed form.

Rows come in blocks of 1,000. Every block holds the same number of rows of each member (by largest remainder), in an
order that hash(seed, block) selects. Members that share a cursor, as a language and its clones do, take successive
items of it. So within an epoch no item goes to two of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xalign_jax.data.sampling.hashing import hash64, permute
from xalign_jax.errors import UserError

BLOCK = 1000


def check_rates(explicit: Sequence[tuple[str, float]]) -> None:
    """Check the rates of a mixture without knowing its members.

    Raises:
      UserError: a rate is negative, the rates sum to 0, a member is named twice, or a rate is below one row in 1,000.
    """
    rates = dict(explicit)
    if len(rates) < len(explicit):
        raise UserError(f"Mixture.rates = {explicit!r}: names a member twice")
    for name, rate in rates.items():
        if not (np.isfinite(rate) and rate >= 0):
            raise UserError(f"Mixture.rates gives {name!r} the rate {rate}; rates are numbers >= 0")
    total = sum(rates.values())
    if not 0 < total < np.inf:
        raise UserError(f"Mixture.rates sum to {total}; give some member a rate greater than 0")
    block_counts({name: rate / total for name, rate in rates.items()}, explicit=True)


def member_rates(
    tokens: Mapping[str, int],
    explicit: Sequence[tuple[str, float]],
    alpha: float,
    only_explicit: Sequence[str] = (),
) -> dict[str, float]:
    """Rates of a mixture's members, summing to 1.

    Args:
      tokens: member -> number of tokens (or of other units) that its text has.
      explicit: `Mixture.rates` as (member, rate) pairs, see `check_rates`. Members that it does not name have rate 0.
        If it is empty, rates are proportional to tokens^alpha.
      alpha: 1 proportional, 0 uniform (Conneau et al. 2020, section 3.1, use 0.3).
      only_explicit: members that join only when `explicit` names them.
    Raises:
      UserError: a member is unknown, a member without text has a rate, or no member has text.
    """
    known = ", ".join(tokens) or "none"
    if explicit:
        # Given rates are taken as they are; otherwise only members with text take part.
        rates = {name: float(rate) for name, rate in explicit}
        unknown = [name for name in rates if name not in tokens]
        if unknown:
            raise UserError(f"Mixture.rates names {unknown[0]!r}, which this mixture lacks; members: {known}")
    else:
        rates = {name: float(n) ** alpha for name, n in tokens.items() if n and name not in only_explicit}
    total = sum(rates.values())
    if not total > 0:
        raise UserError(f"Mixture.rates: no member of the mixture has text; members: {known}")
    empty = [name for name, rate in rates.items() if rate and not tokens[name]]
    if empty:
        raise UserError(f"Mixture.rates gives {empty[0]!r} a rate, but it has no text; remove it or add text")
    return {name: rates.get(name, 0.0) / total for name in tokens}


def block_counts(rates: Mapping[str, float], explicit: bool) -> np.ndarray:
    """(M,) int64: rows of each member in a block of 1,000, by largest remainder; of equal ones the earlier member wins.

    A rate that follows from texts and alpha (not `explicit`) gives at least one row. The other members give up that row
    in proportion to their shares.

    Raises:
      UserError: an explicit positive rate is too small for one row in 1,000, or there are more than 1,000 members.
    """
    if sum(rate > 0 for rate in rates.values()) > BLOCK:
        raise UserError(f"Mixture: more than {BLOCK} members; bind Mixture.languages or Mixture.tasks to fewer")
    # (M,) exact rows of the members that are not raised: what the raised ones leave, by their shares.
    share = np.array(list(rates.values()), np.float64)
    single = np.zeros(len(share), bool)  # members that are raised to one row
    # Raising a member takes rows from the others and may leave another one without, so repeat until none lacks a row.
    while True:
        others = np.where(single, 0.0, share)
        counts = single + _largest_remainder(others * ((BLOCK - single.sum()) / others.sum()))
        lacking = (share > 0) & (counts == 0)
        if not lacking.any():
            return counts
        if explicit:
            name = list(rates)[lacking.argmax()]
            raise UserError(
                f"Mixture.rates gives {name!r} {rates[name]:.2g}: less than one row in {BLOCK}; "
                "raise it or leave it out"
            )
        single |= lacking


def member_counts(
    tokens: Mapping[str, int],
    explicit: Sequence[tuple[str, float]],
    alpha: float,
    only_explicit: Sequence[str] = (),
) -> dict[str, int]:
    """Rows of each member in a block of 1,000; members of rate 0 are left out.

    Arguments are as for `member_rates`. It raises the errors of `member_rates` and of `block_counts`.
    """
    rates = {name: rate for name, rate in member_rates(tokens, explicit, alpha, only_explicit).items() if rate > 0}
    return dict(zip(rates, block_counts(rates, explicit=bool(explicit)).tolist(), strict=True))


def _largest_remainder(exact: np.ndarray) -> np.ndarray:
    """(M,) float64 with a whole sum -> (M,) int64 with the same sum, each entry rounded up or down."""
    # Round down (a rounding error below a whole number does not count), then add 1 to the largest remainders.
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: round(exact.sum()) - counts.sum()]] += 1
    return counts


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Row -> member, and how many rows have read the member's cursor before.

    Attributes:
      counts: (M,) int64, rows of each member in a block; they sum to BLOCK.
      cursor: (M,) int64, the number of the cursor that each member reads, from 0.
      seed: selects the order of the members in each block.
    """

    counts: np.ndarray
    cursor: np.ndarray
    seed: int

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Member and index in that member's cursor, (B,) int64 each, of rows (B,) int64 >= 0.

        Within a block a cursor's indices rise with the row, so an item comes again only when all others have come.
        """
        # (B,) rows -> N distinct blocks; slot (N,1000): a random order of the block's entries; member (N,1000).
        blocks, which = np.unique(rows // BLOCK, return_inverse=True)
        slot = np.argsort(hash64(self.seed, "block", blocks[:, None], np.arange(BLOCK)), axis=1)
        member = np.repeat(np.arange(len(self.counts)), self.counts)[slot]
        # (N,1000) the cursor of each row; (C,) rows of each cursor in a block, and its first one after sorting.
        owner = self.cursor[member]
        width = np.bincount(self.cursor, weights=self.counts).astype(np.int64)
        first = np.cumsum(width) - width
        # rank (N,1000): the row's place among the block's rows sorted by cursor; less the cursor's first place, it is
        # the number of earlier rows of the same cursor.
        order = np.argsort(owner, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(BLOCK)[None], axis=1)
        index = blocks[:, None] * width[owner] + rank - first[owner]
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
