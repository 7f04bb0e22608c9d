"""Rows of `results.json` as a table: runs grouped by recipe, one column for each thing measured."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xalign_jax.errors import UserError
from xalign_jax.runtime.records import read_environment, read_metrics, read_results

Key = tuple[str, str, str | None, Any, str | None, str | None]  # probe, metric, language, level, split, control


@dataclasses.dataclass(frozen=True)
class Run:
    """What a model directory says at the end of a stage: the newest value of every measured thing, and the training log.

    Attributes:
      arm: the recipe's name.   fingerprint: of its vocabulary.   stage, step: of the newest rows.
      last: no later stage has been probed.
      settings: `config.gin` without the seed; runs of one arm share it.
      values: by (probe, metric, language, level, split, control).   counts: n of each.
      metrics: the rows of `metrics.jsonl`.
    """

    directory: Path
    arm: str
    seed: int
    fingerprint: str
    settings: str
    metrics: list[dict[str, Any]]
    stage: str = ""
    step: int = 0
    last: bool = True
    values: dict[Key, float] = dataclasses.field(default_factory=dict)
    counts: dict[Key, int] = dataclasses.field(default_factory=dict)


def read_runs(directory: Path, needs_results: bool = True) -> list[Run]:
    """Read a model directory: a `Run` for each probed stage in order, at least one.

    Raises:
      UserError: it is not a model directory, or holds no results where they are needed.
    """
    if not (directory / "environment.json").is_file():
        raise UserError(f"{directory}: no environment.json there; is it a model directory?")
    environment = read_environment(directory, ("recipe_name", "seed", "vocabulary_fingerprint"))
    config, rows = directory / "config.gin", read_results(directory)
    if needs_results and not rows:
        raise UserError(
            f"{directory}: no results in results.json; finish `xalign train`, or run `xalign evaluate` there"
        )
    empty = Run(
        directory=directory,
        arm=environment["recipe_name"],
        seed=environment["seed"],
        fingerprint=environment["vocabulary_fingerprint"],
        settings=_recipe_settings(config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""),
        metrics=read_metrics(directory),
    )
    rows = sorted(rows, key=lambda row: row["step"])
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    return [_at(empty, [row for row in rows if row["stage"] == name], name == stages[-1]) for name in stages] or [empty]


def _at(run: Run, rows: Sequence[dict[str, Any]], last: bool) -> Run:
    """The run with the rows of one stage, in order of their steps."""
    names = ("probe", "metric", "language", "level", "split", "control")
    keys: list[Key] = [tuple(row[name] for name in names) for row in rows]  # type: ignore[misc]
    values = {key: row["value"] for key, row in zip(keys, rows, strict=True)}
    counts = {key: row["n"] for key, row in zip(keys, rows, strict=True)}
    end = rows[-1]
    return dataclasses.replace(run, stage=end["stage"], step=end["step"], last=last, values=values, counts=counts)


def _recipe_settings(config: str) -> str:
    """The lines of `config.gin` that two seeds of one recipe share: neither its seed nor the runtime."""
    return "\n".join(line for line in config.splitlines() if not re.match(r"Recipe\.seed\b|Runtime\.|\s*$", line))


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs of one recipe, apart from the seed; `early`: as they were before their last stage."""

    name: str
    runs: tuple[Run, ...]
    early: bool = False

    def values(self, key: Key) -> list[float]:
        """One value a run that has it."""
        return [run.values[key] for run in self.runs if key in run.values]


def group(runs: Sequence[Run]) -> list[Arm]:
    """Runs by recipe, in the order given; recipes of one name that differ in settings are told apart by directory.

    What a run was at the end of an earlier stage stands apart, after its end.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.arm, run.settings), []).append(run)
    names = [name for name, _ in found]
    places = _shortest([members[0].directory for members in found.values()])
    arms = []
    for ((name, _), members), place in zip(found.items(), places, strict=True):
        label = name if names.count(name) == 1 else f"{name} ({place})"
        arms.append(Arm(label, tuple(run for run in members if run.last)))
        for stage in dict.fromkeys(run.stage for run in members if not run.last):
            early = tuple(run for run in members if run.stage == stage and not run.last)
            arms.append(Arm(f"{label}, after {stage}", early, early=True))
    return arms


def _shortest(directories: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell all of them apart."""
    parts = [directory.absolute().parts for directory in directories]
    ends = ([str(Path(*path[-count:])) for path in parts] for count in range(1, 1 + max(map(len, parts), default=1)))
    return next((end for end in ends if len({*end}) == len({*parts})), [])


def keys_of(runs: Sequence[Run]) -> list[Key]:
    """Everything that any of the runs measured, in the order of the tables."""
    return sorted({key for run in runs for key in run.values}, key=_order)


_PROBES = (
    "perplexity",
    "word_retrieval",
    "knowledge",
    "foreign_mass",
    "cosine",
    "gradient_cosine",
    "sentence_retrieval",
)
_METRICS = {
    "perplexity": "perplexity",
    "perplexity_in_language": "in-language perplexity",
    "bits_per_byte": "bits/byte",
    "accuracy": "accuracy",
    "accuracy_mean": "accuracy by mean score",
    "in_language_accuracy": "in-language accuracy",
    "in_language_accuracy_mean": "in-language accuracy by mean score",
    "chance": "chance",
    "mass": "mass",
    "accuracy_first": "first token",
    "accuracy_margin": "margin",
    "accuracy_centred": "centred",
    "parallel": "parallel",
    "shuffled": "shuffled",
    "gap": "parallel minus shuffled",
    "cosine": "cosine",
}
_WORDS = {"dictionary": "dictionary words", "heldout": "held-out words"}


def _order(key: Key) -> tuple:
    probe, metric, language, level, split, control = key
    depth = level if isinstance(level, int) else math.inf if level == "head" else -1
    by_metric = _rank(list(_METRICS), metric)
    inner = (language or "", by_metric) if probe in LEVELLED else (by_metric, language or "")
    return (_rank(_PROBES, probe), probe, split or "", *inner, depth, control or "")


def _rank(known: Sequence[str], name: str) -> int:
    """Place in a list; names that others gave come last."""
    return known.index(name) if name in known else len(known)


LEVELLED = ("word_retrieval", "cosine", "sentence_retrieval")


def section(key: Key) -> str:
    """The heading of the table a value stands in."""
    probe, metric, language, _, split, _ = key
    title = {"perplexity": "Language model", "cosine": "Hidden cosine"}.get(probe, probe.replace("_", " ").capitalize())
    if probe not in LEVELLED:
        return title
    parts = [title, language, _WORDS.get(split or ""), None if metric == "accuracy" else _METRICS.get(metric, metric)]
    return ", ".join(part for part in parts if part)


def heading(key: Key) -> str:
    """The heading of the column a value stands in."""
    probe, metric, language, level, _, _ = key
    if probe in LEVELLED:
        return f"level {level}" if isinstance(level, int) else str(level)
    return " ".join(part for part in (_METRICS.get(metric, metric), language) if part)


def column_name(key: Key) -> str:
    """The name of a column of the CSV: probe/metric/language/split/level/control, what is absent left out."""
    probe, metric, language, level, split, control = key
    return "/".join(str(part) for part in (probe, metric, language, split, level, control) if part is not None)


def per_token(key: Key) -> bool:
    """Whether a value says nothing beside that of another vocabulary."""
    return key[0] == "perplexity" and key[1] != "bits_per_byte"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right, padded to be read as plain text too."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def number(mean: float, spread: float | None = None) -> str:
    """Four significant digits at most three decimals, the spread with as many decimals: 1234, 97.71 ± 0.82, 0.745."""
    if not math.isfinite(mean):
        return str(mean)
    decimals = 0 if abs(mean) >= 1000 else 2 if abs(mean) >= 10 else 3
    return f"{mean:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")
