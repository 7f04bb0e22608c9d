"""Rows of `results.json` as a table: runs grouped by recipe, one column for each thing measured."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xalign_jax.errors import UserError
from xalign_jax.records.files import read_environment, read_metrics, read_results, read_shown
from xalign_jax.records.shown import Key, Shown


@dataclasses.dataclass(frozen=True)
class Run:
    """What a model directory holds about one step of a stage: the values whose newest measurement was at this step.

    Attributes:
      arm: the recipe's name.   fingerprint: of its vocabulary.   stage, step: of the values.
      early: "" for the newest step of the last stage; for other steps their place, "after STAGE" or "step N of STAGE".
      settings: `config.gin` without the seed; runs of one arm share it.
      values: by what they measure; NaN where the value was not finite.   counts: n of each.
      conditions: by hash, the probe's settings and the data's fingerprint: {"settings": ..., "data": ...}.
      metrics: the rows of `metrics.jsonl`.
      probes: how probes are shown, from `probes.json`.
      model: its settings.   texts: by language, what identifies its validation texts and their vocabulary. Both are ""
        and {} where nobody recorded them.
    """

    directory: Path
    arm: str
    seed: int
    fingerprint: str
    settings: str
    metrics: list[dict[str, Any]]
    stage: str = ""
    step: int = 0
    early: str = ""
    values: dict[Key, float] = dataclasses.field(default_factory=dict)
    counts: dict[Key, int] = dataclasses.field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    model: str = ""
    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    def tokens(self) -> dict[str, int]:
        """The tokens that the run had read of each language at this step, by its log; languages without any left out."""
        found: dict[str, int] = {}
        for row in self.metrics:
            for name, count in row.items():
                if name.startswith("tokens/") and count and row["step"] <= self.step:
                    found[name.removeprefix("tokens/")] = found.get(name.removeprefix("tokens/"), 0) + count
        return found


def read_runs(directory: Path, needs_results: bool = True) -> list[Run]:
    """Read a model directory: at least one `Run`, for each probed stage in order.

    A stage has one at its newest step. Values that were measured at an earlier step only are in a `Run` of that step.

    Raises:
      UserError: it is not a model directory, or holds no results where they are needed.
    """
    # Every run and every import writes environment.json first.
    if not (directory / "environment.json").is_file():
        raise UserError(f"{directory}: no environment.json there; is it a model directory?")
    environment = read_environment(directory, ("recipe_name", "vocabulary_fingerprint"))
    config, rows = directory / "config.gin", read_results(directory)
    if needs_results and not rows:
        raise UserError(
            f"{directory}: no results in results.json; finish `xalign train`, or run `xalign evaluate` there"
        )
    # What all steps of the directory have in common.
    empty = Run(
        directory=directory,
        arm=environment["recipe_name"],
        seed=environment.get("seed", 0),  # an imported model has none
        fingerprint=environment["vocabulary_fingerprint"],
        settings=_recipe_settings(config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""),
        metrics=read_metrics(directory),
        probes=read_shown(directory),
        model=json.dumps(environment.get("recipe", {}).get("model", "")),
        texts=_texts(environment.get("texts", {})),
    )
    # In order of steps, so that later measurements replace earlier ones of the same key.
    rows = sorted(rows, key=lambda row: row["step"])
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    found = []
    for name in stages:
        # The last of equal keys stays.
        newest = {Key.of(row): row for row in rows if row["stage"] == name}
        # Every step that still has the newest measurement of something.
        steps = sorted({row["step"] for row in newest.values()})
        for step in steps:
            ends = step == steps[-1]
            early = "" if ends and name == stages[-1] else f"after {name}" if ends else f"step {step} of {name}"
            here = {key: row for key, row in newest.items() if row["step"] == step}
            found.append(_with(dataclasses.replace(empty, stage=name, step=step, early=early), here))
    return found or [empty]


def _texts(recorded: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[str, str]:
    """By language, the fingerprints of its validation texts in all tasks. They cover the vocabulary, without clones."""
    found: dict[str, list[str]] = {}
    for splits in recorded.values():
        for language, fingerprint in splits.get("validation", {}).items():
            found.setdefault(language, []).append(fingerprint)
    return {language: " ".join(sorted(prints)) for language, prints in found.items()}


def _with(run: Run, rows: Mapping[Key, dict[str, Any]]) -> Run:
    """The run with the values of some rows of `results.json`. null stands for a value that was not finite."""
    return dataclasses.replace(
        run,
        values={key: math.nan if row["value"] is None else row["value"] for key, row in rows.items()},
        counts={key: row["n"] for key, row in rows.items()},
        conditions={
            key.conditions: {"settings": row.get("settings") or {}, "data": row.get("data")}
            for key, row in rows.items()
            if key.conditions
        },
    )


def tell_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, with `Key.conditions` only where the same thing was measured under several conditions in any of them.

    So values of different test sets or settings never share a heading, and a heading is plain where one set suffices.
    """
    # What shares a heading -> all conditions under which it was measured.
    seen: dict[tuple, set[str]] = {}
    for run in runs:
        for key in run.values:
            seen.setdefault(_place(key), set()).add(key.conditions)

    def short(key: Key) -> Key:
        return key if len(seen[_place(key)]) > 1 else key._replace(conditions="")

    return [
        dataclasses.replace(
            run,
            values={short(key): value for key, value in run.values.items()},
            counts={short(key): count for key, count in run.counts.items()},
        )
        for run in runs
    ]


def _place(key: Key) -> tuple:
    """The parts of a key that share one heading."""
    return key.probe, key.language, key.split


def describe(name: str, known: Mapping[str, dict[str, Any]]) -> str:
    """The words that distinguish conditions from others of their probe: `sentences = 200, data 5c2e1a7b9d03`."""
    if name not in known:
        return "settings and data were not recorded"
    # Only options that another measurement of this probe has with another value.
    own = known[name]["settings"]
    others = [one["settings"] for one in known.values() if one["settings"].get("class") == own.get("class")]
    told = [
        f"{option} = {json.dumps(value, ensure_ascii=False)}"
        for option, value in own.items()
        if any(other.get(option) != value for other in others)
    ]
    return ", ".join([*told, f"data {known[name]['data']}"])


def _recipe_settings(config: str) -> str:
    """The lines of `config.gin` that two seeds of one recipe share: neither its seed nor the runtime."""
    return "\n".join(line for line in config.splitlines() if not re.match(r"Recipe\.seed\b|Runtime\.|\s*$", line))


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs of one recipe, which differ in the seed. `early`: at a step before the newest of their last stage."""

    name: str
    runs: tuple[Run, ...]
    early: bool = False

    def values(self, key: Key) -> list[float]:
        """One value for each seed that has it: the mean over the runs of a seed, which are not independent draws."""
        seeds: dict[int, list[float]] = {}
        for run in self.runs:
            if key in run.values:
                seeds.setdefault(run.seed, []).append(run.values[key])
        return [statistics.fmean(values) for values in seeds.values()]


def group(runs: Sequence[Run]) -> list[Arm]:
    """Runs by recipe, in the order given. Recipes of one name with different settings are told apart by directory.

    Earlier steps of a run and the ends of its earlier stages are arms of their own, after the run's end.
    """
    # Runs of one name and equal settings are seeds of one recipe.
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.arm, run.settings), []).append(run)
    # Two entries of one name differ in settings; the shortest ends of their directories tell them apart.
    names = [name for name, _ in found]
    places = _shortest([members[0].directory for members in found.values()])
    arms = []
    for ((name, _), members), place in zip(found.items(), places, strict=True):
        label = name if names.count(name) == 1 else f"{name} ({place})"
        arms.append(Arm(label, tuple(run for run in members if not run.early)))
        # Earlier steps keep the label of their run, with what they were in it.
        for early in dict.fromkeys(run.early for run in members if run.early):
            arms.append(Arm(f"{label}, {early}", tuple(run for run in members if run.early == early), early=True))
    return arms


def _shortest(directories: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as distinguish all of them."""
    parts = [directory.absolute().parts for directory in directories]
    # One more part each time, until all ends differ.
    ends = ([str(Path(*path[-count:])) for path in parts] for count in range(1, 1 + max(map(len, parts), default=1)))
    return next((end for end in ends if len({*end}) == len({*parts})), [])


def shown_in(runs: Sequence[Run]) -> Shown:
    """How the values of these runs are shown, by what all their directories say about probes."""
    return Shown([run.probes for run in runs], [key for run in runs for key in run.values])


def keys_of(runs: Sequence[Run], shown: Shown) -> list[Key]:
    """Everything that any of the runs measured, in the order of the tables."""
    return sorted({key for run in runs for key in run.values}, key=lambda key: _order(key, shown))


_WORDS = {"dictionary": "dictionary words", "heldout": "held-out words"}


def _order(key: Key, shown: Shown) -> tuple:
    """A value's place in the order of tables: by-level probes by table and level, others by metric and language."""
    probe, metric = shown.rank(key)
    level, split, language = key.level, key.split or "", key.language or ""
    # No level first, then numbers, then names such as "head".
    depth = (-1, "") if level is None else (level, "") if isinstance(level, int) else (math.inf, str(level))
    inner = (split, language, metric) if shown.by_level(key.probe) else (metric, language, split)
    return (probe, *inner, key.conditions, depth, key.control or "")


def section(key: Key, shown: Shown) -> str:
    """The heading of the table that holds a value."""
    title = shown.title(key.probe)
    return ", ".join([title, *particulars(key, shown)]) if shown.by_level(key.probe) else title


def particulars(key: Key, shown: Shown) -> list[str]:
    """The words that distinguish a value from others of its probe and level. A probe's only headline needs no name."""
    metric = None if shown.lone(key) else shown.column(key).heading
    return [part for part in (key.language, split_in_words(key), metric, key.conditions) if part]


def split_in_words(key: Key) -> str:
    return _WORDS.get(key.split or "", key.split or "")


def level_in_words(key: Key) -> str:
    """Such as "level 3" or "head"; "" for no level."""
    return f"level {key.level}" if isinstance(key.level, int) else str(key.level or "")


def heading(key: Key, shown: Shown) -> str:
    """The heading of the column that holds a value."""
    if shown.by_level(key.probe):
        return level_in_words(key) or "no level"
    return _joined(shown.column(key).heading, key)


def full_heading(key: Key, shown: Shown) -> str:
    """The heading of a column in a table of several probes."""
    # Probe and metric together, unless the probe's title says the metric already or the metric's name the probe.
    title, name = shown.title(key.probe), shown.column(key).heading
    if shown.lone(key) or title.lower().endswith(name.lower()):
        return _joined(title, key)
    return _joined(name[:1].upper() + name[1:] if title.lower() in name.lower() else f"{title} {name}", key)


def _joined(name: str, key: Key) -> str:
    return " ".join(
        part for part in (name, key.language, split_in_words(key), level_in_words(key), key.conditions) if part
    )


def column_name(key: Key) -> str:
    """A column of the CSV: probe/metric/language/split/level/control/conditions, without absent parts."""
    parts = (key.probe, key.metric, key.language, key.split, key.level, key.control, key.conditions or None)
    return "/".join(str(part) for part in parts if part is not None)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value, or where a value is not finite."""
    spread = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.fmean(values), statistics.stdev(values) if spread else None


class Grid(NamedTuple):
    """A table for a terminal.

    Attributes:
      header: of the columns; the first one is on the left and names the rows.
      note: a line below; "" = none.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, others to the right, padded so that it reads as plain text too."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    # A colon after the dashes aligns a column to the right.
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def number(mean: float, spread: float | None = None) -> str:
    """At most three decimals, fewer for large numbers; the spread has as many: 1234, 97.71 ± 0.82, 0.745."""
    if not math.isfinite(mean):
        return str(mean)
    # A share needs three decimals, and a value of thousands none.
    decimals = 0 if abs(mean) >= 1000 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")
