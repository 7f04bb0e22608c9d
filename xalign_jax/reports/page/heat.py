"""Tables whose cells are coloured by their values: level by language, and language by language."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from xalign_jax.interfaces import Row
from xalign_jax.reports.html import escape
from xalign_jax.reports.page.sheets import Level, Place, Sheet, directions, interval, pairs, spelled, value
from xalign_jax.reports.tables import number

# From light to dark in one order of lightness, so that every kind of colour vision reads them (ColorBrewer's YlGnBu).
RAMP = ("#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58")
# For values on both sides of 0 (ColorBrewer's PuOr).
BOTH = ("#b35806", "#e08214", "#fdb863", "#fee0b6", "#f7f7f7", "#d8daeb", "#b2abd2", "#8073ac", "#542788")

MANY = 30  # columns, whose cells must be small


class Scale(NamedTuple):
    """Colours of the values from `low` to `high`."""

    low: float
    high: float
    ramp: Sequence[str] = RAMP

    def colour(self, at: float) -> tuple[int, int, int]:
        """(red, green, blue), 0 to 255."""
        share = (at - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        place = min(1.0, max(0.0, share)) * (len(self.ramp) - 1)
        first = min(int(place), len(self.ramp) - 2)
        ends = [[int(self.ramp[first + i][j : j + 2], 16) for j in (1, 3, 5)] for i in (0, 1)]
        red, green, blue = (round(a + (b - a) * (place - first)) for a, b in zip(*ends, strict=True))
        return red, green, blue

    def cell(self, at: float | None, told: str) -> str:
        """A cell of a table with a value, in letters that its colour does not swallow; None = there is no value."""
        if at is None:
            return f'<td title="{escape(told)}">n/a</td>'
        red, green, blue = self.colour(at)
        # Relative luminance, roughly.
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        return (
            f'<td class="{"w" if dark else "b"}" style="background:#{red:02x}{green:02x}{blue:02x}" '
            f'title="{escape(told)}">{short(at)}</td>'
        )

    def legend(self) -> str:
        """The bar of colours with the values at its ends."""
        return (
            f'<p class="ramp">{number(self.low)}<span style="background:linear-gradient(90deg,{",".join(self.ramp)})">'
            f"</span>{number(self.high)}</p>"
        )


def scale_of(values: Sequence[float]) -> Scale:
    """A scale for some values: 0 to 1 for shares that differ much, and 0 in the middle for values on both sides of it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low < -0.05 * max(abs(high), abs(low)) and high > 0:
        most = max(-low, high)
        return Scale(-most, most, BOTH)
    return Scale(0.0, 1.0) if low >= 0 and high <= 1 and high - low > 0.3 else Scale(low, high)


def short(at: float) -> str:
    """A value of two or three digits: .87, 1, 3.1, 240."""
    if abs(at) < 0.995:
        return f"{at:.2f}".replace("0.", ".", 1)
    return f"{at:.0f}" if abs(at) >= 9.95 else f"{at:.1f}".removesuffix(".0")


def told(row: Row, controls: Sequence[tuple[str, Row | None]] = ()) -> str:
    """A row's value in words: 0.812 [0.730, 0.880], n = 100; shuffled 0.010."""
    if value(row) is None:
        return f"no value: {row.get('reason') or row['value'] or 'null'}"
    found = interval(row)
    parts = [number(row["value"]) + (f" [{number(found[0])}, {number(found[1])}]" if found else "")]
    if row["n"] is not None:
        parts.append(f"n = {row['n']}")
    parts += [
        f"{control} {number(other['value'])}" for control, other in controls if other and value(other) is not None
    ]
    return ", ".join(parts)


def turned(words: Sequence[str]) -> str:
    """The heads of narrow columns: long words are turned, and words of square characters run downwards.

    CSS's own vertical text needs metrics that many fonts lack.
    """
    square = [all(unicodedata.east_asian_width(one) in "WF" for one in word) for word in words]
    # In widths of a letter: about 0.62 em each, and 1.3 em for a square one.
    heights = [1.3 * len(word) if own else 0.62 * len(word) + 0.6 for word, own in zip(words, square, strict=True)]
    style = f' style="height:{max([2.0, *heights]):.1f}em"'

    def cell(word: str, own: bool) -> str:
        if own or len(word) < 3:
            return "<br>".join(map(escape, word)) if own else escape(word)
        return f'<span dir="auto">{escape(word)}</span>'

    return "".join(f'<th class="up"{style}>{cell(word, own)}</th>' for word, own in zip(words, square, strict=True))


def level_name(level: Level) -> str:
    """The head of a level's column."""
    return "" if level is None else str(level)


def by_level(sheet: Sheet) -> str:
    """Heat maps of level by language, one for each direction, with the means and the controls."""
    scale = scale_of([one for row in sheet.newest.values() if (one := value(row)) is not None])
    parts = []
    for heading, labels in directions(sheet.languages):
        parts.append(_by_level(sheet, scale, heading, labels))
    return f'<div><div class="heat">{"".join(parts)}</div>{scale.legend()}</div>'


def _by_level(sheet: Sheet, scale: Scale, heading: str, labels: Mapping[str, str]) -> str:
    head = "".join(
        f"<th{' class=best' if level == sheet.best_level and sheet.column.best else ''}>{escape(level_name(level))}</th>"
        for level in sheet.levels
    )
    lines = [f"<tr><th>{escape(heading)}</th>{head}</tr>"]

    def line(name: str, cell: Callable[[Level], str], kind: str = "") -> None:
        cells = "".join(cell(level) for level in sheet.levels)
        lines.append(f'<tr class="{kind}"><th>{escape(name)}</th>{cells}</tr>')

    if len(labels) > 1:
        line("mean", lambda level: _mean(sheet, scale, level, [*labels]), "mean")
    for language, label in labels.items():
        line(label, lambda level, language=language: _cell(sheet, scale, language, level))  # type: ignore[misc]
    for control in sheet.controls:
        line(f"{control}, mean", lambda level, own=control: _mean(sheet, scale, level, [*labels], own), "control")  # type: ignore[misc]
    return f'<div class="wide"><table class="cells">{"".join(lines)}</table></div>'


def _cell(sheet: Sheet, scale: Scale, language: str, level: Level) -> str:
    """The cell of a language at a level, with its controls in words."""
    row = sheet.newest.get(Place(language, level, None))
    if row is None:
        return "<td></td>"
    place = f"{spelled(language)}, level {level}: " if level is not None else f"{spelled(language)}: "
    about = place + told(row, [(name, sheet.newest.get(Place(language, level, name))) for name in sheet.controls])
    return scale.cell(value(row), about)


def _mean(sheet: Sheet, scale: Scale, level: Level, languages: Sequence[str], control: str | None = None) -> str:
    rows = [row for name in languages if "*" not in name and (row := sheet.newest.get(Place(name, level, control)))]
    # A control without levels stands at every level.
    if control and not rows:
        rows = [row for name in languages if (row := sheet.newest.get(Place(name, None, control)))]
    values = [one for row in rows if (one := value(row)) is not None]
    if not values:
        return "<td></td>"
    mean = sum(values) / len(values)
    return scale.cell(mean, f"mean of {len(values)}: {number(mean)}, {number(min(values))} to {number(max(values))}")


def matrix(sheet: Sheet) -> str:
    """A table of source by target language at the best level."""
    found = pairs(sheet.single)
    at = {found[name]: row for name in found if (row := sheet.newest.get(Place(name, sheet.best_level, None)))}
    scale = scale_of([one for row in at.values() if (one := value(row)) is not None])

    def mean(language: str) -> float:
        own = [one for pair, row in at.items() if language in pair and (one := value(row)) is not None]
        return -sheet.sign * sum(own) / len(own) if own else 0.0

    names = sorted({name for pair in at for name in pair}, key=lambda name: (mean(name), name))
    head = turned(names)
    lines = [f"<tr><th>source ↓ target →</th>{head}</tr>"]
    for source in names:
        cells = []
        for target in names:
            row = at.get((source, target))
            cells.append(scale.cell(value(row), f"{source}→{target}: {told(row)}") if row else "<td></td>")
        lines.append(f"<tr><th>{escape(source)}</th>{''.join(cells)}</tr>")
    kind = "cells many" if len(names) > MANY else "cells"
    return f'<div><div class="wide"><table class="{kind}">{"".join(lines)}</table></div>{scale.legend()}</div>'
