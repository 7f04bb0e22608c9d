"""Token efficiency: how much text of a language alone would have given the PPL that a mixture gave it.

Runs on one language alone give the curve 1 / PPL = c - a x^-b, where x is the text that they read (Schäfer et al. 2024,
"Language Imbalance Can Boost Cross-lingual Generalisation"). The curve turns a PPL into an amount of text in one
language: the monolingual token equivalent (MLTE). MLTE divided by the tokens that the run read in the language is its
token efficiency (TEff). A TEff above 1 means that the language gained from the others.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from xalign_jax.records.shown import Shown
from xalign_jax.reports.tables import Arm, Run, markdown, mean_and_spread, number

# A curve has three parameters. So a fourth amount of text is the first that can show a bad fit.
AMOUNTS = 4


@dataclasses.dataclass(frozen=True)
class Curve:
    """1 / PPL = c - a x^-b, fitted to runs on one language alone, with x = tokens / unit.

    It is kept as 1 / PPL = top - slope (x^-b - 1) / b, so that a = slope / b and c = top + slope / b. This form also holds
    at b = 0, where the curve is top + slope ln x. Published runs, which are long, have b > 0: they approach c. In runs
    that are too short to level off, b is negative.

    Attributes:
      unit: tokens of the longest run.
      least, most: fewest and most tokens of a run.
      off: the largest relative distance of a run's PPL from the curve.
    """

    top: float
    slope: float
    b: float
    unit: float
    least: float
    most: float
    off: float = 0.0

    def ppl(self, tokens: float | np.ndarray) -> np.ndarray:
        """The PPL of a run on so many tokens of the language alone; any shape."""
        return 1 / _inverse(np.asarray(tokens, float) / self.unit, self.top, self.slope, self.b)

    def tokens(self, ppl: float) -> float:
        """The tokens of the language alone that give a PPL: the MLTE. inf where no amount gives it."""
        below = (self.top - 1 / ppl) / self.slope
        if abs(self.b) < _FLAT:
            return float(self.unit * np.exp(-below))
        power = 1 + self.b * below  # = x^-b
        if power <= 0:
            return np.inf if self.b > 0 else 0.0
        return float(self.unit * power ** (-1 / self.b))

    def reaches(self, tokens: float) -> bool:
        """Whether an amount lies within the amounts of the runs, so that nothing is extrapolated."""
        return self.least <= tokens <= self.most

    @property
    def formula(self) -> str:
        """The curve as text."""
        if abs(self.b) < _FLAT:
            return f"1/PPL = {self.top:.4g} + {self.slope:.4g} ln x"
        a = self.slope / self.b
        return f"1/PPL = {self.top + a:.4g} {'+' if a < 0 else '-'} {abs(a):.4g} x^{-self.b:.3g}"


_FLAT = 1e-6  # exponents that are closer to 0 are taken for 0


def _inverse(x: np.ndarray, top: float, slope: float, b: float) -> np.ndarray:
    """1 / PPL at x; any shape."""
    return top + slope * np.log(x) if abs(b) < _FLAT else top - slope * np.expm1(-b * np.log(x)) / b


def fit(tokens: Sequence[float], ppls: Sequence[float]) -> Curve | None:
    """The curve of runs on one language alone, by least squares in 1 / PPL; None if more text did not help them.

    Args:
      tokens: what each run read.   ppls: what each run reached, all finite.
    """
    from scipy.optimize import least_squares

    x, y = np.asarray(tokens, float), 1 / np.asarray(ppls, float)
    unit, scale = x.max(), y.max()

    def rest(parameters: np.ndarray) -> np.ndarray:
        return _inverse(x / unit, *parameters) - y / scale

    # Start at half of the best value for each factor e of text, without a bend. More text never hurts.
    found = least_squares(rest, (1.0, 0.5, 0.01), bounds=([0, 0, -3], [np.inf, np.inf, 3]), xtol=1e-12, ftol=1e-12)
    top, slope, b = found.x.tolist()
    # A curve that hardly rises turns no PPL into an amount of text.
    if not found.success or top - _inverse(x.min() / unit, top, slope, b) < 1e-3 * top:
        return None
    curve = Curve(top * scale, slope * scale, b, float(unit), float(x.min()), float(unit))
    # A curve that falls below 0 within its runs has no PPL there.
    fitted = 1 / curve.ppl(x)
    off = float(np.abs(fitted / y - 1).max()) if (fitted > 0).all() else np.inf
    return dataclasses.replace(curve, off=off)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One language of one run: what was read and what was reached.

    Attributes:
      family: which PPLs are comparable: the model, the language's texts with their vocabulary, the probe.
      alone: the run read no other language.
    """

    run: Run
    language: str
    family: tuple[str, ...]
    tokens: int
    ppl: float
    alone: bool


def readings(runs: Sequence[Run], shown: Shown) -> list[Reading]:
    """Every language that a run read, with the metric that `Column.efficiency` marks. Only finite values count.

    A clone has the text of its base language, so both have the same curve.
    """
    found = []
    for run in runs:
        seen = run.tokens()
        for key, value in run.values.items():
            tokens = seen.get(key.language or "", 0)
            if shown.column(key).efficiency and key.control is None and tokens and np.isfinite(value):
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
            result[family] = (
                f"runs on {members[0].language} alone read {amounts} different amounts of text; at least {AMOUNTS} are "
                "needed, because the curve has three parameters"
            )
            continue
        curve = fit([one.tokens for one in members], [one.ppl for one in members])
        result[family] = curve or f"more text of {members[0].language} alone gave no lower PPL"
    return result


def section(arms: Sequence[Arm], shown: Shown) -> str:
    """The tables of token efficiency; "" unless the arms hold runs on one language alone beside others.

    Args:
      arms: at the ends of their runs.
    """
    of = {arm.name: readings(arm.runs, shown) for arm in arms}
    every = [one for found in of.values() for one in found]
    known = curves(every)
    if not known or all(one.alone for one in every):
        return ""
    parts = ["## Token efficiency"]
    for family, curve in known.items():
        mixed = {name: [one for one in found if one.family == family and not one.alone] for name, found in of.items()}
        if not any(mixed.values()):
            continue
        parts += [_table(mixed, curve)] if isinstance(curve, Curve) else [f"No token efficiency: {curve}."]
    without = len({one.run.directory for one in every if one.family not in known})
    if without:
        parts.append(f"No token efficiency for {without} runs: no run of their model and text has one language alone.")
    return "\n\n".join(parts)


_BEYOND = "\\*: beyond the runs on one language alone, so extrapolated."
_NEVER = "-: by the curve, no amount of the language alone gives this PPL."


def _table(mixed: Mapping[str, Sequence[Reading]], curve: Curve) -> str:
    """The curve in words, and a line for each arm and language."""
    told = (
        f"The language alone: {curve.formula}, where x = 1 is {number(curve.unit / 1e6)} M tokens. Fitted to runs of "
        f"{curve.least:,.0f} to {curve.most:,.0f} tokens, whose PPLs lie within {100 * curve.off:.1f} % of it. "
        "MLTE: the tokens of the language alone that give the PPL. TEff: MLTE divided by the tokens read."
    )
    rows, marks = [], []
    for name, found in mixed.items():
        for language in dict.fromkeys(one.language for one in found):
            mine = [one for one in found if one.language == language]
            worth = [curve.tokens(one.ppl) for one in mine]
            line = [name, str(len(mine)), language, _mean([one.ppl for one in mine])]
            line.append(_mean([one.tokens / 1e6 for one in mine]))
            mark = "" if all(map(curve.reaches, worth)) else " \\*"
            if not np.isfinite(worth).all():
                rows.append([*line, "-", "-"])
                marks.append(_NEVER)
                continue
            marks += [_BEYOND] if mark else []
            each = [value / one.tokens for value, one in zip(worth, mine, strict=True)]
            rows.append([*line, _mean([value / 1e6 for value in worth]) + mark, _mean(each) + mark])
    header = ["", "runs", "language", "in-language PPL", "M tokens read", "MLTE, M tokens", "TEff"]
    return "\n\n".join([told, markdown(header, rows), *dict.fromkeys(marks)])


def _mean(values: Sequence[float]) -> str:
    return number(*mean_and_spread(values))
