"""Pictures of a run and of a comparison. matplotlib is imported when a picture is drawn, not before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xalign_jax.reports.tables import Arm, Key, Run, mean_and_spread

# Okabe and Ito's colours, told apart by every kind of colour vision, and line styles for more than eight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES, HATCHES = ("-", "--", ":"), ("", "..", "xx")
MARKERS = "osD^vPX*"
SMOOTHING = 40
FEW = 4  # points of a curve that are marked


def draw_run(run: Run, folder: Path) -> list[Path]:
    """loss.png (each stream's loss by step) and retrieval.png (words found by level), where there is something to show."""
    return _drawn(folder, {"loss": _loss(run), "retrieval": _retrieval([Arm(run.arm, (run,))], list(run.values))})


def draw_comparison(arms: Sequence[Arm], keys: Sequence[Key], folder: Path) -> list[Path]:
    """Learning curves, perplexity (or bits per byte), words by level and knowledge of several arms."""
    per_language = (
        "perplexity"
        if any((key.probe, key.metric) == ("perplexity", "perplexity") for key in keys)
        else "bits_per_byte"
    )
    figures = {
        "learning_curves": _curves(arms),
        per_language: _bars(arms, keys, "perplexity", (per_language,), per_language.replace("_", " ")),
        "retrieval": _retrieval(arms, keys),
        "knowledge": _bars(arms, keys, "knowledge", ("in_language_accuracy", "accuracy"), "accuracy"),
    }
    return _drawn(folder, figures)


def _drawn(folder: Path, figures: dict[str, Any]) -> list[Path]:
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=130)
    return paths


def axes(count: int, width: float, height: float, sharey: bool = False) -> tuple[Any, list[Any]]:
    """A figure of `count` panels of a size in inches, as many in a row as 15 inches hold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(count, max(1, int(15 // width)))
    down = -(-count // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, squeeze=False, sharey=sharey).flat)
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
    return figure, panels[:count]


def style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def _fill(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)]}


def _shown(name: str) -> str:
    """A label that matplotlib puts into legends whatever it begins with: "_" means none to it."""
    return f"\u200b{name}" if name.startswith("_") else name


def legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend of everything that any panel shows, below them all."""
    entries = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    inches = 0.6 + 0.085 * max(map(len, entries))  # of an entry: its mark, and letters of the default font
    columns = max(1, min(len(entries), int(figure.get_figwidth() // inches)))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _explain(figure: Any, arms: Sequence[Arm]) -> None:
    """Say what the marks on the bars are, if there are any."""
    if any(len(arm.runs) > 1 for arm in arms):
        figure.suptitle("bar: mean over seeds, line: standard deviation, dots: seeds", fontsize=8, color="0.35")


def _streams(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name.startswith("loss/")))


def _series(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.asarray(points, float).reshape(-1, 2).T
    return steps, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a fortieth of the curve, shorter at its ends."""
    half = len(values) // (2 * SMOOTHING)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _marker(steps: np.ndarray) -> str | None:
    """A dot at each point of a short curve: a line through a single point shows nothing."""
    return "o" if len(steps) < FEW else None


def _loss(run: Run) -> Any:
    """Loss by step, a panel for each stream (their scales differ)."""
    streams = _streams(run.metrics)
    if not streams:
        return None
    figure, panels = axes(len(streams), 4.6, 3.2)
    for number, (panel, stream) in enumerate(zip(panels, streams, strict=True)):
        steps, values = _series(run.metrics, stream)
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        panel.plot(steps, _smooth(values), color=colour, linewidth=1.8, marker=_marker(steps))
        panel.set(title=stream.removeprefix("loss/"), xlabel="step", ylabel="loss (nats)")
    figure.suptitle(f"{run.arm}, seed {run.seed}: loss (thin: as logged, thick: running mean)", fontsize=10)
    return figure


def _curves(arms: Sequence[Arm]) -> Any:
    """Loss by step of every stream that any arm has: mean over seeds, band = standard deviation."""
    streams = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in _streams(run.metrics)))
    if not streams:
        return None
    figure, panels = axes(len(streams), 4.8, 3.4)
    for panel, stream in zip(panels, streams, strict=True):
        for number, arm in enumerate(arms):
            series = [s for s in (_series(run.metrics, stream) for run in arm.runs) if len(s[0])]
            if not series:
                continue
            steps = max((s[0] for s in series), key=len)
            curves = np.stack([np.interp(steps, s[0], _smooth(s[1]), right=np.nan) for s in series])
            mean = np.nanmean(curves, axis=0)
            panel.plot(steps, mean, label=_shown(arm.name), linewidth=1.6, marker=_marker(steps), **style(number))
            if len(series) > 1:
                spread = np.nanstd(curves, axis=0, ddof=1)
                panel.fill_between(steps, mean - spread, mean + spread, color=style(number)["color"], alpha=0.2, lw=0)
        panel.set(title=stream.removeprefix("loss/"), xlabel="step", ylabel="loss (nats, running mean)")
    legend(figure, panels)
    return figure


def _retrieval(arms: Sequence[Arm], keys: Sequence[Key]) -> Any:
    """Word retrieval by level, a panel for each target language and split; a dashed line is what an arm started from."""
    words = [k for k in keys if k.probe == "word_retrieval" and k.metric == "accuracy" and k.control is None]
    panels_of = list(dict.fromkeys(key._replace(level=None) for key in words))
    if not panels_of:
        return None
    figure, panels = axes(len(panels_of), max(5.0, 2.2 + 0.75 * len(arms)), 3.4, sharey=True)
    for panel, place in zip(panels, panels_of, strict=True):
        levels = [key.level for key in words if key._replace(level=None) == place]
        levels = [*sorted(level for level in levels if isinstance(level, int)), *(["head"] if "head" in levels else [])]
        for number, arm in enumerate(arms):
            found, before = (
                [arm.values(place._replace(level=level, control=control)) for level in levels]
                for control in (None, "untrained")
            )
            _bar_group(panel, number, len(arms), found, arm.name, _fill(number))
            _lines(panel, number, len(arms), before, "untrained")
        panel.set_xticks(range(len(levels)), [str(level) for level in levels])
        kind = {"dictionary": "dictionary words", "heldout": "held-out words"}.get(str(place.split), str(place.split))
        title = ", ".join(part for part in (kind, place.language, place.conditions) if part)
        panel.set(title=title, xlabel="level", ylim=(0, 1.05))
        panel.set_ylabel("retrieval@1")
    _explain(figure, arms)
    legend(figure, panels)
    return figure


def _bars(arms: Sequence[Arm], keys: Sequence[Key], probe: str, metrics: Sequence[str], label: str) -> Any:
    """Bars by language of one probe, an arm a colour; a dashed line where a chance level is known."""
    bars = [k for metric in metrics for k in keys if (k.probe, k.metric, k.control) == (probe, metric, None)]
    if not bars:
        return None
    figure, (panel,) = axes(1, max(5.0, 1.2 + 0.35 * len(bars) * (len(arms) + 1)), 3.6)
    for number, arm in enumerate(arms):
        _bar_group(panel, number, len(arms), [arm.values(key) for key in bars], arm.name, _fill(number))
    chances = [key for key in keys if (key.probe, key.metric) == (probe, "chance")]
    chance = [value for arm in arms for key in chances for value in arm.values(key)]
    if chance:
        panel.axhline(chance[0], color="0.3", linestyle="--", linewidth=1, label="chance")
        panel.set_ylim(0, 1.05)
    taught = {"in_language_accuracy": "(taught)"}
    names = [" ".join(part for part in (k.language, taught.get(k.metric), k.conditions) if part) for k in bars]
    panel.set_xticks(range(len(bars)), names)
    panel.set_ylabel(label)
    panel.set_title(f"{probe} by language")
    _explain(figure, arms)
    legend(figure, [panel])
    return figure


def _bar_group(
    panel: Any, number: int, count: int, found: Sequence[Sequence[float]], label: str, style: dict[str, Any]
) -> None:
    """One arm's bars at x = 0, 1, ..: mean, standard deviation and, with several seeds, each seed as a dot."""
    for x, values in enumerate(found):
        if not values:
            continue
        at, width = _place(x, number, count)
        mean, spread = mean_and_spread(values)
        panel.bar(at, mean, width * 0.92, label=_shown(label), edgecolor="white", linewidth=0.5, **style)
        if spread is not None:
            panel.errorbar(at, mean, spread, color="0.15", linewidth=1, capsize=2)
            panel.plot([at] * len(values), values, ".", color="0.15", markersize=3)


def _lines(panel: Any, number: int, count: int, found: Sequence[Sequence[float]], label: str) -> None:
    """A dashed line at a mean across each of one arm's bars."""
    for x, values in enumerate(found):
        if values:
            (at, width), mean = _place(x, number, count), mean_and_spread(values)[0]
            panel.hlines(mean, at - width / 2, at + width / 2, color="0.35", linestyle="--", linewidth=1.2, label=label)


def _place(x: float, number: int, count: int) -> tuple[float, float]:
    """Where the bar of one of `count` arms stands at x, and its width with what is left free beside it."""
    width = 0.84 / count
    return x + (number - (count - 1) / 2) * width, width
