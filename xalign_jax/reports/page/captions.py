"""What stands below a figure: n, levels, pooling, controls and intervals, read from the rows themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xalign_jax.interfaces import Row
from xalign_jax.records.conditions import without_places
from xalign_jax.reports.html import escape
from xalign_jax.reports.page.sheets import Level, Sheet, interval, value
from xalign_jax.reports.tables import number

# Settings that a caption names in words of its own.
NAMED = {"class", "controls", "levels", "pooling"}


def caption(sheet: Sheet, about: str, levels: Sequence[Level] | None = None) -> str:
    """The caption of a sheet's figure, in HTML.

    Args:
      about: what the figure shows, in plain text.
      levels: those that it shows; None = all.
    """
    rows = [row for place, row in sheet.newest.items() if levels is None or place.level in levels]
    parts = [f"n = {counts(rows)}"]
    numbers = [level for level in (sheet.levels if levels is None else levels) if isinstance(level, int)]
    if numbers:
        parts.append(f"levels {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"level {numbers[0]}")
    if "pooling" in sheet.settings:
        parts.append(f"pooling: {sheet.settings['pooling']}")
    parts.append(f"controls: {', '.join(sheet.controls)}" if sheet.controls else "no control")
    if sheet.chance is not None:
        parts.append(f"chance: {number(sheet.chance)}")
    parts.append("interval: 95 %, bootstrap" if any(map(interval, rows)) else "no interval was recorded")
    parts += [*settings(sheet.settings), *files(row.get("settings") or {} for row in _plain(sheet))]
    lines = [about, " · ".join(parts), *undefined(rows)]
    return "".join(f'<p class="caption">{escape(line)}</p>' for line in lines)


def counts(rows: Iterable[Row]) -> str:
    """The n of some rows: 200, or 200 to 1000."""
    found = sorted({row["n"] for row in rows if row["n"] is not None})
    return "unknown" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def settings(found: Mapping[str, Any]) -> list[str]:
    """The settings that are worth words: those that hold something."""
    if not found:
        return ["settings were not recorded"]
    plain = {name: one for name, one in without_places(dict(found)).items() if name not in NAMED}
    words = [
        f"{name} = {one}"
        for name, one in plain.items()
        if one not in (None, "", [], {}) and not isinstance(one, dict | list)
    ]
    return words


def _plain(sheet: Sheet) -> list[Row]:
    """The rows of the best level without controls. Each language may have been read from files of its own."""
    return [row for place, row in sheet.newest.items() if (place.level, place.control) == (sheet.best_level, None)]


def files(several: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the files that several settings hold, in words; [] for none."""
    found = dict.fromkeys(path for one in several for path in _strings(one.get("files") or ()))
    names = [os.path.basename(path) for path in found]
    shown = ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} … {names[-1]} ({len(names)} files)"
    return [f"text: {shown}"] if names else []


def _strings(one: Any) -> list[str]:
    """The paths among the values of `files`, which is nested as each probe likes."""
    if isinstance(one, str):
        return [one] if "/" in one or "." in one else []
    inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, Sequence) else ()
    return [path for each in inner for path in _strings(each)]


def undefined(rows: Iterable[Row]) -> list[str]:
    """A line that says which reasons rows without a value have."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        if value(row) is None:
            reasons.setdefault(str(row.get("reason") or row["value"] or "null"), []).append(row)
    return [
        f"No value for {len(own)} of the rows ({_where(own[0])}{', …' if len(own) > 1 else ''}): {reason}"
        for reason, own in reasons.items()
    ]


def _where(row: Row) -> str:
    parts = [row["language"], f"level {row['level']}" if row["level"] is not None else "", row["control"]]
    return ", ".join(filter(None, parts)) or row["metric"]
