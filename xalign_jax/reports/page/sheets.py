"""The rows of a model directory, by metric and settings: each such sheet is a figure of the page."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xalign_jax.interfaces import Column, Row
from xalign_jax.records.conditions import without_places
from xalign_jax.records.shown import CHANCE, Key, Shown

Level = int | str | None
DRAWS, LEAST = 1000, 5  # draws of a bootstrap over languages, and languages that it needs


class Place(NamedTuple):
    """Where a value of a sheet stands."""

    language: str
    level: Level
    control: str | None


class Spread(NamedTuple):
    """A mean over languages. `low`, `high`: its interval of 95 %; None = one language without an interval, or a few languages."""

    mean: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """All values of one metric that were measured with the same settings.

    Attributes:
      title, meaning: of the probe.   column: of the metric.   main: whether the page shows its figures at once.
      settings: of the probe, {} if they were not recorded.   named: the settings that other sheets of the metric differ in.
      steps: {(stage, step): {place: row}}, in the order of the steps.
      chance: the value that guessing reaches; None = nobody measured it.
    """

    probe: str
    metric: str
    split: str
    title: str
    meaning: str
    column: Column
    main: bool
    settings: Mapping[str, Any]
    named: str
    steps: Mapping[tuple[str, int], Mapping[Place, Row]]
    chance: float | None = None

    @property
    def heading(self) -> str:
        """The metric, the split and the settings that distinguish this sheet."""
        return ", ".join(filter(None, [self.column.heading, self.split, self.named]))

    @property
    def name(self) -> str:
        """The probe and the metric, or one of them where both have one name."""
        return self.title if self.heading == self.title else f"{self.title}: {self.heading}"

    @functools.cached_property
    def newest(self) -> Mapping[Place, Row]:
        """The rows of the newest step."""
        return self.steps[list(self.steps)[-1]]

    @functools.cached_property
    def levels(self) -> list[Level]:
        """Numbers first, then names such as "head"; [None] where there are none."""
        found = {place.level for place in self.newest if place.control is None} or {p.level for p in self.newest}
        numbers = sorted(level for level in found if isinstance(level, int))
        return [*([None] if None in found else []), *numbers, *sorted(lv for lv in found if isinstance(lv, str))]

    @functools.cached_property
    def controls(self) -> list[str]:
        """The controls that were measured."""
        return list(dict.fromkeys(place.control for place in self.newest if place.control))

    @functools.cached_property
    def languages(self) -> list[str]:
        """All languages, means such as "en->*" first, then by their value at the best level, the best first."""
        best, found = self.best_level, dict.fromkeys(place.language for place in self.newest)

        def order(language: str) -> tuple:
            at = value(self.newest.get(Place(language, best, None)))
            return "*" not in language, at is None, -self.sign * (at or 0.0), language

        return sorted(found, key=order)

    @functools.cached_property
    def single(self) -> list[str]:
        """The languages of which a mean consists: all, or those that are no means themselves."""
        return [name for name in self.languages if "*" not in name] or self.languages

    @property
    def sign(self) -> int:
        """-1 if the lowest value is the best one."""
        return -1 if self.column.best == "lowest" else 1

    @functools.cached_property
    def best_level(self) -> Level:
        """The level of the best mean over languages; the first level if no level is better than another."""
        levels = {place.level for place in self.newest if place.control is None}
        if not levels:
            return None
        means: dict[Level, float] = {}
        for level in levels:
            found = [value(r) for p, r in self.newest.items() if p.control is None and p.level == level]
            finite = [one for one in found if one is not None]
            if finite:
                means[level] = self.sign * sum(finite) / len(finite)
        # Levels in their order, so that the lowest of equally good ones is taken.
        ordered = sorted(means, key=lambda level: (isinstance(level, str), level is not None, level or 0))
        if not ordered or not self.column.best:
            return next(iter(ordered), None)
        return max(ordered, key=lambda level: means[level])

    def at(self, level: Level, control: str | None = None, step: tuple[str, int] | None = None) -> Spread | None:
        """The mean over languages at a level. A control without levels counts at every level."""
        rows = self.newest if step is None else self.steps[step]
        found = [rows.get(Place(name, level, control)) for name in self.single]
        if control and not any(found):
            found = [rows.get(Place(name, None, control)) for name in self.single]
        return spread([row for row in found if value(row) is not None and row])


def value(row: Row | None) -> float | None:
    """A row's value; None where there is no finite one."""
    return None if row is None or row["value"] is None or not math.isfinite(row["value"]) else row["value"]


def interval(row: Row) -> tuple[float, float] | None:
    """A row's interval, if it has one."""
    low, high = row.get("low"), row.get("high")
    return None if low is None or high is None else (low, high)


def spread(rows: Sequence[Row]) -> Spread | None:
    """The mean of rows, with a bootstrap interval over them if they are many. A single row has its own interval."""
    if not rows:
        return None
    values = np.array([row["value"] for row in rows], float)
    if len(rows) == 1:
        return Spread(float(values[0]), *(interval(rows[0]) or (None, None)))
    if len(rows) < LEAST:
        return Spread(float(values.mean()), None, None)
    # (DRAWS, languages): the same draws for every mean of as many languages.
    means = values[np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Spread(float(values.mean()), float(low), float(high))


def sheets(rows: Sequence[Row], recorded: Mapping[str, Mapping[str, Any]]) -> list[Sheet]:
    """The sheets of all rows, in the order of the tables.

    Args:
      recorded: the contents of `probes.json`.
    """
    shown = Shown([recorded], [Key.of(row) for row in rows])
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        # Places do not count: a copy of the text elsewhere is the same condition.
        settings = json.dumps(without_places(row.get("settings") or {}), sort_keys=True)
        groups.setdefault((row["probe"], row["metric"], row["split"] or "", settings), []).append(row)
    ordered = sorted(groups, key=lambda group: (shown.rank(Key(*group[:2])), group[2:]))
    found = [_sheet(group, groups[group], groups, recorded, shown) for group in ordered]
    chances = {one.probe: _chance(one) for one in found if one.metric == CHANCE}
    # One number stands beside the other metrics of its probe; several stand for themselves.
    alone = [probe for probe in chances if all(one.metric == CHANCE for one in found if one.probe == probe)]
    return [
        dataclasses.replace(one, chance=None if one.metric == CHANCE else chances.get(one.probe))
        for one in found
        if one.metric != CHANCE or chances[one.probe] is None or one.probe in alone
    ]


def _sheet(
    group: tuple[str, str, str, str],
    rows: Sequence[Row],
    groups: Mapping[tuple, Sequence[Row]],
    recorded: Mapping[str, Mapping[str, Any]],
    shown: Shown,
) -> Sheet:
    """The sheet of the rows of a group."""
    probe, metric, split, settings = group
    column = shown.column(Key(probe, metric))
    others = [json.loads(other) for *place, other in groups if (*place, other)[:3] == group[:3]]
    named = {name: one for name, one in json.loads(settings).items() if any(other.get(name) != one for other in others)}
    # A probe without headlines shows everything.
    headlines = [about for about in recorded.get(probe, {}).get("columns", {}).values() if about.get("headline")]
    return Sheet(
        probe=probe,
        metric=metric,
        split=split,
        title=shown.title(probe),
        meaning=recorded.get(probe, {}).get("meaning", ""),
        column=column,
        main=column.headline or not headlines,
        settings=next((row["settings"] for row in reversed(rows) if row.get("settings")), {}),
        named=", ".join(f"{name} = {_word(one)}" for name, one in named.items()),
        steps={step: dict(_places(list(each))) for step, each in itertools.groupby(rows, _step)},
    )


def _word(setting: object) -> str:
    return setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False)


def _step(row: Row) -> tuple[str, int]:
    return row["stage"], row["step"]


def _places(rows: Sequence[Row]) -> Iterator[tuple[Place, Row]]:
    """The place of each row of a step. Languages that were measured on several texts are told apart by the text."""
    data: dict[Place, set[str | None]] = {}
    for row in rows:
        data.setdefault(Place(row["language"] or "", row["level"], row["control"]), set()).add(row.get("data"))
    several = {place.language for place, found in data.items() if len(found) > 1}
    for row in rows:
        language = row["language"] or ""
        if language in several:
            language += f" (data {row.get('data') or 'unknown'})"
        yield Place(language, row["level"], row["control"]), row


def _chance(sheet: Sheet) -> float | None:
    """The only value of a sheet; None if it has several."""
    found = {value(row) for row in sheet.newest.values()}
    return found.pop() if len(found) == 1 else None


def pairs(languages: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{language: (source, target)} of those that are directions such as "en->de". Means are none."""
    found = {name: re.fullmatch(r"(.+?)->(.+)", name) for name in languages if "*" not in name}
    return {name: (match[1], match[2]) for name, match in found.items() if match}


def is_matrix(languages: Sequence[str]) -> bool:
    """Whether directions connect languages in more ways than each with one pivot."""
    found = pairs(languages).values()
    names = {name for pair in found for name in pair}
    return len(names) > 2 and not any(all(name in pair for pair in found) for name in names)


def directions(languages: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """[(heading, {language: its label})]: directions from a pivot and into it apart, each without the pivot's name."""
    found = pairs(languages)
    names = dict.fromkeys(name for pair in found.values() for name in pair)
    pivots = [name for name in names if all(name in pair for pair in found.values())]
    if len(found) < 2 or not pivots or is_matrix(languages):
        return [("", {name: spelled(name) for name in languages})]
    # A single pair has two candidates: its first source is the pivot.
    pivot = pivots[0]
    rest = {name: spelled(name) for name in languages if name not in found}
    out = {name: b for name, (a, b) in found.items() if a == pivot}
    back = {name: a for name, (a, b) in found.items() if a != pivot}
    parts = [(f"from {pivot} into", out), (f"into {pivot} from", back)]
    return [("", rest)] * bool(rest) + [(heading, part) for heading, part in parts if part]


def spelled(language: str) -> str:
    """A language for readers."""
    return "all languages" if language in ("", "*") else language.replace("->", "→")
