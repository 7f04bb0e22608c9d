"""The imbalance study's tables and picture: token efficiency of each language, from the rows of `results.csv`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from study.experiments import ALONE, IMBALANCED, SIZES
from study.record import Row
from xalign_jax.reports.efficiency import Curve, fit
from xalign_jax.reports.plots import axes, legend, style
from xalign_jax.reports.tables import markdown, mean_and_spread, number

MISSING = "Not run yet."
# Size in documents -> the end of its experiments' names, and its title.
NAMED = dict(zip(("small", "larger"), SIZES, strict=True))
TITLES = {"small": "2 layers of width 64", "larger": "4 layers of width 128"}
LANGUAGES = ("English", "its clone")
LEAST = 4  # amounts of text alone that a curve needs

Found = Mapping[str, Mapping[int, Row]]  # experiment -> seed -> row


def alone(found: Found, size: str) -> list[Row]:
    """The rows of English alone at a size."""
    names = [f"alone-{share}{NAMED[size]}" for share in ALONE]
    return [row for name in names for _, row in sorted(found.get(name, {}).items())]


def curve_of(found: Found, size: str) -> Curve | None:
    """The curve of English alone; None while runs are missing."""
    rows = alone(found, size)
    if len({row["seen/1"] for row in rows}) < LEAST:
        return None
    return fit([row["seen/1"] for row in rows], [row["own_ppl/1"] for row in rows])


def curve_table(found: Found, size: str) -> str:
    """English alone: what each share of the steps reached, and what the curve says."""
    curve, lines = curve_of(found, size), []
    for share in ALONE:
        rows = found.get(f"alone-{share}{NAMED[size]}", {}).values()
        if rows:
            told = "-" if curve is None else number(float(curve.ppl(next(iter(rows))["seen/1"])))
            lines.append([f"{share} %", str(len(rows)), _mean([row["own_ppl/1"] for row in rows]), told])
    by_curve = "the curve" if curve is None else f"the curve {curve.formula}"
    return markdown(["English alone", "seeds", "perplexity", by_curve], lines) if lines else MISSING


def efficiency_table(found: Found, size: str) -> str:
    """A line for each experiment that has rows: perplexity and token efficiency of English and of its first clone."""
    curve, lines = curve_of(found, size), []
    for name in IMBALANCED:
        rows = found.get(f"{name}{NAMED[size]}", {})
        if rows and not name.startswith("alone"):
            line = [name, str(len(rows))]
            for i in (1, 2):
                line.append(_mean([row[f"own_ppl/{i}"] for row in rows.values()]))
                line.append("-" if curve is None else _efficiency(curve, list(rows.values()), i))
            lines.append([line[0], line[1], line[2], line[4], line[3], line[5]])
    header = ["", "seeds", *(f"perplexity, {one}" for one in LANGUAGES), *(f"TEff, {one}" for one in LANGUAGES)]
    return markdown(header, lines) if lines else MISSING


def _efficiency(curve: Curve, rows: Sequence[Row], i: int) -> str:
    """Mean and standard deviation of a language's TEff; with a star where the curve is extrapolated."""
    worth = [curve.tokens(row[f"own_ppl/{i}"]) for row in rows]
    if not np.isfinite(worth).all():
        return "-"
    star = "" if all(map(curve.reaches, worth)) else " \\*"
    return _mean([value / row[f"seen/{i}"] for value, row in zip(worth, rows, strict=True)]) + star


def _mean(values: Sequence[float]) -> str:
    return number(*mean_and_spread(values))


TABLES = {"curve": curve_table, "efficiency": efficiency_table}


def filled(document: str, found: Found) -> str:
    """The document with a new table below every line `<!-- curve: SIZE -->` or `<!-- efficiency: SIZE -->`."""
    line = r"(?P<line><!-- (?P<kind>curve|efficiency): (?P<size>small|larger) -->\n\n)"
    return re.sub(
        rf"{line}(?:(?:\||{re.escape(MISSING)}).*\n)*",
        lambda place: f"{place['line']}{TABLES[place['kind']](found, place['size'])}\n",
        document,
    )


def draw(found: Found, folder: Path) -> None:
    """imbalance.png: token efficiency of English and of its clone, a line for each experiment, a panel for each size."""
    sizes = {size: curve for size in NAMED if (curve := curve_of(found, size)) is not None}
    names = [name for name in IMBALANCED if not name.startswith("alone")]
    if not sizes:
        return
    figure, panels = axes(len(sizes), 6.6, 4.2)
    for panel, (size, curve) in zip(panels, sizes.items(), strict=True):
        panel.axvline(1, color="0.5", linewidth=0.9, linestyle="--")
        for i, language in enumerate(LANGUAGES, 1):
            label: str | None = language
            for place, name in enumerate(names):
                rows = found.get(f"{name}{NAMED[size]}", {}).values()
                each = [curve.tokens(row[f"own_ppl/{i}"]) / row[f"seen/{i}"] for row in rows]
                if each and np.isfinite(each).all():
                    # A large mark for the mean and small ones for seeds; the two languages a little apart.
                    y, colour = place + 0.3 * (i - 1.5), style(i - 1)["color"]
                    panel.plot(each, [y] * len(each), "|", color=colour, markersize=7)
                    panel.plot(np.mean(each), y, "o", color=colour, markersize=6, label=label)
                    label = None
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set(title=TITLES[size], xlabel="token efficiency; 1 (dashed): as if trained alone")
        panel.set_xlim(left=0)
    legend(figure, panels)
    figure.savefig(folder / "imbalance.png", dpi=80)
