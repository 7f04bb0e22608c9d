"""Pictures of the study: gap closed against English cost, and alignment over steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from study.record import Row
from xalign_jax.evaluation.plots import axes, legend, style

CURVES = {
    "words/dictionary/2": "words @1, dictionary, level 2",
    "words/heldout/2": "words @1, held out, level 2",
    "cosine/2/2": "centred cosine, parallel - shuffled, level 2",
    "gradients/2": "cosine of gradients",
    "knows/2": "knowledge in the clone",
}

# By experiment: English cost and gap closed of its seeds.
Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw_gap(panels_of: Mapping[str, Points], baselines: tuple[str, str], folder: Path) -> None:
    """gap.png: a panel a question; each experiment at its means, its seeds as small dots, in one colour in all panels.

    Args:
      baselines: names of the joint run and the oracle that gap and cost are taken against.
    """
    panels_of = {title: points for title, points in panels_of.items() if points}
    if not panels_of:
        return
    names = [*dict.fromkeys(name for points in panels_of.values() for name in points)]
    figure, panels = axes(len(panels_of), 6.8, 5.6)
    for panel, (title, points) in zip(panels, panels_of.items(), strict=True):
        means = 100 * np.array([(statistics.fmean(x), statistics.fmean(y)) for x, y in points.values()])
        for number, (name, seeds) in enumerate(points.items()):
            (x, y), colour = 100 * np.asarray(seeds), style(names.index(name))["color"]
            panel.plot(x, y, ".", color=colour, markersize=4, alpha=0.6)
            panel.plot(*means[number], "o", color=colour, markersize=6)
            away = (5, 4) if _is_upper(means, number) else (5, -11)
            panel.annotate(name, means[number], xytext=away, textcoords="offset points", fontsize=8)
        panel.margins(x=0.12)
        panel.axvline(0, color="0.6", linewidth=0.8)
        panel.axhline(80, color="0.6", linewidth=0.8, linestyle="--")
        panel.set(title=title, xlabel=f"English perplexity against {baselines[0]}, %")
        panel.set_ylabel(f"gap from {baselines[0]} to {baselines[1]} closed, %")
    figure.savefig(folder / "gap.png", dpi=80)


def _is_upper(points: np.ndarray, which: int) -> bool:
    """Whether a point of (N,2) lies no lower than the one nearest to it, in units of their ranges."""
    distance = np.linalg.norm((points - points[which]) / np.maximum(np.ptp(points, axis=0), 1e-12), axis=1)
    distance[which] = np.inf
    return bool(points[which, 1] >= points[distance.argmin(), 1])


def draw_curves(curves: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """curves.png: a panel for each measure, an experiment a line: the mean over seeds by step."""
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
