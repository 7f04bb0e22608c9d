"""Pictures of the study: gap closed against English cost, and alignment over steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from study.record import Row
from xalign_jax.reports.plots import axes, legend, style

# Columns of the curves' CSV, and the titles of their panels.
CURVES = {
    "words/dictionary/2": "words @1, dictionary, level 2",
    "words/heldout/2": "words @1, held out, level 2",
    "cosine/2/2": "centred cosine, parallel - shuffled, level 2",
    "gradients/2": "cosine of gradients",
    "knows/2": "knowledge in the clone",
}

# The arms of README's picture, in words.
OVERVIEW = {
    "PLUS": "PLUS: translations share rows",
    "HELD": "rows held together",
    "K": "PreAlign, contrast kept on",
    "PC": "PreAlign",
    "JC": "code-switching alone",
    "J": "joint training",
    "RC": "PreAlign, random dictionary",
}

FLOOR = -50  # per cent of the gap; lower points are drawn there, with their figure
LABEL = 0.036  # height of a line of text, as a share of the panel's height

# By experiment: (English cost, gap closed), each with one value per seed.
Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw_gap(panels_of: Mapping[str, Points], baselines: tuple[str, str], folder: Path) -> None:
    """gap.png: a panel for each question. An experiment is a dot at its means, with small dots for its seeds.

    Colours are the same in all panels.

    Args:
      baselines: names of the joint run and of the oracle, against which gap and cost are measured.
    """
    panels_of = {title: points for title, points in panels_of.items() if points}
    if not panels_of:
        return
    # Numbers of colours by first appearance, over all panels.
    names = [*dict.fromkeys(name for points in panels_of.values() for name in points)]
    figure, panels = axes(len(panels_of), 7.4, 5.6)
    for panel, (title, points) in zip(panels, panels_of.items(), strict=True):
        for name, seeds in points.items():
            (x, y), colour = 100 * np.asarray(seeds), style(names.index(name))["color"]
            panel.plot(x, np.maximum(y, FLOOR), ".", color=colour, markersize=4, alpha=0.6)
        panel.axvline(0, color="0.6", linewidth=0.8)
        # The dashed line marks 80 % of the gap.
        panel.axhline(80, color="0.6", linewidth=0.8, linestyle="--")
        panel.set(title=title, xlabel=f"English perplexity against {baselines[0]}, %")
        panel.set_ylabel(f"gap from {baselines[0]} to {baselines[1]} closed, %")
        _means(panel, points, [style(names.index(name))["color"] for name in points])
    figure.savefig(folder / "gap.png", dpi=80)


def draw_overview(points: Points, folder: Path) -> None:
    """overview.png: the arms of `OVERVIEW` by their names in words, for readers who know no arm."""
    named = {name: points[arm] for arm, name in OVERVIEW.items() if arm in points}
    if not named:
        return
    figure, (panel,) = axes(1, 9.0, 3.6)
    colours = [style(number)["color"] for number in range(len(named))]
    for (x, y), colour in zip(named.values(), colours, strict=True):
        panel.plot(100 * np.asarray(x), 100 * np.asarray(y), ".", color=colour, markersize=4, alpha=0.6)
    panel.axvline(0, color="0.6", linewidth=0.8)
    panel.set(
        title="A clone of English with a tenth of the text, three seeds",
        xlabel="English perplexity, % above joint training",
    )
    panel.set_ylabel("gap to sharing all\nparameters closed, %")
    _means(panel, named, colours)
    figure.savefig(folder / "overview.png", dpi=90)


def _means(panel: Any, points: Points, colours: Sequence[str]) -> None:
    """Draw each experiment's mean, and its name to the right of the panel, in the order of heights, with a line."""
    # (experiments,) each, in per cent.
    x, y = 100 * np.array([np.mean(seeds, axis=1) for seeds in points.values()]).T
    shown = np.maximum(y, FLOOR)
    for which in range(len(points)):
        panel.plot(x[which], shown[which], "o", color=colours[which], markersize=6)
    # Heights as shares of the panel, in which names are placed.
    low, high = panel.get_ylim()
    order = np.argsort(shown, kind="stable")
    for which, height in zip(order, apart((shown[order] - low) / (high - low), LABEL), strict=True):
        # A mean below the floor is drawn at the floor, so its name says the figure.
        text = list(points)[which] + (f" ({y[which]:.0f} %)" if y[which] < FLOOR else "")
        line = {
            "arrowstyle": "-",
            "color": colours[which],
            "linewidth": 0.5,
            "relpos": (0, 0.5),
            "shrinkA": 0,
            "shrinkB": 4,
        }
        about = {"textcoords": "axes fraction", "va": "center", "fontsize": 8, "arrowprops": line}
        panel.annotate(text, (x[which], shown[which]), (1.02, height), **about)


def apart(heights: np.ndarray, least: float) -> np.ndarray:
    """Ascending heights, moved as little as possible so that they lie `least` apart and below 1."""
    # First push upwards from below, then back down from 1.
    steps = least * np.arange(len(heights))
    up = np.maximum.accumulate(heights - steps) + steps
    most = 1 - steps[::-1]
    return np.minimum(up, most)


def draw_curves(curves: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """curves.png: a panel for each measure, and a line for each experiment, the mean over seeds by step."""
    columns = [name for name in CURVES if any(name in row for rows in curves.values() for row in rows)]
    if not columns:
        return
    figure, panels = axes(len(columns), 4.8, 3.2)
    for panel, column in zip(panels, columns, strict=True):
        for number, (name, rows) in enumerate(curves.items()):
            steps = sorted({row["step"] for row in rows if column in row})
            means = [statistics.fmean(r[column] for r in rows if r["step"] == s and column in r) for s in steps]
            panel.plot(steps, means, label=name, linewidth=1.6, marker=".", **style(number))
        panel.set(title=CURVES[column], xlabel="step")
        panel.title.set_fontsize(9)
    legend(figure, panels)
    figure.savefig(folder / "curves.png", dpi=75)
