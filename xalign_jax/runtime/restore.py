"""Parameters of a model out of a model directory, onto any mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from xalign_jax.errors import UserError
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoint import Checkpoints, abstract


def restore_model(model_dir: Path, at: int | None, model: Any, mesh: Mesh) -> tuple[int, Any]:
    """A step of a run (None: its newest) and the model's parameters there, sharded over the mesh.

    A checkpoint also holds the heads that the run's objectives trained. Orbax restores an item as a whole, so they are
    read by the shapes that they were saved with, and left out of the result.

    Args:
      model: what was saved there: its `init` and `logical_axes` say shapes and places.

    Raises:
      UserError: there is no checkpoint, or it holds another model.
    """
    checkpoints, at = _open(model_dir, at)
    heads = checkpoints.params_metadata(at)["heads"]
    heads = abstract(heads, jax.tree.map(lambda _: sharding.replicated(mesh), heads))
    params = checkpoints.restore_params(at, {"model": _abstract(model, mesh), "heads": heads})["model"]
    checkpoints.close()
    return at, params


def restore_memory(model_dir: Path, at: int | None, model: Any, mesh: Mesh, stream: str, name: str) -> tuple[int, Any]:
    """A step and the parameters that a stream's objective keeps as memory[`name`]["model"], such as a momentum encoder.

    Raises:
      UserError: there is no checkpoint, or the stream remembers no such thing.
    """
    checkpoints, at = _open(model_dir, at)
    tree = {"memory": {stream: {name: {"model": _abstract(model, mesh)}}}}
    found = checkpoints.restore_part(at, tree)["memory"][stream][name]["model"]
    checkpoints.close()
    return at, found


def newest_params(model_dir: Path) -> tuple[int, Path] | None:
    """The newest step of a run and the folder of its parameters; None where there is none."""
    if not (model_dir / "checkpoints").is_dir():
        return None
    at = Checkpoints(model_dir / "checkpoints").latest()
    return None if at is None else (at, model_dir / "checkpoints" / str(at) / "params")


def _open(model_dir: Path, at: int | None) -> tuple[Checkpoints, int]:
    """The run's checkpoints and the step asked for, or its newest."""
    if not (model_dir / "checkpoints").is_dir():
        raise UserError(f"{model_dir}: no checkpoints there; train it first")
    checkpoints = Checkpoints(model_dir / "checkpoints")
    at = checkpoints.latest() if at is None else at
    if at is None:
        raise UserError(f"{model_dir}/checkpoints holds no whole checkpoint yet")
    return checkpoints, at


def _abstract(model: Any, mesh: Mesh) -> Any:
    """Shapes and places of the model's parameters on the mesh."""
    return abstract(model.shapes, sharding.parameter_shardings(model.logical_axes(), model.shapes, mesh))
