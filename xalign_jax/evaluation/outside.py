"""Correlation of what probes measured with a table of outside scores, such as a benchmark's accuracy by language."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xalign_jax.data.text.lines import read_lines
from xalign_jax.errors import UserError
from xalign_jax.evaluation.measures.statistics import METHODS, Estimate, correlation
from xalign_jax.recipe import resolve
from xalign_jax.records.conditions import without_places
from xalign_jax.records.files import read_results

LEAST = 4  # languages of a correlation


class Correlated(NamedTuple):
    """The correlation of one metric with the outside scores.

    Attributes:
      probe, metric, level, control, stage, step: as in the rows of `results.json`.
      direction: "eng->*" for rows "eng->deu", "*->eng" for rows "deu->eng", "*" for rows of single languages.
      languages: those that have a row and a score, in alphabetical order.
      estimate: the correlation with an interval of 95 % by a bootstrap over languages; its `n` counts languages.
      n: the smallest and the largest n among the rows. MEXA and retrieval depend on n: it should be the same.
    """

    probe: str
    metric: str
    level: int | str | None
    control: str | None
    stage: str
    step: int
    direction: str
    languages: tuple[str, ...]
    estimate: Estimate
    n: tuple[int, int]


def correlations(
    folder: str | os.PathLike, table: str | os.PathLike, *, method: str = "pearson", seed: int = 0
) -> list[Correlated]:
    """Correlate every metric of a folder's `results.json` with a table, from the largest coefficient to the smallest.

    A metric counts if at least four languages have a finite value of it and a score. Rows of a pair of languages belong
    to the language beside the one that all pairs share. A high correlation over few languages proves little: read the
    interval, and the control's correlation beside it.

    Args:
      folder: where `xalign evaluate` wrote its results.
      table: a file of lines language<TAB>score, with the names of languages that the results have.
      method: "pearson" or "spearman" (`measures.statistics.correlation`).
      seed: of the bootstrap.

    Raises:
      UserError: a file is missing or damaged, a score is no number, or no metric has four languages with a score.
    """
    if method not in METHODS:
        raise UserError(f"method = {method!r}: one of {', '.join(METHODS)}")
    scores = read_scores(resolve(table))
    rows = read_results(Path(resolve(folder)))
    if not rows:
        raise UserError(f"{folder}: no results there; run `xalign evaluate` first")
    found = list(_correlated(rows, scores, method, seed))
    if not found:
        named = sorted({row["language"] for row in rows if row["language"]})
        raise UserError(
            f"{table}: no metric has {LEAST} of its languages ({', '.join(sorted(scores)[:5])}, ...) with different "
            f"values; the results are of {', '.join(named[:5])}, ..."
        )
    return sorted(found, key=lambda one: -one.estimate.value)


def read_scores(path: str) -> dict[str, float]:
    """{language: score} from lines language<TAB>score.

    Raises:
      UserError: it names file and line.
    """
    found: dict[str, float] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        language, _, text = (part.strip() for part in line.partition("\t"))
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not language or not math.isfinite(score):
            raise UserError(f"{path}:{number}: expected language<TAB>score, found {line[:60]!r}")
        if language in found:
            raise UserError(f"{path}:{number}: {language!r} has a score already")
        found[language] = score
    return found


def _correlated(
    rows: Iterable[dict[str, Any]], scores: dict[str, float], method: str, seed: int
) -> Iterator[Correlated]:
    # What is compared across languages has everything in common but the language and its data.
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        settings = json.dumps(without_places(row.get("settings") or {}), sort_keys=True)
        about = tuple(row[key] for key in ("probe", "metric", "level", "control", "stage", "step"))
        for language, direction in _sides(row["language"] or ""):
            if language in scores and row["value"] is not None:
                groups.setdefault((*about, direction, row["split"], row["seed"], settings), {})[language] = row
    for (probe, metric, level, control, stage, step, direction, *_), by_language in groups.items():
        languages = sorted(by_language)
        values = np.array([by_language[name]["value"] for name in languages])
        outside = np.array([scores[name] for name in languages])
        if len(languages) >= LEAST and np.ptp(values) > 0 and np.ptp(outside) > 0:
            counts = [by_language[name]["n"] for name in languages]
            estimate = correlation(values, outside, seed=seed, method=method)
            about = (probe, metric, level, control, stage, step, direction)
            yield Correlated(*about, tuple(languages), estimate, (min(counts), max(counts)))


def _sides(name: str) -> list[tuple[str, str]]:
    """(language, direction) of a row's language: both sides of a pair."""
    first, arrow, second = name.partition("->")
    return [(second, f"{first}->*"), (first, f"*->{second}")] if arrow else [(name, "*")]
