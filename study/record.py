"""Rows of the study's two CSV files: a row for each finished run, and for each probed step of a run with curves."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xalign_jax.evaluation.probes.sentence_retrieval import SentenceRetrieval
from xalign_jax.interfaces import Probe
from xalign_jax.recipe import Recipe, as_json, identity
from xalign_jax.records.conditions import without_places
from xalign_jax.records.files import read_environment, read_results
from xalign_jax.reports.tables import read_runs
from xalign_jax.training import stages

Row = dict[str, Any]

FOLDER = Path(__file__).parent.parent / "docs" / "study"
RESULTS, CURVES = FOLDER / "results.csv", FOLDER / "curves.csv"
# The first columns of both files, and the columns of what a run cost.
PLACES = ("experiment", "seed", "identity", "vocabulary", "commit", "steps")
COSTS = ("lm_tokens", "tokens", "train_seconds", "wall_seconds")
# The control that is recorded beside a measure, by the measure's short name: sentences/untrained/1/0.
CONTROLS = {"sentences": "untrained"}


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, numbers as numbers and empty cells left out; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _value(name, cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def _value(name: str, cell: str) -> Any:
    """A cell as text, a whole number or a float, by the name of its column."""
    if name in ("seed", "step", "steps", "lm_tokens", "tokens") or name.startswith("seen/"):
        return int(cell)
    return cell if name in ("experiment", "identity", "vocabulary", "commit", "stage") else float(cell)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows by experiment, seed and step, all or none. Columns of `PLACES` and `COSTS` come first."""
    ordered = sorted(rows, key=lambda row: (row["experiment"], row["seed"], row.get("step", 0)))
    names = {name for row in ordered for name in row}
    first = [name for name in (*PLACES, "stage", "step", *COSTS) if name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file that replaces the old one in a single step: readers never see half of it.
    new = path.with_suffix(".tmp")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *sorted(names - {*first})], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in ordered)
    new.replace(path)


def replace(path: Path, new: Sequence[Row]) -> None:
    """Write rows in place of the rows of the same experiments and seeds. Processes do this one after another."""
    runs = {(row["experiment"], row["seed"]) for row in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is on the folder, because the file itself is replaced.
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write(path, [*(row for row in read(path) if (row["experiment"], row["seed"]) not in runs), *new])
    finally:
        os.close(lock)


def finished(directory: Path, recipe: Recipe) -> bool:
    """Whether the model directory holds this very recipe's run, with the probes of its last step."""
    if not (directory / "results.json").is_file():
        return False
    same = read_environment(directory, ("identity",))["identity"] == identity(recipe)
    # A run that was interrupted before its first probe has no results.
    return same and read_runs(directory, needs_results=False)[-1].step == sum(stage.steps for stage in recipe.stages)


def rows_of(experiment: str, directory: Path, recipe: Recipe, wall_seconds: float | None) -> tuple[Row, list[Row]]:
    """The row of a finished run, and a row for each probed step. Rows that `xalign evaluate` added are left out.

    Args:
      wall_seconds: the run's duration with start and probes; None where nobody measured it.
    """
    run = read_runs(directory)[-1]
    environment, results = read_environment(directory, ("identity", "git")), read_results(directory)
    place = {"experiment": experiment, "seed": run.seed, "identity": environment["identity"]}
    place |= {"vocabulary": run.fingerprint, "commit": environment["git"] or ""}
    # Only rows that the recipe's own probes measured, so that every run of an experiment has the same columns.
    languages = _languages(recipe)
    probes = [probe for stage in recipe.stages for probe in stage.probes]
    own = json.loads(json.dumps([without_places(as_json(probe)) for probe in probes]))
    # Rows of older versions have no settings.
    results = [row for row in results if row.get("settings") is None or without_places(row["settings"]) in own]
    short, curve = short_names(probes), []
    for step in sorted({row["step"] for row in results}):
        here = [row for row in results if row["step"] == step]
        curve.append(place | {"stage": here[-1]["stage"], "step": step} | measures(here, languages, short))
    # The last probed step is the run's row, without its stage and step.
    end = {name: value for name, value in curve[-1].items() if name not in ("stage", "step")}
    costs: Row = {"steps": run.step} | tokens(recipe) | {"train_seconds": round(train_seconds(run.metrics))}
    # Tokens of each language, by the training log.
    costs |= {
        f"seen/{i}": sum(row.get(f"tokens/{name}", 0) for row in run.metrics) for i, name in enumerate(languages, 1)
    }
    if wall_seconds is not None:
        costs["wall_seconds"] = round(wall_seconds)
    return end | costs, curve


def _languages(recipe: Recipe) -> Sequence[str]:
    """The languages whose values are kept, in the order of their numbers.

    With a dictionary, they are its first two, and both directions between them if parallel files are probed. A mixture
    that names languages has all of them, and the mean directions into and out of the first. Otherwise they are English
    and its first clone.
    """
    if recipe.lexicon is not None:
        source, target = recipe.lexicon.languages[:2]
        probes = [probe for stage in recipe.stages for probe in stage.probes]
        asked = any(isinstance(probe, SentenceRetrieval) and probe.files for probe in probes)
        return (source, target, f"{source}->{target}", f"{target}->{source}") if asked else (source, target)
    languages = stages.mixtures(recipe)[0].languages
    if not languages:
        return "en", "en_clone"
    return [*languages, f"*->{languages[0]}", f"{languages[0]}->*"]


def measures(results: Sequence[Row], languages: Sequence[str], short: Mapping[tuple[str, str], str]) -> Row:
    """The values kept from rows of `results.json`, by column: ppl/1, own_ppl/2, knows/2, words/heldout/0, cosine/2/3 ..

    Languages are numbered; the source language is 1. A row with a split has the split in place of its language.
    Controls are left out, except those of `CONTROLS`. All levels are kept.

    Args:
      short: the first part of a column's name, by probe and metric; other metrics are left out.
    """
    number = {language: str(i) for i, language in enumerate(languages, 1)}
    found: Row = {}
    for row in results:
        column = short.get((row["probe"], row["metric"]))
        control = row["control"]
        if column is None or control not in (None, CONTROLS.get(column)) or row["language"] not in number:
            continue
        if row["value"] is None:
            continue
        parts = (
            column,
            control,
            row["split"] or number[row["language"]],
            None if row["level"] is None else str(row["level"]),
        )
        found["/".join(part for part in parts if part)] = float(row["value"])
    return found


def short_names(probes: Iterable[Probe]) -> dict[tuple[str, str], str]:
    """Short names of probes' metrics, by probe and metric; metrics without one are not recorded."""
    return {
        (probe.name, metric): column.short
        for probe in probes
        for metric, column in probe.columns.items()
        if column.short
    }


def tokens(recipe: Recipe) -> Row:
    """Tokens of the language-model streams, and of all streams, over the whole run, with padding."""
    # A batch may have keys beside its queries. Streams without a mixture read the dictionary only.
    streams = [(stage.steps, s.feed.blank(s.batch_size), s.mixture) for stage in recipe.stages for s in stage.streams]
    read = [
        (steps * sum(b[k].size for k in ("tokens", "key_tokens") if k in b), mixture) for steps, b, mixture in streams
    ]
    return {"lm_tokens": sum(n for n, mixture in read if mixture is not None), "tokens": sum(n for n, _ in read)}


def train_seconds(metrics: Sequence[Row]) -> float:
    """Seconds of all steps by the training log: with compilation, without probes and start-up."""
    # A row of the log has the mean time of the steps since the row before.
    steps = [0, *(row["step"] for row in metrics)]
    return sum(
        (b - a) * row["perf/step_seconds"] for (a, b), row in zip(itertools.pairwise(steps), metrics, strict=True)
    )
