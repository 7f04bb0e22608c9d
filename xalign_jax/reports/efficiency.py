"""Token efficiency: how much text of a language alone would have given the perplexity that a mixture gave it.

Runs on one language alone give the curve 1 / PPL = c - a x^-b, where x is the text that they read (Schäfer et al. 2024,
"Language Imbalance Can Boost Cross-lingual Generalisation"). The curve turns a perplexity into an amount of text in one
language: the monolingual token equivalent (MLTE). MLTE divided by the tokens that the run read in the language is its
token efficiency (TEff). A TEff above 1 means that the language gained from the others.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from xalign_jax.reports.tables import Arm, Run, markdown, mean_and_spread, number

# The perplexity that is compared: of a language alone, over the rows of the vocabulary that it can use.
METRIC = ("perplexity", "perplexity_in_language")
# A curve has three parameters. So a fourth amount of text is the first that can show a bad fit.
AMOUNTS = 4


@dataclasses.dataclass(frozen=True)
class Curve:
    """1 / PPL = c - a (tokens / unit)^-b, fitted to runs on one language alone.

    Attributes:
      unit: tokens of the longest run.
      least, most: fewest and most tokens of a run.
      off: the largest relative distance of a run's perplexity from the curve.
    """

    a: float
    b: float
    c: float
    unit: float
    least: float
    most: float
    off: float

    def perplexity(self, tokens: float | np.ndarray) -> np.ndarray:
        """The perplexity of a run on so many tokens of the language alone; any shape."""
        return 1 / (self.c - self.a * (np.asarray(tokens) / self.unit) ** -self.b)

    def tokens(self, perplexity: float) -> float:
        """The tokens of the language alone that give a perplexity: the MLTE. inf where no amount gives it."""
        rest = self.c - 1 / perplexity
        return float(self.unit * (rest / self.a) ** (-1 / self.b)) if rest > 0 else np.inf

    def reaches(self, tokens: float) -> bool:
        """Whether an amount lies within the amounts of the runs, so that nothing is extrapolated."""
        return self.least <= tokens <= self.most


def fit(tokens: Sequence[float], perplexities: Sequence[float]) -> Curve | None:
    """The curve of runs on one language alone, by least squares in 1 / PPL; None if no such curve can be found.

    Args:
      tokens: what each run read.   perplexities: what each run reached, all finite.
    """
    from scipy.optimize import curve_fit

    x, y = np.asarray(tokens, float), 1 / np.asarray(perplexities, float)
    unit = x.max()

    def curve(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return c - a * x**-b

    # Start at a curve that falls by half of what was seen for each tenfold of text. All parameters are positive.
    start = (max(y.max() - y.min(), 1e-9), 0.3, 2 * y.max())
    try:
        (a, b, c), _ = curve_fit(curve, x / unit, y, start, bounds=([1e-12, 1e-3, 1e-12], np.inf), maxfev=20_000)
    except RuntimeError:  # no convergence
        return None
    fitted = curve(x / unit, a, b, c)
    off = float(np.abs(y / np.where(fitted > 0, fitted, np.nan) - 1).max())
    return Curve(float(a), float(b), float(c), unit, x.min(), unit, off)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One language of one run: what was read and what was reached.

    Attributes:
      family: what perplexities are comparable: the model, the language's texts with their vocabulary, the probe.
      alone: the run read no other language.
    """

    run: Run
    language: str
    family: tuple[str, ...]
    tokens: int
    perplexity: float
    alone: bool


def readings(runs: Sequence[Run]) -> list[Reading]:
    """Every language that a run read and that its `Perplexity` probe measured. Values that are not finite are left out.

    A clone has the text of its base language, so both have the same curve.
    """
    found = []
    for run in runs:
        seen = run.tokens()
        for key, value in run.values.items():
            tokens = seen.get(key.language or "", 0)
            if (key.probe, key.metric) == METRIC and key.control is None and tokens and np.isfinite(value):
                base = re.sub(r"_clone\d*$", "", key.language or "")
                family = (run.model, run.texts.get(base, base), key.conditions)
                found.append(Reading(run, key.language or "", family, tokens, value, len(seen) == 1))
    return found


def curves(found: Sequence[Reading]) -> dict[tuple[str, ...], Curve | str]:
    """By family, the curve of its runs on one language alone, or why there is none."""
    alone: dict[tuple[str, ...], list[Reading]] = {}
    for one in found:
        if one.alone:
            alone.setdefault(one.family, []).append(one)
    result: dict[tuple[str, ...], Curve | str] = {}
    for family, members in alone.items():
        amounts = len({one.tokens for one in members})
        if amounts < AMOUNTS:
            result[family] = f"runs on {members[0].language} alone read {amounts} different amounts of text"
            continue
        curve = fit([one.tokens for one in members], [one.perplexity for one in members])
        result[family] = curve or f"no curve fits the runs on {members[0].language} alone"
    return result


def section(arms: Sequence[Arm]) -> str:
    """The tables of token efficiency; "" unless the arms hold runs on one language alone beside others.

    Args:
      arms: at the ends of their runs.
    """
    of = {arm.name: readings(arm.runs) for arm in arms}
    every = [one for found in of.values() for one in found]
    known = curves(every)
    if not known or all(one.alone for one in every):
        return ""
    parts = ["## Token efficiency"]
    for family, curve in known.items():
        mixed = {name: [one for one in found if one.family == family and not one.alone] for name, found in of.items()}
        if not any(mixed.values()):
            continue
        parts += [_table(mixed, curve)] if isinstance(curve, Curve) else [f"No token efficiency: {curve}; {_LEAST}."]
    without = len({one.run.directory for one in every if one.family not in known})
    if without:
        parts.append(f"No token efficiency for {without} runs: no run of their model and text has one language alone.")
    return "\n\n".join(parts)


_LEAST = f"at least {AMOUNTS} are needed, because the curve has three parameters"
_BEYOND = "\\*: beyond the runs on one language alone, so extrapolated."
_NEVER = "-: by the curve, no amount of the language alone gives this perplexity."


def _table(mixed: Mapping[str, Sequence[Reading]], curve: Curve) -> str:
    """The curve in words, and a line for each arm and language."""
    told = (
        f"The language alone: 1/PPL = {curve.c:.4g} - {curve.a:.4g} x^-{curve.b:.3g}, x in {number(curve.unit / 1e6)} M "
        f"tokens, fitted to runs of {curve.least:,.0f} to {curve.most:,.0f} tokens. Their perplexities lie within "
        f"{100 * curve.off:.1f} % of it. MLTE: the tokens of the language alone that give the perplexity. TEff: MLTE "
        "divided by the tokens read."
    )
    rows, marks = [], []
    for name, found in mixed.items():
        for language in dict.fromkeys(one.language for one in found):
            mine = [one for one in found if one.language == language]
            worth = [curve.tokens(one.perplexity) for one in mine]
            line = [name, str(len(mine)), language, _mean([one.perplexity for one in mine])]
            line.append(_mean([one.tokens / 1e6 for one in mine]))
            mark = "" if all(map(curve.reaches, worth)) else " \\*"
            if not np.isfinite(worth).all():
                rows.append([*line, "-", "-"])
                marks.append(_NEVER)
                continue
            marks += [_BEYOND] if mark else []
            each = [value / one.tokens for value, one in zip(worth, mine, strict=True)]
            rows.append([*line, _mean([value / 1e6 for value in worth]) + mark, _mean(each) + mark])
    header = ["", "runs", "language", "in-language perplexity", "M tokens read", "MLTE, M tokens", "TEff"]
    return "\n\n".join([told, markdown(header, rows), *dict.fromkeys(marks)])


def _mean(values: Sequence[float]) -> str:
    return number(*mean_and_spread(values))
