"""How commands react to one damaged file in a model directory.

`python tests/training/damage.py [COMMAND ...]` prints a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import conftest  # noqa: F401  (devices and compilation, as for tests)

import jax
import numpy as np
from training import toy

from xalign_jax import config
from xalign_jax.errors import RunError, UserError
from xalign_jax.models.model import build
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.reports import report
from xalign_jax.runtime import sharding
from xalign_jax.runtime.restore import restore_model
from xalign_jax.training import evaluate, run_directory
from xalign_jax.training.train import train as train_recipe

STEPS = 6
RUNTIME = Runtime(mesh=(1, 1, -1), log_every=1, checkpoint_every=2, keep_checkpoints=2)  # leaves steps 4 and 6

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda contents: None,
    "emptied": lambda contents: b"",
    "cut": lambda contents: contents[: len(contents) // 2],
    "zeroed": lambda contents: bytes(len(contents)),
    "flipped": lambda contents: contents[: (at := len(contents) // 2)] + bytes([contents[at] ^ 1]) + contents[at + 1 :],
}


def recipe() -> Recipe:
    """The toy's recipe with one stage."""
    made = toy.recipe(STEPS)
    return dataclasses.replace(made, stages=(dataclasses.replace(made.stages[1], steps=STEPS),))


def train(model_dir: Path) -> None:
    train_recipe(recipe(), RUNTIME, model_dir, "toy")


def evaluate_newest(model_dir: Path) -> None:
    (own,) = config.load([str(model_dir / "config.gin")], [], (Recipe,))
    run_directory.check_config(model_dir, own)
    evaluate.evaluate(own, RUNTIME, model_dir, recipe().stages[0].probes, None)


def compare(model_dir: Path) -> None:
    report.compare([model_dir], model_dir / "compared")


COMMANDS = {"train": train, "evaluate": evaluate_newest, "compare": compare}


def damage(path: Path, kind: str) -> None:
    """Damage a file in place."""
    contents = DAMAGES[kind](path.read_bytes())
    path.unlink() if contents is None else path.write_bytes(contents)


def outcome(command: str, model_dir: Path, undisturbed: Path, named: str) -> tuple[str, bool]:
    """(how the command reacted to a damaged directory, whether that is right).

    Two reactions are right: one line that names the file or its checkpoint, or the result of the undisturbed run. In
    the second case a line must name each checkpoint that was passed over.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            COMMANDS[command](model_dir)
    except (UserError, RunError) as error:
        line = str(error)
        return f"refused: {line}", "\n" not in line and len(line) < 700 and named in line
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False
    lines = [line for line in said.getvalue().splitlines() if line.startswith("xalign: ")]
    how = "; ".join(lines) or "no word"
    if command == "train" and not _equal(_params(model_dir), _params(undisturbed)):
        return f"other parameters; {how}", False
    if command == "evaluate":
        # A checkpoint that was passed over gives a row of an earlier step, and then a line has said so.
        rows, expected = (json.loads((d / "results.json").read_text()) for d in (model_dir, undisturbed))
        if rows[-1] not in expected and not (rows[-1]["step"] == 4 and lines):
            return f"another result; {how}", False
    return f"done: {how}", len(lines) <= 1


def _params(model_dir: Path) -> object:
    """The model's parameters at the end of the run."""
    model = build(recipe().model, toy.VOCABULARY)
    return restore_model(model_dir, STEPS, model, sharding.make_mesh(RUNTIME.mesh))[1]


def _equal(a: object, b: object) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def files(model_dir: Path) -> list[str]:
    """Files that commands read again: without TensorBoard's, and without those of the checkpoint before the newest."""
    found = (str(path.relative_to(model_dir)) for path in model_dir.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(("events.", "checkpoints/4/")))


def named_by(file: str) -> str:
    """The word that a message must contain: the file's name, or the step if the file belongs to a checkpoint."""
    parts = Path(file).parts
    return "/".join(parts[:2]) if parts[0] == "checkpoints" else parts[-1]


def table(undisturbed: Path, commands: Sequence[str] = tuple(COMMANDS)) -> Iterator[tuple[str, str, str, str, bool]]:
    """(file, damage, command, outcome, right) for each damage to each file that the command reads."""
    for file, kind, command in itertools.product(files(undisturbed), DAMAGES, commands):
        if command == "compare" and file.startswith(("checkpoints/", "vocabulary/")):
            continue
        with tempfile.TemporaryDirectory() as parent:
            model_dir = Path(shutil.copytree(undisturbed, Path(parent) / "run"))
            damage(model_dir / file, kind)
            yield file, kind, command, *outcome(command, model_dir, undisturbed, named_by(file))


def main() -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    toy.use_toy_data()
    jax.config.update("jax_default_matmul_precision", "highest")
    with tempfile.TemporaryDirectory() as parent:
        undisturbed = Path(parent) / "undisturbed"
        train(undisturbed)
        wrong = 0
        for file, kind, command, what, right in table(undisturbed, sys.argv[1:] or tuple(COMMANDS)):
            wrong += not right
            print(f"{'' if right else 'WRONG '}{file} | {kind} | {command} | {what.replace(parent, '')}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
