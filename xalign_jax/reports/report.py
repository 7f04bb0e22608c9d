"""Reports: one run's `report.md`, and one table over several runs, each with its plots."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from xalign_jax.records.shown import Key, Shown
from xalign_jax.reports import efficiency, plots
from xalign_jax.reports.tables import (
    Arm,
    Grid,
    Run,
    column_name,
    describe,
    full_heading,
    group,
    heading,
    keys_of,
    markdown,
    mean_and_spread,
    number,
    read_runs,
    section,
    shown_in,
    tell_apart,
)
from xalign_jax.reports.words import CONTROLS, meaning

LINES = 12  # of headlines that a terminal shows
STEPS = 3  # probed steps beside them


def report(model_dir: Path) -> str:
    """Write `report.md` and its plots into a model directory; returns the text.

    Raises:
      UserError: it is not a model directory.
    """
    # A `Run` is a model directory at one probed step. The newest is the report's; earlier ones are lines of its tables.
    steps = tell_apart(read_runs(model_dir, needs_results=False))
    run = steps[-1]
    title = (
        f"# {run.arm}, seed {run.seed}\n\nThe figures of one run, by the stage and step at which they were measured. "
        f"`xalign compare` puts several runs side by side. Figures per token compare only within one vocabulary; this "
        f"one is {run.fingerprint}."
    )
    arms = [Arm(f"{one.stage}, step {one.step}", (one,)) for one in steps]
    shown = shown_in(steps)
    body = _sections(arms, keys_of(steps, shown), shown) or "No probe has run yet."
    pictures = plots.draw_run(arms, model_dir)
    text = "\n\n".join([title, body, *_pictures(pictures)]) + "\n"
    (model_dir / "report.md").write_text(text, encoding="utf-8")
    return text


def headlines(model_dir: Path) -> Grid:
    """The headlines of a run, for a terminal: a line for each, with its newest values and its controls.

    Raises:
      UserError: it is not a model directory.
    """
    steps = tell_apart(read_runs(model_dir, needs_results=False))
    shown = shown_in(steps)
    arms = [Arm(f"{one.stage}, step {one.step}", (one,)) for one in steps[-STEPS:]]
    measured = {key for arm in arms for run in arm.runs for key in run.values}
    keys = [key for key in keys_of(steps, shown) if key in measured]
    chosen = _summary(keys, shown)
    # Lines of tables have values side by side; here they are columns, since terminals are narrow.
    controls = [key for key in keys if key.control and key._replace(control=None) in chosen]
    names, _, *values = zip(*_lines(arms, [*chosen, *controls]), strict=True)
    headings = [full_heading(key, shown) for key in chosen]
    rows = [[heading, *cells] for heading, cells in zip(headings, values, strict=True)]
    left = len(rows) - LINES
    note = f"and {left} more lines in the report" if left > 0 else "" if rows else "No probe has a headline."
    return Grid(f"{steps[-1].arm}, seed {steps[-1].seed}", ["", *names], rows[:LINES], note)


def summary(model_dirs: Sequence[Path]) -> tuple[list[str], Grid]:
    """The notes and the summary of `compare`, for a terminal. Raises UserError as it does."""
    arms, keys, shown, notes = _compared(model_dirs)
    chosen = _summary(keys, shown)
    header = ["", "runs", *(full_heading(key, shown) for key in chosen)]
    return notes, Grid("Comparison", header, _lines(arms, chosen))


def compare(model_dirs: Sequence[Path], output: Path) -> str:
    """Write `table.md`, `table.csv` and plots of several runs into `output`; returns the text of `table.md`.

    Runs of one recipe are averaged over their seeds; the sample standard deviation follows the mean. Measurements with
    different settings or on different data are shown apart. Metrics that depend on how text is cut into tokens are left
    out if the runs have different vocabularies.

    Raises:
      UserError: a directory is not a model directory or has no results.
    """
    arms, keys, shown, notes = _compared(model_dirs)
    output.mkdir(parents=True, exist_ok=True)
    # Pictures show the ends of runs only: earlier steps would double the number of bars.
    ends = [arm for arm in arms if not arm.early]
    measured = {key for arm in ends for run in arm.runs for key in run.values}
    pictures = plots.draw_comparison(ends, [key for key in keys if key in measured], shown, output)
    # The summary has a column for each headline; the sections below it have every value.
    chosen = _summary(keys, shown)
    table = "## Summary\n\n" + _table(arms, chosen, [full_heading(key, shown) for key in chosen])
    # Notes and the summary first, then every value, then pictures.
    body = [table, *filter(None, [efficiency.section(ends, shown)]), _sections(arms, keys, shown)]
    text = "\n\n".join(["# Comparison", *notes, *body, *_pictures(pictures)]) + "\n"
    (output / "table.md").write_text(text, encoding="utf-8")
    _write_csv(output / "table.csv", arms, keys)
    return text


def _compared(model_dirs: Sequence[Path]) -> tuple[list[Arm], list[Key], Shown, list[str]]:
    """(arms, what is compared, how it is shown, notes) of several runs."""
    # A directory that is named twice counts once.
    directories = dict.fromkeys(path.resolve() for path in model_dirs)
    runs = tell_apart([run for directory in directories for run in read_runs(directory)])
    arms = group(runs)
    shown = shown_in(runs)
    keys = keys_of(runs, shown)
    notes = ["Means over seeds ± their standard deviation; a single run has no spread."]
    # Perplexities per token say nothing across vocabularies.
    if len({run.fingerprint for run in runs}) > 1:
        notes.append(_vocabularies(arms, keys, shown))
        keys = [key for key in keys if not shown.column(key).per_token]
    notes += _steps(arms)
    return arms, keys, shown, notes


def _vocabularies(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown) -> str:
    """A note that says which metrics are not compared between different vocabularies, and which to compare instead."""
    used = "; ".join(f"{arm.name}: {', '.join(sorted({r.fingerprint for r in arm.runs}))}" for arm in arms)
    left = [key for key in keys if shown.column(key).per_token]
    instead = [
        key for key in keys if shown.headline(key) and key.probe in {one.probe for one in left} and key not in left
    ]
    names, others = (", ".join(dict.fromkeys(shown.column(key).heading for key in some)) for some in (left, instead))
    # An older directory has no probes.json, so nobody knows which of its metrics count tokens.
    unknown = ", ".join(dict.fromkeys(shown.title(key.probe) for key in keys if key.probe not in shown.recorded))
    note = f"**The runs use different vocabularies** ({used})."
    if names:
        note = f"**Not compared, because the runs use different vocabularies: {names}** ({used})."
    note += f" Compare {others}." if others else ""
    return note + (f" No `probes.json` says whether the vocabulary matters to: {unknown}." if unknown else "")


def _steps(arms: Sequence[Arm]) -> list[str]:
    """A note where the runs are of different lengths."""
    ends = {arm.name: sorted({run.step for run in arm.runs}) for arm in arms if not arm.early}
    if len({step for found in ends.values() for step in found}) <= 1:
        return []
    steps = "; ".join(f"{name}: {', '.join(map(str, found))}" for name, found in ends.items())
    return [f"**The runs were probed at different steps** ({steps})."]


def _sections(arms: Sequence[Arm], keys: Sequence[Key], shown: Shown) -> str:
    """A table for each thing measured: arms, then controls. Below it what it means, n, and conditions that differ."""
    told: set[str] = set()
    known = {name: about for arm in arms for run in arm.runs for name, about in run.conditions.items()}
    parts = []
    # `keys` are in the order of the tables, so that those of one table are neighbours.
    for (_, title), members in groupby(keys, key=lambda key: (key.probe, section(key, shown))):
        found = list(members)
        headings = [heading(key, shown) for key in found if key.control is None]
        names = list(dict.fromkeys(key.conditions for key in found))
        words = meaning(found, shown, told)
        below = [words] if words else []
        # One line for each set of conditions; a single set without a name needs none.
        for name in names:
            # Probes measure on as many items in every run, or within a range.
            n = _counts(arms, [key for key in found if key.conditions == name])
            several = names != [""]
            below.append(f"{name or 'unnamed'}: n = {n}, {describe(name, known)}." if several else f"n = {n}.")
        parts.append("\n\n".join([f"## {title}", _table(arms, found, headings), *below]))
    return "\n\n".join(parts)


def _counts(arms: Sequence[Arm], keys: Sequence[Key]) -> str:
    """The counts that the values of some keys are means of: 200, or 200 to 1000."""
    counts = sorted({run.counts[key] for arm in arms for run in arm.runs for key in keys if key in run.counts})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _table(arms: Sequence[Arm], keys: Sequence[Key], headings: Sequence[str]) -> str:
    """A line for each arm and each control.

    Args:
      headings: of the keys that belong to no control.
    """
    return markdown(["", "runs", *headings], _lines(arms, keys))


def _lines(arms: Sequence[Arm], keys: Sequence[Key]) -> list[list[str]]:
    """The cells of a table without its header."""
    plain = [key for key in keys if key.control is None]
    rows = [[arm.name, str(len(arm.runs)), *(_cell(arm.values(key)) for key in plain)] for arm in arms]
    runs = sorted((run for arm in arms for run in arm.runs), key=lambda run: run.step)
    # Known controls first, then others in the order of their keys. A line counts the directories that have the control.
    for control in dict.fromkeys([*CONTROLS, *(key.control for key in keys if key.control)]):
        have = {run.directory for run in runs for key in keys if key.control == control and key in run.values}
        if have:
            name = f"control: {CONTROLS.get(control, control)}"
            rows.append([name, str(len(have)), *(_cell(_of_control(runs, key, control)) for key in plain)])
    return rows


def _of_control(runs: Sequence[Run], key: Key, control: str) -> list[float]:
    """A control's values for a key, from each directory's newest step. A control without levels stands at every level.

    Args:
      runs: in order of their steps.
    """
    # First the control at the key's own level, then without a level.
    for place in (key._replace(control=control), key._replace(control=control, level=None)):
        # Runs come in order of their steps, so the newest of a directory stays.
        newest = {run.directory: run for run in runs if place in run.values}
        if newest:
            return Arm("", tuple(newest.values())).values(place)
    return []


def _cell(values: Sequence[float]) -> str:
    """Mean and spread of some values, "-" for none."""
    return number(*mean_and_spread(values)) if values else "-"


def _summary(keys: Sequence[Key], shown: Shown) -> list[Key]:
    """The headlines and their chance. By-level probes are shown at their level nearest to the middle one."""
    # The middle of the deepest model.
    levels = [key.level for key in keys if shown.by_level(key.probe) and isinstance(key.level, int)]
    middle = max(levels, default=0) // 2
    wanted = [key for key in keys if shown.summarised(key)]

    # A probe may have other levels than the deepest model, such as "head" or none below 4.
    def nearest(probe: str) -> int | None:
        own = sorted({key.level for key in wanted if key.probe == probe and isinstance(key.level, int)})
        return min(own, key=lambda level: abs(level - middle), default=None)

    at = {key.probe: nearest(key.probe) for key in wanted if shown.by_level(key.probe)}
    return [key for key in wanted if key.level is None or at.get(key.probe) in (None, key.level)]


def _write_csv(path: Path, arms: Sequence[Arm], keys: Sequence[Key]) -> None:
    """One line an arm: mean and standard deviation of every value, with those of controls."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [column_name(key) for key in keys]
        writer.writerow(["arm", "runs", "seeds", *(part for name in names for part in (name, f"{name} std"))])
        for arm in arms:
            cells: list[float | None] = []
            # Two cells a value; both stay empty where the arm has none.
            for key in keys:
                values = arm.values(key)
                cells += mean_and_spread(values) if values else (None, None)
            seeds = " ".join(str(run.seed) for run in arm.runs)
            writer.writerow(
                [arm.name, len(arm.runs), seeds, *("" if cell is None else f"{cell:.10g}" for cell in cells)]
            )


def _pictures(paths: Sequence[Path]) -> list[str]:
    """Markdown that shows each picture."""
    return [f"![{path.stem}]({path.name})" for path in paths]
