"""Pictures of a run and of a comparison. matplotlib is imported when a picture is drawn, not before."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xalign_jax.interfaces import Row
from xalign_jax.records.shown import CHANCE, Key, Shown
from xalign_jax.reports.tables import (
    Arm,
    Run,
    keys_of,
    level_in_words,
    mean_and_spread,
    particulars,
    shown_in,
    split_in_words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every kind of colour vision, and line styles for more than eight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES, HATCHES = ("-", "--", ":"), ("", "..", "xx")
MARKERS = "osD^vPX*"
SMOOTHING = 40  # a running mean takes this fraction of a curve
FEW = 4  # a curve of fewer points has a mark at each
ARMS = 4  # steps of a run in one picture


def draw_run(arms: Sequence[Arm], folder: Path) -> list[Path]:
    """loss.png (each stream's loss by step), and a picture of each probe that has headlines, named after it.

    Args:
      arms: the probed steps of one run, in order. The last ones are drawn.
    """
    runs = [run for arm in arms[-ARMS:] for run in arm.runs]
    shown = shown_in(runs)
    return _drawn(folder, [("loss", _loss(runs[-1])), *_probes(arms[-ARMS:], keys_of(runs, shown), shown)])


def draw_comparison(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown, folder: Path) -> list[Path]:
    """learning_curves.png, and a picture of each probe that has headlines, named after it.

    Args:
      keys: in the order of the tables.
    """
    return _drawn(folder, [("learning_curves", _curves(arms)), *_probes(arms, keys, shown)])


def _probes(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown) -> Iterator[tuple[str, Figure | None]]:
    """(probe, figure) of each probe; the figure is None where there is nothing to draw."""
    for probe in dict.fromkeys(key.probe for key in keys):
        draw = _by_level if shown.by_level(probe) else _bars
        yield probe, draw(arms, [key for key in keys if key.probe == probe], shown)


def _drawn(folder: Path, figures: Sequence[tuple[str, Figure | None]]) -> list[Path]:
    """Save the figures and return their paths."""
    paths: list[Path] = []
    for name, figure in figures:
        if figure is not None:
            path = folder / (re.sub(r"[^\w.-]", "_", name) + ".png")
            # A probe may have the name of another picture.
            while path in paths:
                path = path.with_stem(f"{path.stem}_")
            figure.savefig(path, dpi=130)
            paths.append(path)
    return paths


def axes(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of a size in inches, in rows of as many panels as 15 inches hold."""
    # An Agg canvas, not pyplot: pyplot would look for a display and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The grid has room for more panels than there are; the others are removed.
    across = min(count, max(1, int(15 // width)))
    down = -(-count // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
    return figure, panels[:count]


def style(number: int) -> dict[str, Any]:
    """The colour and line style of a curve. Styles change when all colours are used up."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def _fill(number: int) -> dict[str, Any]:
    """The colour and hatching of bars, likewise."""
    return {"color": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)]}


def _shown(name: str) -> str:
    """A label that matplotlib accepts in a legend: it leaves out labels that begin with "_"."""
    return f"\u200b{name}" if name.startswith("_") else name


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below all panels, with everything that any of them shows."""
    # Panels draw the same arms: by label, each entry appears once.
    entries = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    # As many entries side by side as the width holds.
    inches = 0.6 + 0.085 * max(map(len, entries))  # of an entry: its mark, and letters of the default font
    columns = max(1, min(len(entries), int(figure.get_figwidth() // inches)))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _explain(figure: Figure, probe: str, shown: Shown, arms: Sequence[Arm]) -> None:
    """The picture's title with the probe's meaning, and the meaning of the marks on the bars, if there are any."""
    marks = any(len(arm.runs) > 1 for arm in arms)
    told = "\n(bar: mean over seeds, line: standard deviation, dots: seeds)" if marks else ""
    title = f"{shown.title(probe)}. {shown.meaning(probe)}".removesuffix(". ")
    letters = int(figure.get_figwidth() / 0.075)  # of the font below
    figure.suptitle(textwrap.fill(title, letters) + told, fontsize=10)


def _streams(rows: Sequence[Row]) -> list[str]:
    """The loss columns of metrics rows."""
    return list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss/")))


def _series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a column; rows without it, of other stages, are left out."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.asarray(points, float).reshape(-1, 2).T
    return steps, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a fortieth of the curve, over less of it near the ends."""
    half = len(values) // (2 * SMOOTHING)
    # The sum of values[i:j] is total[j] - total[i]. Windows shrink at the ends so that they stay symmetric.
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _marker(steps: np.ndarray) -> str | None:
    """Whether a curve has a dot at each point: a line through a single point shows nothing."""
    return "o" if len(steps) < FEW else None


def _loss(run: Run) -> Figure | None:
    """Loss by step, a panel for each stream (their scales differ)."""
    streams = _streams(run.metrics)
    if not streams:
        return None
    figure, panels = axes(len(streams), 4.6, 3.2)
    for number, (panel, stream) in enumerate(zip(panels, streams, strict=True)):
        # The values as logged, thin, below their running mean.
        steps, values = _series(run.metrics, stream)
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        panel.plot(steps, _smooth(values), color=colour, linewidth=1.8, marker=_marker(steps))
        stage = next(row.get("stage") for row in run.metrics if stream in row)
        where = f" (stage {stage})" if stage else ""
        panel.set(title=f"{stream.removeprefix('loss/')}{where}", ylabel="loss (nats)")
        _steps(panel)
    smoothed = max(len(_series(run.metrics, stream)[0]) for stream in streams) >= 2 * SMOOTHING
    told = " (thin: as logged, thick: running mean)" if smoothed else ""
    figure.suptitle(f"{run.arm}, seed {run.seed}: training loss of each stream{told}", fontsize=10)
    return figure


def _steps(panel: Axes) -> None:
    """An axis of steps, which are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("step")
    panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))


def _curves(arms: Sequence[Arm]) -> Figure | None:
    """Loss by step of every stream that any arm has: mean over seeds, band = standard deviation."""
    streams = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in _streams(run.metrics)))
    if not streams:
        return None
    figure, panels = axes(len(streams), 4.8, 3.4)
    for panel, stream in zip(panels, streams, strict=True):
        for number, arm in enumerate(arms):
            # Seeds that have this stream. The longest run sets the steps; shorter ones end in NaN, which the means
            # skip.
            series = [s for s in (_series(run.metrics, stream) for run in arm.runs) if len(s[0])]
            if not series:
                continue
            steps = max((s[0] for s in series), key=len)
            curves = np.stack([np.interp(steps, s[0], _smooth(s[1]), right=np.nan) for s in series])
            # (seeds, steps) -> (steps,)
            mean = np.nanmean(curves, axis=0)
            panel.plot(steps, mean, label=_shown(arm.name), linewidth=1.6, marker=_marker(steps), **style(number))
            if len(series) > 1:
                spread = np.nanstd(curves, axis=0, ddof=1)
                panel.fill_between(steps, mean - spread, mean + spread, color=style(number)["color"], alpha=0.2, lw=0)
        panel.set(title=stream.removeprefix("loss/"), ylabel="loss (nats, running mean)")
        _steps(panel)
    legend(figure, panels)
    return figure


def _by_level(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown) -> Figure | None:
    """A probe's headlines by level, a panel for each language, split and metric.

    A dashed line across a bar is the value of untrained parameters; one across the panel is chance, if it is known.
    """
    # A panel is everything about a value but its level.
    found = [key for key in keys if shown.headline(key) and key.level is not None]
    panels_of = sorted(dict.fromkeys(key._replace(level=None) for key in found), key=shown.rank)
    if not panels_of:
        return None
    most = max(sum(key._replace(level=None) == one for key in found) for one in panels_of)
    # Every panel is as wide as the fullest one needs: a slot for each arm and one between levels.
    width = _width(most * (len(arms) + 1), 0.09)
    figure, panels = axes(len(panels_of), width, 3.4)
    chance = _chance(arms, keys)
    for panel, one in zip(panels, panels_of, strict=True):
        levels = [key.level for key in found if key._replace(level=None) == one]
        for number, arm in enumerate(arms):
            # [values over seeds] for each level, of the trained and of the untrained model.
            values, before = (
                [arm.values(one._replace(level=level, control=control)) for level in levels]
                for control in (None, "untrained")
            )
            _bar_group(panel, number, len(arms), values, arm.name, _fill(number))
            _lines(panel, number, len(arms), before, "untrained")
        _draw_chance(panel, chance)
        _label(panel, [str(level) for level in levels], width)
        panel.set(title=", ".join(particulars(one, shown)), xlabel="level", ylabel=shown.column(one).heading)
    # Panels of one metric share a scale, so that they can be compared.
    for metric in dict.fromkeys(one.metric for one in panels_of):
        _scale(
            [panel for panel, one in zip(panels, panels_of, strict=True) if one.metric == metric],
            [value for key in found if key.metric == metric for arm in arms for value in arm.values(key)],
        )
    _explain(figure, found[0].probe, shown, arms)
    legend(figure, panels)
    return figure


def _bars(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown) -> Figure | None:
    """A probe's headlines by language, an arm a colour.

    Each metric has a panel, unless chance is known. Then all share one panel and scale, with a dashed line at chance.
    """
    found = [key for key in keys if shown.headline(key)]
    if not found:
        return None
    chance = _chance(arms, keys)
    # Shares with a known chance are one scale; otherwise metrics have units of their own.
    metrics = list(dict.fromkeys(key.metric for key in found))
    panels_of = [found] if chance else [[key for key in found if key.metric == metric] for metric in metrics]
    width = _width(max(map(len, panels_of)) * (len(arms) + 1), 0.35)
    figure, panels = axes(len(panels_of), width, 3.6)
    for panel, bars in zip(panels, panels_of, strict=True):
        # A panel of several metrics names the metric below each group of bars, not on the axis.
        mixed = len({key.metric for key in bars}) > 1
        for number, arm in enumerate(arms):
            _bar_group(panel, number, len(arms), [arm.values(key) for key in bars], arm.name, _fill(number))
        _draw_chance(panel, chance)
        _label(panel, [_bar_name(key, shown.column(key).heading if mixed else "") for key in bars], width)
        panel.set_ylabel("" if mixed else shown.column(bars[0]).heading)
        values = [value for key in bars for arm in arms for value in arm.values(key)]
        _scale([panel], [*values, *chance])
    _explain(figure, found[0].probe, shown, arms)
    legend(figure, panels)
    return figure


def _chance(arms: Sequence[Arm], keys: Sequence[Key]) -> list[float]:
    """The values that guessing reaches, one if they are the same everywhere."""
    known = [key for key in keys if (key.metric, key.control) == (CHANCE, None)]
    return sorted({value for key in known for arm in arms for value in arm.values(key)})


def _draw_chance(panel: Axes, values: Sequence[float]) -> None:
    """A dashed line across the panel at each value."""
    for value in values:
        panel.axhline(value, color="0.3", linestyle="--", linewidth=1, label=CHANCE)


def _width(slots: int, inches: float) -> float:
    """The width of a panel with room for this many bars, within the width of a page."""
    return min(15.0, max(5.0, 1.2 + inches * slots))


def _bar_name(key: Key, metric: str) -> str:
    """Language, metric and the rest, a line each."""
    about = " ".join(part for part in (split_in_words(key), level_in_words(key), key.conditions) if part)
    return "\n".join(part for part in (key.language, metric, about) if part)


def _label(panel: Axes, names: Sequence[str], width: float) -> None:
    """Names below groups of bars, in lines that fit; slanted where neighbours would overlap.

    Args:
      width: of the panel, in inches.
    """
    # How many letters of the default font fit below one group.
    room = (width - 0.8) / len(names) / 0.09  # letters of the default font below one group
    # Each name wrapped into lines: names -> lines -> letters of the longest line.
    lines = [
        [short for line in name.split("\n") for short in textwrap.wrap(line, max(1, int(room)), break_long_words=False)]
        for name in names
    ]
    # Half of both neighbours' longest lines must fit between their centres, else all names are slanted.
    letters = [max(map(len, each), default=0) for each in lines]
    panel.set_xticks(range(len(names)), ["\n".join(each) for each in lines])
    panel.set_xlim(-0.6, len(names) - 0.4)
    if any((one + other) / 2 + 0.5 > room for one, other in itertools.pairwise(letters)):
        panel.set_xticks(range(len(names)), [name.replace("\n", " ") for name in names])
        for label in panel.get_xticklabels():
            label.set(rotation=35, horizontalalignment="right", rotation_mode="anchor")


def _scale(panels: Sequence[Axes], values: Sequence[float]) -> None:
    """One scale for some panels: 0 to 1 where the values are shares that such a scale tells apart."""
    # A scale from 0 to 1 would flatten values that are all small, so those keep their own.
    finite = [value for value in values if np.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    limits = (0.0, 1.05) if low >= 0 and 0.2 < high <= 1 else None
    # What matplotlib chose for each panel; together they span all of it.
    spans = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(limits or (min(span[0] for span in spans), max(span[1] for span in spans)))


def _bar_group(
    panel: Axes, number: int, count: int, found: Sequence[Sequence[float]], label: str, style: dict[str, Any]
) -> None:
    """One arm's bars at x = 0, 1, ..: mean, standard deviation and, with several seeds, each seed as a dot."""
    for x, values in enumerate(found):
        if not values:
            continue
        # A bar at the mean; with several seeds, the standard deviation and a dot for each.
        at, width = _place(x, number, count)
        mean, spread = mean_and_spread(values)
        panel.bar(at, mean, width * 0.92, label=_shown(label), edgecolor="white", linewidth=0.5, **style)
        if spread is not None:
            panel.errorbar(at, mean, spread, color="0.15", linewidth=1, capsize=2)
            panel.plot([at] * len(values), values, ".", color="0.15", markersize=3)


def _lines(panel: Axes, number: int, count: int, found: Sequence[Sequence[float]], label: str) -> None:
    """A dashed line at a mean across each of one arm's bars."""
    for x, values in enumerate(found):
        if values:
            (at, width), mean = _place(x, number, count), mean_and_spread(values)[0]
            panel.hlines(mean, at - width / 2, at + width / 2, color="0.35", linestyle="--", linewidth=1.2, label=label)


def _place(x: float, number: int, count: int) -> tuple[float, float]:
    """The centre of the bar of one of `count` arms at x, and its width. 16 % of each unit stays free between groups."""
    width = 0.84 / count
    return x + (number - (count - 1) / 2) * width, width
