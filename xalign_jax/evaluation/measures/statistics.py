"""Intervals by bootstrap, and the correlation of a measure with a table of outside scores.

Every draw is a pure function of the seed. N are the units that are drawn with replacement, such as sentence pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats

from xalign_jax.alignment import checked

METHODS = ("pearson", "spearman")
COUNTS_AT_ONCE = 2**24  # numbers of drawn units that are held together, 128 MiB


class Estimate(NamedTuple):
    """A value with its bootstrap interval.

    Attributes:
      value: computed from all units.
      low, high: quantiles of the bootstrap (percentile method).
      n: units.
    """

    value: float
    low: float
    high: float
    n: int


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, *, seed: int, draws: int = 1000, level: float = 0.95
) -> Estimate:
    """sum(numerator) / sum(denominator) over N units, with an interval from resampling units.

    The sums are taken over the corpus, not averaged by unit. So 1 - ratio is AER if the columns hold the link counts of
    each sentence, and the ratio is information parity if they hold losses.

    Args:
      numerator, denominator: (N,) of any unit.
      seed: decides the draws.
      draws: resampled corpora.
      level: share of draws inside the interval.

    Raises:
      UserError: fewer than two units, columns of unequal length, or a denominator whose sum is 0.
    """
    top = checked.column("bootstrap", "numerator", numerator)
    bottom = checked.column("bootstrap", "denominator", denominator, len(top))
    _check("bootstrap", len(top), draws, level)
    if not bottom.sum():
        checked.refuse("bootstrap", "the denominators sum to 0, so there is no ratio")
    values = np.empty(draws)
    rng = np.random.default_rng(seed)
    at_once = max(1, COUNTS_AT_ONCE // len(top))
    for start in range(0, draws, at_once):
        # (draws,N) units that each draw takes, then two sums for each draw.
        taken = rng.integers(len(top), size=(min(at_once, draws - start), len(top)))
        below = bottom[taken].sum(1)
        # A draw of units whose denominators are all 0 has no ratio and takes no part.
        values[start : start + len(taken)] = top[taken].sum(1) / np.where(below, below, np.nan)
    return _estimate(top.sum() / bottom.sum(), values, level, len(top))


def bootstrap_mean(values: np.ndarray, *, seed: int, draws: int = 1000, level: float = 0.95) -> Estimate:
    """The mean of N values with its bootstrap interval; arguments and errors are those of `bootstrap_ratio`."""
    return bootstrap_ratio(values, np.ones(np.shape(values)), seed=seed, draws=draws, level=level)


def interval_of_mean(units: np.ndarray, *, seed: int) -> tuple[float | None, float | None]:
    """The ends of the mean's interval of 95 % (`bootstrap_mean`); (None, None) for fewer than two units."""
    if len(units) < 2:
        return None, None
    estimate = bootstrap_mean(units, seed=seed)
    return estimate.low, estimate.high


def correlation(
    measure: np.ndarray,
    outside: np.ndarray,
    *,
    seed: int,
    method: str = "pearson",
    draws: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Correlation of a measure with outside scores over N languages (or models), with a bootstrap interval.

    Pearson's r = cov(a,b) / (sd(a) sd(b)); Spearman's is Pearson's r of ranks, where equals share their mean rank. Ranks
    are computed anew in every draw. Draws in which a side is constant take no part.

    Args:
      measure, outside: (N,) of any unit; row i of both belongs to language i.

    Raises:
      UserError: fewer than four rows, columns of unequal length, or a constant column.
    """
    checked.choice("correlation", "method", method, METHODS)
    a = checked.column("correlation", "measure", measure)
    b = checked.column("correlation", "outside", outside, len(a))
    _check("correlation", len(a), draws, level, least=4)
    for name, side in (("measure", a), ("outside", b)):
        if np.ptp(side) == 0:
            checked.refuse("correlation", f"all values of {name} are equal, so nothing correlates with them")
    taken = np.random.default_rng(seed).integers(len(a), size=(draws, len(a)))
    value = _correlations(a[None], b[None], method)[0]
    return _estimate(value, _correlations(a[taken], b[taken], method), level, len(a))


def _correlations(a: np.ndarray, b: np.ndarray, method: str) -> np.ndarray:
    """(draws,) correlations of two (draws,N); NaN where a side is constant."""
    if method == "spearman":
        a, b = scipy.stats.rankdata(a, axis=1), scipy.stats.rankdata(b, axis=1)
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    below = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(constant, np.nan, below)


def _check(caller: str, n: int, draws: int, level: float, least: int = 2) -> None:
    if n < least:
        checked.refuse(caller, f"{n} rows; at least {least} are needed")
    checked.between(caller, "draws", draws, 1)
    checked.between(caller, "level", level, 0, 1)


def _estimate(value: float, draws: np.ndarray, level: float, n: int) -> Estimate:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), n)
