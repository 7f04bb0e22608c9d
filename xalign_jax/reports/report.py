"""Reports: one run's `report.md`, and one table over several runs; plots beside them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from xalign_jax.reports import plots
from xalign_jax.reports.tables import (
    LEVELLED,
    Arm,
    Key,
    Run,
    column_name,
    describe,
    group,
    heading,
    keys_of,
    markdown,
    mean_and_spread,
    number,
    per_token,
    read_runs,
    section,
    tell_apart,
)

CONTROLS = {"untrained": "control: untrained", "shuffled": "control: shuffled", "ngram": "control: n-grams"}


def report(model_dir: Path) -> str:
    """Write `report.md` and its plots into a model directory; returns the text.

    Raises:
      UserError: it is not a model directory.
    """
    steps = tell_apart(read_runs(model_dir, needs_results=False))
    run = steps[-1]
    title = f"# {run.arm}, seed {run.seed}\n\nVocabulary {run.fingerprint}."
    arms = [Arm(f"{one.stage}, step {one.step}", (one,)) for one in steps]
    body = _sections(arms, keys_of(steps)) or "No probe has run yet."
    pictures = plots.draw_run(run, model_dir)
    text = "\n\n".join([title, body, *_pictures(pictures)]) + "\n"
    (model_dir / "report.md").write_text(text, encoding="utf-8")
    return text


def compare(model_dirs: Sequence[Path], output: Path) -> str:
    """Write `table.md`, `table.csv` and plots of several runs into `output`; returns the text of `table.md`.

    Runs of one recipe are averaged over their seeds, the sample standard deviation beside the mean. What was measured
    with different settings or on different data stands apart. Across different vocabularies perplexity is left out; bits
    per byte stays.

    Raises:
      UserError: a directory is not a model directory or has no results.
    """
    directories = dict.fromkeys(path.resolve() for path in model_dirs)
    runs = tell_apart([run for directory in directories for run in read_runs(directory)])
    arms = group(runs)
    keys, notes = keys_of(runs), _notes(arms, runs)
    if len({run.fingerprint for run in runs}) > 1:
        keys = [key for key in keys if not per_token(key)]
    output.mkdir(parents=True, exist_ok=True)
    ends = [arm for arm in arms if not arm.early]
    measured = {key for arm in ends for run in arm.runs for key in run.values}
    pictures = plots.draw_comparison(ends, [key for key in keys if key in measured], output)
    summary = "## Summary\n\n" + _table(arms, _summary(keys), heading_of=_summary_heading)
    text = "\n\n".join(["# Comparison", *notes, summary, _sections(arms, keys), *_pictures(pictures)]) + "\n"
    (output / "table.md").write_text(text, encoding="utf-8")
    _write_csv(output / "table.csv", arms, keys)
    return text


def _notes(arms: Sequence[Arm], runs: Sequence[Run]) -> list[str]:
    """What a reader must know of the table."""
    notes = ["Means over seeds ± their standard deviation; a single run has no spread."]
    if len({run.fingerprint for run in runs}) > 1:
        used = "; ".join(f"{arm.name}: {', '.join(sorted({r.fingerprint for r in arm.runs}))}" for arm in arms)
        notes.append(
            f"**Perplexity is not compared: the runs use different vocabularies** ({used}). Compare bits per byte."
        )
    ends = {arm.name: sorted({run.step for run in arm.runs}) for arm in arms if not arm.early}
    if len({step for found in ends.values() for step in found}) > 1:
        steps = "; ".join(f"{name}: {', '.join(map(str, found))}" for name, found in ends.items())
        notes.append(f"**The runs were probed at different steps** ({steps}).")
    return notes


def _sections(arms: Sequence[Arm], keys: Sequence[Key]) -> str:
    """A table for each thing measured: arms below each other, then controls; below it n, and conditions where they differ."""
    known = {name: about for arm in arms for run in arm.runs for name, about in run.conditions.items()}
    parts = []
    for title, members in groupby(keys, key=section):
        found = list(members)
        names = list(dict.fromkeys(key.conditions for key in found))
        below = []
        for name in names:
            n = _counts(arms, [key for key in found if key.conditions == name])
            told = names != [""]
            below.append(f"{name or 'unnamed'}: n = {n}, {describe(name, known)}." if told else f"n = {n}.")
        parts.append("\n\n".join([f"## {title}", _table(arms, found), *below]))
    return "\n\n".join(parts)


def _counts(arms: Sequence[Arm], keys: Sequence[Key]) -> str:
    """What the values of some keys are means of: 200, or 200 to 1000."""
    counts = sorted({run.counts[key] for arm in arms for run in arm.runs for key in keys if key in run.counts})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _table(arms: Sequence[Arm], keys: Sequence[Key], heading_of=heading) -> str:
    plain = [key for key in keys if key.control is None]
    rows = [[arm.name, str(len(arm.runs)), *(_cell(arm.values(key)) for key in plain)] for arm in arms]
    runs = sorted((run for arm in arms for run in arm.runs), key=lambda run: run.step)
    for control, name in CONTROLS.items():
        have = {run.directory for run in runs for key in keys if key.control == control and key in run.values}
        if have:
            rows.append([name, str(len(have)), *(_cell(_of_control(runs, key, control)) for key in plain)])
    return markdown(["", "runs", *map(heading_of, plain)], rows)


def _of_control(runs: Sequence[Run], key: Key, control: str) -> list[float]:
    """A control's values beside a key, of each directory's newest step; one that has no levels stands at each of them.

    Args:
      runs: in order of their steps.
    """
    for place in (key._replace(control=control), key._replace(control=control, level=None)):
        newest = {run.directory: run for run in runs if place in run.values}
        if newest:
            return Arm("", tuple(newest.values())).values(place)
    return []


def _cell(values: Sequence[float]) -> str:
    return number(*mean_and_spread(values)) if values else "-"


def _summary(keys: Sequence[Key]) -> list[Key]:
    """Language model, words and means of sentence retrieval at the middle level, knowledge, foreign mass; no controls."""
    levels = [key.level for key in keys if key.probe in LEVELLED and isinstance(key.level, int)]
    middle = max(levels, default=0) // 2
    wanted = []
    for key in keys:
        found = key.probe == "word_retrieval" or (key.probe == "sentence_retrieval" and "*" in (key.language or ""))
        found = found and key.metric == "accuracy" and key.level == middle
        if key.control is None and (found or key.probe in ("perplexity", "knowledge", "foreign_mass")):
            wanted.append(key)
    return wanted


def _summary_heading(key: Key) -> str:
    if key.probe in LEVELLED:
        words = key.probe == "word_retrieval"
        what = f"words {key.language} {key.split}" if words else f"sentences {key.language}"
        return " ".join(part for part in (what, f"level {key.level}", key.conditions) if part)
    return heading(key) if key.probe == "perplexity" else f"{key.probe.split('_')[0]} {heading(key)}"


def _write_csv(path: Path, arms: Sequence[Arm], keys: Sequence[Key]) -> None:
    """One line an arm; mean and standard deviation of every value, controls too."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [column_name(key) for key in keys]
        writer.writerow(["arm", "runs", "seeds", *(part for name in names for part in (name, f"{name} std"))])
        for arm in arms:
            cells: list[float | None] = []
            for key in keys:
                values = arm.values(key)
                cells += mean_and_spread(values) if values else (None, None)
            seeds = " ".join(str(run.seed) for run in arm.runs)
            writer.writerow(
                [arm.name, len(arm.runs), seeds, *("" if cell is None else f"{cell:.10g}" for cell in cells)]
            )


def _pictures(paths: Sequence[Path]) -> list[str]:
    return [f"![{path.stem}]({path.name})" for path in paths]
