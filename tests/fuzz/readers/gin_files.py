"""Gin files and options of the command line: built, or refused in one line."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
from pathlib import Path
from typing import Any

from fuzz.harness import Reader
from xalign_jax import cli, config, gin_files
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe, Runtime, Stage
from xalign_jax.records.gin_text import as_gin

JOINT = "recipes/joint_clone_tiny.gin"
OPTIONS = (
    "Recipe.seed=3",
    "PRETRAIN_STEPS=7",
    "PROBES=[@Perplexity(), @WordRetrieval()]",
    'Mixture.tasks=("lines:en=en.txt,de=de.txt",)',
    "Mixture.rates={'en': 0.9, 'de': 0.1}",
    "Recipe.model=@Llama()",
    "Recipe.facts=None",
    "Vocabulary.lowercase=False",
    "Vocabulary.path='runs/x/vocabulary'",
    "pretrain/Stage.steps=5",
    "pretrain/Stage.streams=[@pretrain_lm/Stream()]",
    "Runtime.mesh=(1, -1, 1)",
    "WarmupCosine.peak=1e-3",
)
COMMANDS = (
    ["train", "--gin_file=recipes/joint_clone_tiny.gin", "--model_dir=x", "--gin.Recipe.seed=3", "--extend"],
    ["train", "--gin_file", "a.gin", "--model_dir", "x", "--processes=2", "--process_id=0", "--coordinator=h:1"],
    ["evaluate", "--gin_file=probes/clone.gin", "--model_dir=x", "--step=3"],
    ["compare", "a", "b", "--output=c"],
    ["import", "--source=a", "--model_dir=b", "--dtype=bfloat16", "--overwrite"],
    ["export", "--model_dir=a", "--output=b", "--step=1", "--sentence_encoder=mean", "--level=2", "--normalize"],
    ["compile", "--gin_file=a.gin", "--topology=cpu:8", "--num_slices=2", "--output=f"],
    ["data", "stats", "--gin_file=a.gin"],
    ["--version"],
)


@functools.cache
def _packaged() -> dict[str, bytes]:
    """Every packaged gin file by its name; what gin knows is registered once."""
    cli.register()
    root = gin_files.gin_root()
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.gin"))}


def _files() -> list[dict[str, bytes]]:
    """One packaged file of each seed is the user's own: it is found before the packaged one and may be damaged."""
    files = [{"main.gin": text} for name, text in _packaged().items() if name.startswith(("recipes/", "parts/"))]
    files += [{"main.gin": f"include '{name}'\n".encode(), name: text} for name, text in _packaged().items()]
    recipe, runtime = _built(JOINT)
    return [*files, {"main.gin": as_gin(recipe, runtime).encode()}]


def _built(file: str, *bindings: str) -> list[Any]:
    _packaged()
    return config.load([file], bindings, (Recipe, Runtime))


def _read_file(folder: Path) -> list[Any]:
    with contextlib.chdir(folder):
        return _built("main.gin")


def _check(built: list[Any], folder: object) -> None:
    recipe, runtime = built
    assert isinstance(recipe, Recipe) and isinstance(runtime, Runtime)
    assert all(isinstance(stage, Stage) for stage in recipe.stages), recipe.stages
    json.dumps(as_gin(recipe, runtime))


def _options() -> list[dict[str, bytes]]:
    _packaged()  # imports take longer than an input may
    return [{"option": option.encode()} for option in OPTIONS]


def _read_option(folder: Path) -> list[Any]:
    """Arguments hold no NUL, and bytes that are not UTF-8 as Python's surrogates."""
    return _built(JOINT, os.fsdecode((folder / "option").read_bytes().replace(b"\0", b"")))


def _commands() -> list[dict[str, bytes]]:
    return [{"arguments": "\n".join(command).encode()} for command in COMMANDS]


def _read_command(folder: Path) -> None:
    """Exit code 0 for help and the version, else 2 and one line."""
    arguments = os.fsdecode((folder / "arguments").read_bytes().replace(b"\0", b"")).split("\n")
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            cli._parse(arguments)
        except SystemExit as end:
            if end.code == 0:
                return
            assert end.code == cli.USAGE, end.code
            raise UserError(said.getvalue().rstrip("\n")) from None


READERS = [
    Reader("gin_file", _files, _read_file, _check),
    Reader("gin_option", _options, _read_option, _check),
    Reader("command_line", _commands, _read_command),
]
