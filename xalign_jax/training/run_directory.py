"""What a model directory records about its run: identity, configuration, environment, failures, results.

A directory belongs to one recipe, and to the data that the recipe gave when the run started. The functions named
`claim` refuse everything else before a run writes anything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from xalign_jax.data.corpus import Corpus
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Probe, Row
from xalign_jax.recipe import Recipe, Runtime, Stage, as_json, identity, located
from xalign_jax.records.conditions import conditions, without_places
from xalign_jax.records.files import read_environment, read_pictures, read_results
from xalign_jax.records.gin_text import as_gin
from xalign_jax.records.pictures import Drawn
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.logs import write_pictures, write_results, write_shown
from xalign_jax.runtime.storage import as_local, write_atomically
from xalign_jax.training import carried, inputs

# Packages whose version can change what a run computes.
PACKAGES = (
    "xalign_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "sentencepiece",
    "seqio",
)


def claim(model_dir: Path | epath.Path, recipe: Recipe, extend: bool) -> None:
    """Refuse a directory that holds another recipe's run, judged by its newest checkpoint, else `environment.json`.

    Raises:
      UserError: another recipe's run; the message shows the difference. With `extend`, more steps of the last stage are
        allowed. Or the directory's `environment.json`, `results.json` or `pictures.json` is damaged.
    """
    # Read here only to find damage now, not at the first probe hours later.
    read_results(model_dir)
    read_pictures(model_dir)
    known, done = _known(model_dir)
    found = _changes(known, recipe, moves=done > 0)
    if extend and _only_longer(found, recipe):
        _refuse_another_rate(recipe, found[0][1], done)
    elif found:
        hint = " (or --extend, to add steps to the last stage)" if _only_longer(found, recipe) else ""
        raise UserError(f"{model_dir} holds another recipe's run: {_in_words(found)}. Choose another --model_dir{hint}")


def _changes(known: dict[str, Any], recipe: Recipe, moves: bool = True) -> list[tuple[str, Any, Any]]:
    """(path, value there, value here) of each difference from the known recipe; nothing where none is known.

    A recipe is the same if its paths lie in the same places, or are spelled the same.
    """
    found = _differing(known["recipe"], as_json(recipe)) if "recipe" in known else []
    # Compare both ways, as spelled and with absolute paths, and take the way with fewer differences.
    if "located" not in known:
        return found
    there = _differing(known["located"], as_json(located(recipe)))
    return min([one for one in there if not (moves and carried.moved(*one[1:]))], found, key=len)


def _only_longer(found: list[tuple[str, Any, Any]], recipe: Recipe) -> bool:
    """Whether the only change is that the last stage has more steps."""
    last = f"Recipe.stages[{len(recipe.stages) - 1}].steps"
    return [path for path, _, _ in found] == [last] and found[0][1] < found[0][2]


def _refuse_another_rate(recipe: Recipe, steps: int, done: int) -> None:
    """Refuse to extend the last stage if its learning rate would jump after the steps done.

    The stage had `steps` steps. The rate does not jump if the longer schedule has the same rate at the last step done.
    """
    stage = recipe.stages[-1]
    # The last update done, counted from 0 within the last stage; below 0, the stage has not begun.
    at = done - sum(before.steps for before in recipe.stages[:-1]) - 1
    if at < 0:
        return
    old, new = (float(stage.schedule.schedule(length)(at)) for length in (steps, stage.steps))
    if not math.isclose(old, new, rel_tol=1e-5):
        raise UserError(
            f"--extend: {type(stage.schedule).__name__} depends on the length of {stage.name}: the learning rate of "
            f"step {at + 1} was {old:.3g} and would be {new:.3g}. Stages can be extended after the warm-up of "
            "WarmupConstant and before the decay of WarmupStableDecay; with another schedule, start a run with "
            "Recipe.init_from"
        )


def check_config(model_dir: Path, recipe: Recipe) -> None:
    """Refuse the recipe of a `config.gin` that was changed after the newest checkpoint there was saved.

    Raises:
      UserError: the message shows the difference.
    """
    read_results(model_dir)
    read_pictures(model_dir)
    # A longer last stage is no change: the run was to be extended, and was stopped before its first checkpoint.
    found = _changes(_known(model_dir)[0], recipe)
    if found and not _only_longer(found, recipe):
        raise UserError(
            f"{model_dir}/config.gin is not the recipe of the checkpoints there: {_in_words(found)}; bring it back"
        )


def differences(there: Recipe, here: Recipe) -> str:
    """The first five places where two recipes differ, in words; "" if only places of files do that are gone."""
    return _in_words(_changes({"located": as_json(located(there)), "recipe": as_json(there)}, here))


def _in_words(found: list[tuple[str, Any, Any]]) -> str:
    """The first five differences, in words. More of them would fill the screen."""
    return "; ".join(f"{path} is {old!r} there, {new!r} here" for path, old, new in found[:5])


def _differing(there: object, here: object) -> list[tuple[str, Any, Any]]:
    """(path, value there, value here) of each difference between two recipes' values."""
    # Through JSON, as one of them was: tuples become lists, and keys become strings.
    there, here = (json.loads(json.dumps(values)) for values in (there, here))
    return list(_differences(there, here, "Recipe"))


def claim_data(model_dir: Path | epath.Path, corpus: Corpus) -> None:
    """Refuse a vocabulary or texts other than those that the directory's checkpoints were trained on.

    Raises:
      UserError: the message names the task.
    """
    # Without a checkpoint nothing was trained yet, and any data will do.
    checkpoints = _checkpoints(model_dir)
    if checkpoints is None or not checkpoints.steps():
        return
    known = read_environment(model_dir)
    if known.get("vocabulary_fingerprint", corpus.tokenizer.fingerprint) != corpus.tokenizer.fingerprint:
        raise UserError(
            f"{model_dir}: its vocabulary is not the one the recipe's texts give now; see {model_dir}/vocabulary; "
            "choose another --model_dir to train anew"
        )
    # The recipe's tasks in order, since their paths may be spelled in another way than then.
    now = iter(texts(corpus).values())
    for task, then in known.get("texts", {}).items():
        if next(now, None) != then:
            raise UserError(
                f"{model_dir}: the text of {task!r} is no longer what its checkpoints were trained on; "
                "bring it back, or choose another --model_dir to train anew"
            )


def claim_inputs(model_dir: Path | epath.Path, now: inputs.Inputs) -> inputs.Inputs:
    """The inputs that the run read when it started; where it has not started, the inputs that it reads now.

    Raises:
      UserError: the two differ; the message names each change.
    """
    if not _known(model_dir)[1]:
        return now
    then = read_environment(model_dir).get("inputs", {})
    for change in inputs.changes(then, now):
        raise UserError(
            f"{model_dir}: {change} when its checkpoints were trained; bring it back, or choose another --model_dir to "
            "train anew"
        )
    # Inputs that are gone stay recorded: the run did read them.
    return now | {label: inputs.Input(*read) for label, read in then.items()}


def _known(model_dir: Path | epath.Path) -> tuple[dict[str, Any], int]:
    """The record of the run in its newest whole checkpoint, else in environment.json; and the steps done."""
    environment, checkpoints = read_environment(model_dir), _checkpoints(model_dir)
    # Quietly: `Checkpoints.newest` tells about damaged checkpoints when the run restores.
    newest = checkpoints and checkpoints.newest(checkpoints.about, tell=False)
    return (newest[1], newest[0]) if newest else (environment, 0)


def steps_done(model_dir: Path | epath.Path) -> int:
    """The step of a directory's newest whole checkpoint, 0 without one."""
    return _known(model_dir)[1]


def _checkpoints(model_dir: Path | epath.Path) -> Checkpoints | None:
    """The checkpoints of a directory, None where there is no folder for them."""
    return Checkpoints(model_dir / "checkpoints") if (model_dir / "checkpoints").is_dir() else None


def _differences(old: object, new: object, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Walk two JSON values together and yield (path, old, new) wherever they differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{path}[{number}]")
    elif old != new:
        yield path, old, new


def describe(
    directory: Path | epath.Path,
    recipe: Recipe,
    runtime: Runtime,
    name: str,
    mesh: Mesh,
    corpus: Corpus,
    read: inputs.Inputs,
) -> None:
    """Write `config.gin`, `environment.json`, `vocabulary/` and the lexicon's splits.

    Paths in `config.gin` are absolute, so that it can be used from any folder. In `environment.json`, `recipe` and its
    hash `identity` are the recipe as it was written when the run started, and `located` has the absolute paths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "config.gin", as_gin(located(recipe), runtime))
    # A restart may spell paths in another way, or find files in another place. The run keeps the identity that it
    # started with.
    first = {"identity": identity(recipe), "recipe": as_json(recipe)}
    known = read_environment(directory)
    if "located" in known and not _changes(known, recipe):
        first = {key: known[key] for key in first}
    # The recipe, where it runs, what computes it, and what it reads.
    environment = {
        "recipe_name": name,
        "seed": recipe.seed,
        "run_id": known.get("run_id") or uuid.uuid4().hex[:12],  # for trackers, which know runs by ids
        "folder": str(Path.cwd()),
        "vocabulary_fingerprint": corpus.tokenizer.fingerprint,
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "git": git(),
        "texts": texts(corpus),
        "inputs": read,
        **first,
        "located": as_json(located(recipe)),
    }
    write_atomically(directory / "environment.json", json.dumps(environment, indent=1, ensure_ascii=False) + "\n")
    # Local copies: evaluation and export need the vocabulary without the recipe's own files.
    with as_local(directory / "vocabulary") as folder:
        corpus.tokenizer.save(folder)
    if corpus.lexicon is not None:
        with as_local(directory / "lexicon") as folder:
            corpus.lexicon.save(folder)


def texts(corpus: Corpus) -> dict[str, dict[str, dict[str, str]]]:
    """Fingerprints of the prepared texts: task -> split -> language -> fingerprint."""
    return {
        task: {split: {lang: s.fingerprint for lang, s in found.items()} for split, found in splits.items()}
        for task, splits in corpus.stores.items()
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that compute."""
    return {package: _version(package) for package in PACKAGES} | {"python": platform.python_version()}


def source() -> str:
    """A hash of this package's source files."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _version(package: str) -> str | None:
    """The version of an installed package, None for one that is missing: seqio is optional."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git() -> str | None:
    """The source's commit, with "+" if files differ from it; None where no repository tracks this package's files.

    An installed package may lie inside another project's repository, whose commit says nothing about this source.
    """
    file = Path(__file__)

    def said(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    # `ls-files` fails for a file that the repository does not track.
    try:
        said("ls-files", "--error-unmatch", file.name)
        return said("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def record_failure(
    directory: Path | epath.Path,
    stage: str,
    step: int,
    stream: str | None,
    reason: str,
    batch: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write `failure.json`: where a run failed, and the whole batch it failed on."""
    shown = {name: {key: value.tolist() for key, value in arrays.items()} for name, arrays in batch.items()}
    failure = {"stage": stage, "step": step, "stream": stream, "reason": reason, "batch": shown}
    write_atomically(directory / "failure.json", json.dumps(failure) + "\n")


def forget_failure(directory: Path | epath.Path) -> None:
    """Remove `failure.json` once the run has come to its end."""
    (directory / "failure.json").unlink(missing_ok=True)


def add_results(
    model_dir: Path | epath.Path, probes: Sequence[Probe], rows: list[Row], stage: str, step: int, seed: int
) -> None:
    """Add a stage's probe rows at a step to `results.json`, and how reports show the probes to `probes.json`.

    A row there that measured the same thing under the same conditions is replaced; any other row stays.
    """
    write_shown(model_dir, {table.name: table.shown() for probe in probes for table in probe.tables()})
    new = [{"stage": stage, "step": step, "seed": seed, **row} for row in rows]
    measured = {_measured(row) for row in new}
    write_results(model_dir, [row for row in read_results(model_dir) if _measured(row) not in measured] + new)


def add_pictures(model_dir: Path | epath.Path, drawn: Sequence[Drawn]) -> None:
    """Add pictures to `pictures.json`. One of the same step, probe, settings and title is replaced."""
    if drawn:
        new = {_of_picture(one) for one in drawn}
        write_pictures(model_dir, [one for one in read_pictures(model_dir) if _of_picture(one) not in new] + [*drawn])


def _of_picture(one: Drawn) -> tuple:
    """The identity of a picture: when, by which probe with which settings, and of what."""
    # Through JSON, as stored settings were: tuples become lists.
    return one.stage, one.step, one.probe, json.dumps(one.settings, sort_keys=True), one.picture.title


def _measured(row: Row) -> tuple:
    """The identity of a measurement: where, what, and under which conditions."""
    keys = ("stage", "step", "probe", "metric", "language", "level", "split", "control")
    return (*(row.get(key) for key in keys), conditions(row))


def drop_results_past(model_dir: Path | epath.Path, step: int) -> None:
    """Drop results and pictures of steps that a restart will take again."""
    rows = read_results(model_dir)
    if any(row["step"] > step for row in rows):
        write_results(model_dir, [row for row in rows if row["step"] <= step])
    drawn = read_pictures(model_dir)
    if any(one.step > step for one in drawn):
        write_pictures(model_dir, [one for one in drawn if one.step <= step])


def has_results(model_dir: Path | epath.Path, stage: Stage, step: int) -> bool:
    """Whether the stage's own probes have run at this step. Rows of other settings come from `xalign evaluate`."""
    # Settings as they look after a way through JSON, without the paths of their data, which may be spelled differently.
    own = json.loads(json.dumps([without_places(as_json(one)) for probe in stage.probes for one in probe.settings()]))
    here = [row for row in read_results(model_dir) if (row["stage"], row["step"]) == (stage.name, step)]
    # Rows of older versions have no settings.
    return any(row.get("settings") is None or without_places(row["settings"]) in own for row in here)
