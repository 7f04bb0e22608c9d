"""How reports and model cards show values of probes: as `probes.json` says, or as names and levels suggest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from xalign_jax.interfaces import Column, Row
from xalign_jax.records.conditions import conditions

CHANCE = "chance"  # the metric of this name is the value that guessing reaches in its probe's other metrics


class Key(NamedTuple):
    """The identity of a value: what was measured.

    Attributes:
      level: a hidden level, "head", or None.
      conditions: a hash that tells apart values measured with different settings or data; "" where one set suffices
        (`reports.tables.tell_apart`).
    """

    probe: str
    metric: str
    language: str | None = None
    level: int | str | None = None
    split: str | None = None
    control: str | None = None
    conditions: str = ""

    @classmethod
    def of(cls, row: Row) -> Key:
        """The key of a row of `results.json`."""
        return cls(**{name: row[name] for name in cls._fields if name != "conditions"}, conditions=conditions(row))


class Shown:
    """Titles, headings and headlines of some values.

    A probe that no `probes.json` names is shown by its name in words, and so are its metrics. It is by level if any of
    its values has a level. It has no headlines; but if no value at all is a headline, every value without a level is
    one.
    """

    def __init__(self, recorded: Iterable[Mapping[str, Any]], keys: Iterable[Key]) -> None:
        """
        Args:
          recorded: the `probes.json` of each directory (`records.read_shown`); the later one counts where two differ.
          keys: of all values, with those of controls, in the order of their rows.
        """
        self.recorded: dict[str, Mapping[str, Any]] = {}
        for one in recorded:
            self.recorded |= one
        # First what probes say about themselves.
        self._titles = {probe: about.get("title", _title(probe)) for probe, about in self.recorded.items()}
        self._by_level = {probe for probe, about in self.recorded.items() if about.get("by_level")}
        self._columns = {
            probe: {metric: _column(metric, column) for metric, column in about.get("columns", {}).items()}
            for probe, about in self.recorded.items()
        }
        # Then what values suggest, for probes and metrics that no probes.json names.
        keys = list(keys)
        for key in keys:
            self._titles.setdefault(key.probe, _title(key.probe))
            self._columns.setdefault(key.probe, {}).setdefault(key.metric, _column(key.metric, {}))
            if key.probe not in self.recorded and key.level is not None:
                self._by_level.add(key.probe)
        # Headlines are never controls or chance. The three sets below are built in this order, because `headline` reads
        # the first two.
        plain = [key for key in keys if key.control is None and key.metric != CHANCE]
        self._everything = not any(self.column(key).headline for key in plain)
        self._means: set[str] = set()
        self._means = {key.probe for key in plain if _of_means(key) and self.headline(key)}
        self._headlined = {key.probe for key in plain if self.headline(key)}

    def title(self, probe: str) -> str:
        """The title of a probe's tables."""
        return self._titles[probe]

    def meaning(self, probe: str) -> str:
        """A sentence on what a probe measures; "" if no `probes.json` has one."""
        return self.recorded.get(probe, {}).get("meaning", "")

    def by_level(self, probe: str) -> bool:
        """Whether tables have a column for each level of a probe."""
        return probe in self._by_level

    def column(self, key: Key) -> Column:
        """How reports show a value's metric."""
        return self._columns[key.probe][key.metric]

    def headline(self, key: Key) -> bool:
        """Whether pictures show a value. A probe with means over languages has these as its only headlines."""
        if key.control is not None or key.metric == CHANCE:
            return False
        # Without any headline, values without a level stand in for them.
        wanted = key.level is None if self._everything else self.column(key).headline
        return wanted and (_of_means(key) or key.probe not in self._means)

    def summarised(self, key: Key) -> bool:
        """Whether summaries and model cards show a value: the headlines, and the chance of their probes."""
        chance = key.control is None and key.metric == CHANCE and key.probe in self._headlined
        return chance or self.headline(key)

    def lone(self, key: Key) -> bool:
        """Whether a metric is its probe's only headline, so that the probe's title says enough."""
        headlines = [metric for metric, column in self._columns[key.probe].items() if column.headline]
        return headlines == [key.metric]

    def rank(self, key: Key) -> tuple[int, int]:
        """The places of the probe and of the metric in the order of tables."""
        return list(self._columns).index(key.probe), list(self._columns[key.probe]).index(key.metric)


def _title(probe: str) -> str:
    """A probe's name in words."""
    words = probe.replace("_", " ")
    return words[:1].upper() + words[1:]


def _column(metric: str, about: Mapping[str, Any]) -> Column:
    """How reports show a metric. Attributes that a newer version wrote and this one lacks are left out."""
    known = {name: value for name, value in about.items() if name in Column._fields}
    return Column(**{"heading": metric.replace("_", " ")} | known)


def _of_means(key: Key) -> bool:
    """Whether a value is a mean over languages, such as "en->*"."""
    return "*" in (key.language or "")
