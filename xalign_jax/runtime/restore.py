"""Restores the parameters of a model from a model directory, onto any mesh."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from xalign_jax.errors import UserError
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import Checkpoints, abstract


def restore_model(model_dir: Path | epath.Path, at: int | None, model: Any, mesh: Mesh) -> tuple[int, Any]:
    """A step of a run and the model's parameters at that step, sharded over the mesh.

    Args:
      at: the step; None = the newest undamaged one.
      model: the model that was saved, whose shapes and logical axes are used.

    Raises:
      UserError: there is no undamaged checkpoint, the step is damaged, or it holds another model.
    """
    return _restored(model_dir, at, "params", ("model",), model, mesh)


def restore_heads(model_dir: Path | epath.Path, at: int, mesh: Mesh) -> dict[str, Any]:
    """The heads that objectives trained, as a step holds them, whole on every device of the mesh; {} = there are none."""
    checkpoints, whole = Checkpoints(model_dir / "checkpoints"), sharding.replicated(mesh)
    tree: dict[str, Any] = {}
    for name, (shape, dtype, _) in checkpoints.about(at).get("arrays", {}).get("params", {}).items():
        *path, last = name.split("/")
        if path and path[0] == "heads":
            branch = functools.reduce(lambda node, key: node.setdefault(key, {}), path[1:], tree)
            branch[last] = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=whole)
    heads = checkpoints.restore_part(at, "params", ("heads",), tree) if tree else {}
    checkpoints.close()
    return heads


def restore_state(
    model_dir: Path | epath.Path, at: int | None, model: Any, mesh: Mesh, stream: str, name: str
) -> tuple[int, Any]:
    """A step and the parameters that a stream's objective keeps as state[`name`]["model"], such as a momentum encoder.

    Raises:
      UserError: as `restore_model`, or the stream's memory has no such parameters.
    """
    return _restored(model_dir, at, "rest", ("state", stream, name, "model"), model, mesh)


def newest_params(model_dir: Path | epath.Path) -> tuple[int, str] | None:
    """The newest undamaged step of a run and a hash of its parameters; None if there is none."""
    if not (model_dir / "checkpoints").is_dir():
        return None
    # Reads the records alone, which hold a checksum of every array; no array is read.
    checkpoints = Checkpoints(model_dir / "checkpoints")
    found = checkpoints.newest(checkpoints.about, tell=False)
    if found is None:
        return None
    step, about = found
    recorded = json.dumps(about.get("arrays", {}).get("params", step), sort_keys=True)
    return step, hashlib.sha256(recorded.encode()).hexdigest()[:16]


def _restored(
    model_dir: Path | epath.Path, at: int | None, item: str, path: tuple[str, ...], model: Any, mesh: Mesh
) -> tuple[int, Any]:
    """A step as for `restore_model`, and a branch of it that has the shapes of the model's parameters."""
    if not (model_dir / "checkpoints").is_dir():
        raise UserError(f"{model_dir}: no checkpoints there; train it first")
    # Restore directly into the shardings of this mesh, which may differ from the run's mesh.
    checkpoints, tree = Checkpoints(model_dir / "checkpoints"), _abstract(model, mesh)

    def restore(step: int) -> Any:
        return checkpoints.restore_part(step, item, path, tree)

    found = checkpoints.newest(restore) if at is None else (at, restore(at))
    if found is None:
        raise UserError(f"{model_dir}/checkpoints holds no checkpoint yet")
    checkpoints.close()
    return found


def _abstract(model: Any, mesh: Mesh) -> Any:
    """Shapes and shardings of the model's parameters on the mesh."""
    return abstract(model.shapes, sharding.parameter_shardings(model.logical_axes(), model.shapes, mesh))
