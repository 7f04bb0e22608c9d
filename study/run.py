"""Run experiments that are not recorded yet, several at a time, and record each one as it finishes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from study import record, translation
from study.experiments import DATA, MADE, Experiment
from xalign_jax import cli, config
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe, identity
from xalign_jax.training import stages

RUNS = Path("runs/study")


class Job(NamedTuple):
    """An experiment with a seed, and the recipe that its files and bindings give."""

    experiment: Experiment
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """The name of the model directory."""
        return f"{self.experiment.name}-{self.seed}"


def jobs(experiments: Iterable[Experiment], seeds: Sequence[int] = ()) -> list[Job]:
    """Every experiment with each of its seeds, or with those of `seeds` that it has. The order is by seed first."""
    cli.register()
    pairs = [(seed, one) for one in experiments for seed in one.seeds if not seeds or seed in seeds]
    found = []
    for seed, one in sorted(pairs, key=lambda pair: pair[0]):
        (recipe,) = config.load(one.files, [*one.bindings, f"Recipe.seed={seed}"], (Recipe,))
        found.append(Job(one, seed, recipe))
    return found


def missing(wanted: Sequence[Job], results: Sequence[record.Row], curves: Sequence[record.Row]) -> list[Job]:
    """The jobs whose very recipe has no row. Jobs with curves also need rows over steps."""
    known, drawn = ({(r["experiment"], r["seed"], r["identity"]) for r in rows} for rows in (results, curves))
    keys = [(job.experiment.name, job.seed, identity(job.recipe)) for job in wanted]
    return [
        job
        for job, key in zip(wanted, keys, strict=True)
        if key not in known or (job.experiment.probe_every and key not in drawn)
    ]


def comparable(rows: Sequence[record.Row], wanted: Sequence[Job]) -> tuple[list[record.Row], list[str]]:
    """The rows of these very recipes, and why others are left out. Rows of one text and setting share a vocabulary."""
    # By (experiment, seed): the recipe, its hash, and the tasks that name its text with the vocabulary's settings.
    of = {(job.experiment.name, job.seed): job.recipe for job in wanted}
    known = {key: identity(recipe) for key, recipe in of.items()}
    text = {
        key: (tuple(mixture.tasks for mixture in stages.mixtures(recipe)), recipe.vocabulary)
        for key, recipe in of.items()
    }
    keys = [(row["experiment"], row["seed"]) for row in rows]
    # A row counts if its recipe is still the same, and if its text gave the same vocabulary as in most runs.
    current = [known.get(key) == row["identity"] for key, row in zip(keys, rows, strict=True)]
    used = Counter((text[key], row["vocabulary"]) for key, row, fine in zip(keys, rows, current, strict=True) if fine)
    # Ascending by count, so that the most frequent vocabulary of a text is the last and stays.
    ordered = sorted(used.items(), key=lambda item: (item[1], item[0][1]))
    usual = {read: vocabulary for (read, vocabulary), _ in ordered}
    kept, left = [], []
    for key, row, fine in zip(keys, rows, current, strict=True):
        if not fine:
            left.append(f"{key[0]}-{key[1]}: left out, its recipe is another by now")
        elif row["vocabulary"] != usual[text[key]]:
            left.append(f"{key[0]}-{key[1]}: left out, its text gave another vocabulary than most runs'")
        else:
            kept.append(row)
    return kept, list(dict.fromkeys(left))


def link(data: Path | None) -> bool:
    """Link a folder of texts and dictionaries, if one is given; whether one is linked.

    Raises:
      UserError: there is no such folder, or another folder is linked.
    """
    place = Path(DATA)
    if data is not None and not data.is_dir():
        raise UserError(f"--data={data}: no such folder")
    if data is not None and place.exists() and place.resolve() != data.resolve():
        raise UserError(f"{place} leads to {place.resolve()}: remove it to read {data}")
    if data is not None and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(data.resolve())
    return place.exists()


def with_data(wanted: Sequence[Job], data: Path | None) -> list[Job]:
    """The jobs whose texts and dictionaries are here. Once a folder of data is linked (`link`), all texts are."""
    linked = link(data)
    able = [job for job in wanted if linked or not job.experiment.data]
    if len(able) < len(wanted):
        print(
            f"{len(wanted) - len(able)} runs on real languages left out: give their folder as --data (make: DATA=DIR)"
        )
    # Dictionaries of `study.dictionaries` are made from these texts.
    ready = [job for job in able if all(path.exists() for path in _made(job.recipe))]
    if len(ready) < len(able):
        print(f"{len(able) - len(ready)} runs left out: make their dictionaries first (python -m study dictionaries)")
    return ready


def _made(recipe: Recipe) -> list[Path]:
    """The dictionaries of a recipe that the study makes by itself."""
    files = recipe.lexicon.files if recipe.lexicon else ()
    return [Path(path) for path, _, _ in files if Path(MADE) in Path(path).parents]


def run(wanted: Sequence[Job], count: int) -> bool:
    """Run jobs, `count` at a time; True if all of them finished. An interrupt reaches them too, and they save."""
    # Each text once, before several runs would prepare it at the same time.
    for recipe in dict.fromkeys(job.recipe for job in wanted):
        stages.prepare_data(recipe)
    fine = True
    with ThreadPoolExecutor(count) as pool:
        started = {pool.submit(_train, job): job for job in wanted}
        try:
            for future in as_completed(started):
                code, seconds = future.result()
                if code == cli.INTERRUPTED:
                    raise KeyboardInterrupt
                fine = _recorded(started[future], code, seconds) and fine
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            return False
    return fine


def _train(job: Job) -> tuple[int, float | None]:
    """(exit code, seconds) of training. A model directory that holds the finished run is left as it is.

    The seconds of a run that was begun earlier are unknown.
    """
    directory, one = RUNS / job.name, job.experiment
    fresh = not directory.exists()
    if record.finished(directory, job.recipe):
        return 0, None
    RUNS.mkdir(parents=True, exist_ok=True)
    # Every run is a process of its own, as a user would start it.
    print(f"{job.name}: training, log in {directory}.log", flush=True)
    bindings = [*one.bindings, f"Recipe.seed={job.seed}", f"Runtime.probe_every={one.probe_every}"]
    command = [sys.executable, "-m", "xalign_jax.cli", "train", f"--model_dir={directory}"]
    command += [f"--gin_file={file}" for file in one.files] + [f"--gin.{binding}" for binding in bindings]
    began = time.monotonic()
    with Path(f"{directory}.log").open("a", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    return code, time.monotonic() - began if fresh else None


def _recorded(job: Job, code: int, seconds: float | None) -> bool:
    """Record a run that has finished, and say so; False if it failed."""
    directory = RUNS / job.name
    if code:
        # The last line of the log says why.
        last = Path(f"{directory}.log").read_text(encoding="utf-8").splitlines()[-1:]
        print(f"{job.name}: failed: {' '.join(last)}", flush=True)
        return False
    row, curve = record.rows_of(job.experiment.name, directory, job.recipe, seconds)
    if job.experiment.question == "loop":
        row |= translation.measured(directory, job.recipe)
    # A continued run has no time of its own, but an earlier row of the same run may have one.
    if seconds is None:
        place = ("experiment", "seed", "identity")
        same = (r for r in record.read(record.RESULTS) if all(r[name] == row[name] for name in place))
        row |= {name: value for name, value in next(same, {}).items() if name == "wall_seconds"}
    record.replace(record.RESULTS, [row])
    if job.experiment.probe_every:
        record.replace(record.CURVES, curve)
    print(f"{job.name}: recorded", flush=True)
    return True


def listing(wanted: Sequence[Job], left: Sequence[Job], results: Sequence[record.Row]) -> str:
    """Recorded and missing runs by question, with the hours that the missing ones take one after another, if known."""
    lines = []
    for question in dict.fromkeys(job.experiment.question for job in wanted):
        mine = [job for job in wanted if job.experiment.question == question]
        todo = [job.name for job in mine if job in left]
        names = {job.experiment.name for job in mine}
        timed = [row["wall_seconds"] for row in results if row["experiment"] in names and "wall_seconds" in row]
        hours = f", about {statistics.fmean(timed) * len(todo) / 3600:.1f} h" if timed and todo else ""
        lines.append(f"{question}: {len(mine) - len(todo)} of {len(mine)} runs recorded{hours}")
        lines += [f"  missing: {' '.join(todo)}"] if todo else []
    return "\n".join(lines)
