"""Pictures of a recipe's data, from the plain values of `data_page`. matplotlib is imported when they are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xalign_jax.reports.plots import COLOURS, axes, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = Mapping[str, Any]
LONGEST = 30  # characters of a task's name in tables and pictures
MOST_CURVES = 12  # languages of a picture with curves; the largest ones


def draw(found: Found) -> Iterator[tuple[str, str, Figure]]:
    """(name, a sentence about it, figure) of each picture for which there are numbers."""
    texts = _by_language(found["texts"])
    if texts:
        yield "texts", "Training text of each language, over all tasks. The scale is logarithmic.", _sizes(texts)
        yield "fertility", _FERTILITY, _fertility(texts)
    groups = {task: sizes for task, sizes in found["parallelism"].items() if {*sizes} - {1}}
    if groups:
        yield (
            "parallelism",
            "Groups of translations by the number of their languages.",
            _groups(groups, short_names(found)),
        )
    if found["duplicates"]:
        yield "duplicates", "Shares of texts that duplicate an earlier text of their language.", _doubles(found)
    if "dictionary" in found:
        yield "dictionary", _covered(found["dictionary"]), _dictionary(found["dictionary"]["entries"])
    for one in found["drawn"]:
        yield f"rates {one['stream']}", _drawn(one), _rates(one)


def short_names(found: Found) -> dict[str, str]:
    """Task -> its name, or "task 2" if the name holds long paths."""
    return {
        task: task if len(task) <= LONGEST else f"task\u00a0{number}"
        for number, task in enumerate(dict.fromkeys(line["task"] for line in found["texts"]), 1)
    }


_FERTILITY = (
    "How text is cut. Few bytes a token and many tokens a word mean that the vocabulary knows the language badly. "
    "In scripts without spaces each piece counts as a word."
)


def _by_language(lines: Sequence[Found]) -> dict[str, dict[str, int]]:
    """Language -> sums over the training texts of all tasks; most tokens first."""
    names = ("documents", "tokens", "utf8_bytes", "words", "word_tokens")
    found: dict[str, dict[str, int]] = {}
    for line in lines:
        if line["split"] == "train":
            sums = found.setdefault(line["language"], dict.fromkeys(names, 0))
            for name in names:
                sums[name] += line[name]
    return dict(sorted(found.items(), key=lambda item: -item[1]["tokens"]))


def _bars(
    panel: Axes, names: Sequence[str], values: Sequence[float], colour: int, shift: float = 0.0, width: float = 0.8
) -> None:
    panel.bar(np.arange(len(names)) + shift, values, width, color=COLOURS[colour])
    panel.set_xticks(np.arange(len(names)), names, rotation=90 if len(names) > 12 else 0)
    panel.set_xlim(-0.6, max(len(names), 3) - 0.4)


def _wide(names: Sequence[str]) -> float:
    """Inches of a panel with a bar for each name."""
    return min(15.0, max(5.0, 0.25 * len(names)))


def _sizes(texts: Mapping[str, Mapping[str, int]]) -> Figure:
    figure, panels = axes(2, _wide([*texts]), 3)
    for number, (panel, name) in enumerate(zip(panels, ("documents", "tokens"), strict=True)):
        _bars(panel, [*texts], [sums[name] for sums in texts.values()], number)
        panel.set_yscale("log")
        # From the power of ten below the smallest bar, with names at powers of ten only.
        smallest = min(max(1, sums[name]) for sums in texts.values())
        panel.set_ylim(bottom=10 ** math.floor(math.log10(smallest)) / 1.5)
        panel.yaxis.set_minor_formatter("")
        panel.set_ylabel(name)
    return figure


def _fertility(texts: Mapping[str, Mapping[str, int]]) -> Figure:
    figure, panels = axes(2, _wide([*texts]), 3)
    for number, (panel, part, whole, name) in enumerate(
        (
            (panels[0], "utf8_bytes", "tokens", "bytes a token"),
            (panels[1], "word_tokens", "words", "tokens a word"),
        )
    ):
        _bars(panel, [*texts], [sums[part] / max(1, sums[whole]) for sums in texts.values()], number)
        panel.set_ylabel(name)
    return figure


def _groups(groups: Mapping[str, Mapping[int, int]], names: Mapping[str, str]) -> Figure:
    figure, panels = axes(len(groups), 5 if len(groups) > 1 else 7, 3)
    for panel, (task, sizes) in zip(panels, groups.items(), strict=True):
        panel.bar([*sizes], [*sizes.values()], color=COLOURS[0])
        panel.set_xlabel("languages")
        panel.set_ylabel("groups")
        panel.set_title(names[task], fontsize="medium")
        panel.locator_params(axis="x", integer=True)
    return figure


def _doubles(found: Found) -> Figure:
    lines = found["duplicates"]
    names = [line["language"] for line in lines]
    figure, panels = axes(2, _wide(names), 3)
    for panel, whole, parts, title in (
        (panels[0], "documents", ("exact", "near"), "training text"),
        (panels[1], "validation", ("leaked", "near_leaked"), "validation text that is in training"),
    ):
        for number, (part, label) in enumerate(zip(parts, ("exact", "near"), strict=True)):
            shares = [100 * line[part] / max(1, line[whole]) for line in lines]
            _bars(panel, names, shares, number, 0.4 * number - 0.2, 0.4)
            panel.patches[-1].set_label(label)
        panel.set_ylabel("%")
        panel.set_title(title, fontsize="medium")
    legend(figure, panels)
    return figure


def _covered(dictionary: Found) -> str:
    share = dictionary["coverage"]
    known = "none" if share is None else f"{share:.1%}"
    return f"What became of the dictionary's entries. It can switch {known} of the running words."


def _dictionary(entries: Mapping[str, int]) -> Figure:
    figure, (panel,) = axes(1, 10, 0.8 + 0.35 * len(entries))
    panel.barh([*entries], [*entries.values()], color=COLOURS[0])
    panel.invert_yaxis()
    panel.grid(visible=False)
    for place, count in enumerate(entries.values()):
        panel.annotate(f" {count:,}", (count, place), va="center")
    return figure


def _drawn(one: Found) -> str:
    """What is to be seen in the picture of a stream's shares."""
    read = f"Shares of {one['unit']} in {one['rows']:,} rows"
    read += " around each of these steps" if len(one["steps"]) > 1 else f" from step {one['steps'][0]:,} on"
    if one["pairs"]:
        return f"{read}. The mixture wishes one text of each pair; both are counted, so the shares differ."
    return f"{read}, beside the shares that the mixture wishes." if one["wished"] else f"{read}. No mixture is read."


def _rates(one: Found) -> Figure:
    wished, drawn = one["wished"], one["drawn"]
    largest = sorted({*wished, *drawn}, key=lambda name: -max([*wished.get(name, ()), *drawn.get(name, ())], default=0))
    if len(one["steps"]) == 1:
        figure, (panel,) = axes(1, max(6.0, min(15.0, 0.4 * len(largest))), 3.2)
        both = [(wished, "wished"), (drawn, f"{one['unit']} read")]
        for number, (shares, label) in enumerate(both if wished else both[1:]):
            values = [100 * shares.get(name, [0.0])[0] for name in largest]
            _bars(panel, largest, values, number, 0.4 * number - 0.2 if wished else 0.0, 0.4)
            panel.patches[-1].set_label(label)
    else:
        figure, (panel,) = axes(1, 9, 3.6)
        for number, name in enumerate(largest[:MOST_CURVES]):
            look = style(number)
            panel.plot(one["steps"], [100 * share for share in wished.get(name, ())], label=f"{name}, wished", **look)
            shares = drawn.get(name, [0.0] * len(one["steps"]))
            dots = [100 * share for share in shares]
            panel.plot(one["steps"], dots, "o", color=look["color"], markersize=4, label=f"{name}, read")
        panel.set_xlabel("step")
    panel.set_ylabel("%")
    panel.set_ylim(bottom=0)
    legend(figure, [panel])
    return figure
