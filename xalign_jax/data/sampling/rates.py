"""Shares of a mixture's members, and the whole rows of each member that a block of 1,000 rows holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xalign_jax.errors import UserError

BLOCK = 1000


def check_rates(explicit: Sequence[tuple[str, float]], where: str = "") -> None:
    """Check the rates of a mixture without knowing its members.

    Args:
      where: is said behind "Mixture.rates", such as " at step 100".

    Raises:
      UserError: a rate is negative, the rates sum to 0, a member is named twice, or a rate is below one row in 1,000.
    """
    rates = dict(explicit)
    if len(rates) < len(explicit):
        raise UserError(f"Mixture.rates{where} = {explicit!r}: names a member twice")
    for name, rate in rates.items():
        if not (np.isfinite(rate) and rate >= 0):
            raise UserError(f"Mixture.rates{where} gives {name!r} the rate {rate}; rates are numbers >= 0")
    total = sum(rates.values())
    if not 0 < total < np.inf:
        raise UserError(f"Mixture.rates{where} sum to {total}; give some member a rate greater than 0")
    block_counts({name: rate / total for name, rate in rates.items()}, explicit=True, where=where)


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
        "SOURCE:*" stands for the members of that source that it does not name, in proportion to their tokens. If it is
        empty, rates are proportional to tokens^alpha.
      alpha: 1 proportional, 0 uniform (Conneau et al. 2020, section 3.1, use 0.3).
      only_explicit: members that join only when `explicit` names them.
    Raises:
      UserError: a member is unknown, a member without text has a rate, or no member has text.
    """
    known = ", ".join(tokens) or "none"
    if explicit:
        # Given rates are taken as they are; otherwise only members with text take part.
        rates = _spread({name: float(rate) for name, rate in explicit}, tokens)
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


def _spread(rates: dict[str, float], tokens: Mapping[str, int]) -> dict[str, float]:
    """Rates with each "SOURCE:*" divided among its members, by their tokens. One without members stays as it is."""
    found = {name: rate for name, rate in rates.items() if not name.endswith(":*")}
    for name in rates.keys() - found.keys():
        mine = [one for one in tokens if one.startswith(name[:-1]) and one not in rates and tokens[one]]
        total = sum(tokens[one] for one in mine)
        found |= {one: rates[name] * tokens[one] / total for one in mine} if mine else {name: rates[name]}
    return found


def block_counts(rates: Mapping[str, float], explicit: bool, where: str = "") -> np.ndarray:
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
        counts = single + largest_remainder(others * ((BLOCK - single.sum()) / others.sum()))
        lacking = (share > 0) & (counts == 0)
        if not lacking.any():
            return counts
        if explicit:
            name = list(rates)[lacking.argmax()]
            raise UserError(
                f"Mixture.rates{where} gives {name!r} {rates[name]:.2g}: less than one row in {BLOCK}; "
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


def capped(rates: np.ndarray, sizes: np.ndarray, cap: float) -> np.ndarray:
    """Rates (M,) of which none is more than `cap` times the member's share of the text.

    The other members get the rest in proportion to their rates, none of them more than its own cap allows.

    Args:
      sizes: (M,) tokens of each member; 0 = the member keeps its rate.
      cap: at least 1, so that the caps of all members leave no row without a member.
    """
    free = (rates > 0) & (sizes > 0)
    budget = rates[free].sum()
    limit = np.where(free, cap * budget * sizes / max(sizes[free].sum(), 1), rates)
    full = ~free  # members that have what they may have at most
    # Giving the rest to the others may lift another one above its limit, so repeat until none is.
    while True:
        rest = ~full
        found = np.where(full, limit, rates)
        if rest.any():
            found[rest] *= (budget - limit[full & free].sum()) / rates[rest].sum()
        over = rest & (found > limit * (1 + 1e-12))
        if not over.any():
            return found
        full |= over


def largest_remainder(exact: np.ndarray) -> np.ndarray:
    """(M,) float64 with a whole sum -> (M,) int64 with the same sum, each entry rounded up or down."""
    # Round down (a rounding error below a whole number does not count), then add 1 to the largest remainders.
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: round(exact.sum()) - counts.sum()]] += 1
    return counts
