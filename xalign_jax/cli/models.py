"""Loads the model of `--model=DIR`: a Hugging Face folder or a model directory."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xalign_jax.cli.loading import import_modules
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.data.tokens.vocabulary import Tokenizer
    from xalign_jax.models.model import Model


def load_model(directory: Path, step: int | None = None) -> tuple[Model, Tokenizer]:
    """The model with its parameters in float32, spread over this machine's devices, and its tokenizer.

    Args:
      step: the checkpoint of a model directory; None = the newest.

    Raises:
      UserError: the folder is neither, has no tokenizer, or holds a model that is not implemented.
    """
    if not directory.is_dir():
        raise UserError(f"--model={directory}: no such folder")
    if (directory / "environment.json").is_file():
        return _of_run(directory, step)
    if not (directory / "config.json").is_file():
        raise UserError(
            f"--model={directory}: neither config.json (a Hugging Face folder) nor environment.json (a run) there"
        )
    # Import says what it leaves out. Standard output belongs to the command's own results.
    with contextlib.redirect_stdout(sys.stderr):
        return _of_folder(directory)


def _of_folder(directory: Path) -> tuple[Model, Tokenizer]:
    """The model of a Hugging Face folder."""
    from xalign_jax.interop import importing
    from xalign_jax.runtime.sharding import make_mesh

    found = importing.read_source(directory)
    # The tokenizer's files are copied, or converted, into a folder that is not needed afterwards.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = importing._tokenizer(directory, Path(folder), found.settings, found.rows, Path(folder))
    if tokenizer.vocabulary.kind == "ids":
        raise UserError(f"--model={directory}: no tokenizer there; copy tokenizer.json of the model into the folder")
    params = importing._read(found.plan, found.model, found.tensors, make_mesh((1, -1, 1)), "float32")
    return found.model.bind(params), tokenizer


def _of_run(directory: Path, step: int | None) -> tuple[Model, Tokenizer]:
    """The model of a model directory."""
    from xalign_jax.data.tokens.vocabulary import Tokenizer
    from xalign_jax.interop.architectures import table
    from xalign_jax.models.model import build
    from xalign_jax.records.files import read_environment
    from xalign_jax.runtime.restore import restore_model
    from xalign_jax.runtime.sharding import make_mesh

    import_modules(directory)
    config = table.config_from_json(read_environment(directory, ("recipe",))["recipe"]["model"])
    tokenizer = Tokenizer.load(directory / "vocabulary")
    model = build(config, tokenizer.size, row_map=tokenizer.row_map)
    _, params = restore_model(directory, step, model, make_mesh((1, -1, 1)))
    return model.bind(params), tokenizer
