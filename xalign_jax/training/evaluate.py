"""Probes on a checkpoint that is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from xalign_jax.data.prepared import Prepared
from xalign_jax.errors import UserError
from xalign_jax.models.functional import Model
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.runtime import sharding
from xalign_jax.runtime.restore import restore_model
from xalign_jax.training import directory, plan
from xalign_jax.training.loop import build_model, run_probes


def restored(
    recipe: Recipe, runtime: Runtime, model_dir: Path, step: int | None = None
) -> tuple[Prepared, Mesh, Model, int, Any]:
    """(data, mesh, model, step, parameters) of a run's checkpoint (None: its newest).

    Raises:
      UserError: no such checkpoint, or it was trained on another vocabulary or other texts than the recipe's now.
    """
    plan.prepare_data(recipe)
    prepared = plan.load_data(recipe)
    directory.claim_data(model_dir, prepared)
    mesh = sharding.make_mesh(runtime.mesh)
    model = build_model(recipe, runtime, prepared)
    return prepared, mesh, model, *restore_model(model_dir, step, model, mesh)


def configuration(model_dir: Path) -> tuple[str, list[str]]:
    """The gin file of a run or of an imported model, and the bindings that make a `Recipe` of it.

    An imported model has a vocabulary and no stages: there is no text of its own to probe.

    Raises:
      UserError: the directory holds neither.
    """
    if (model_dir / "config.gin").is_file():
        return str(model_dir / "config.gin"), []
    if (model_dir / "model.gin").is_file():
        vocabulary = str(model_dir / "vocabulary")
        return str(model_dir / "model.gin"), [f"Vocabulary.path = {vocabulary!r}", "Recipe.stages = ()"]
    raise UserError(f"--model_dir={model_dir}: neither config.gin nor model.gin there; is it a model directory?")


def evaluate(recipe: Recipe, runtime: Runtime, model_dir: Path, probes: tuple, step: int | None) -> None:
    """Run probes on a run's checkpoint (None: its newest) and add their rows to its `results.json`.

    Raises:
      UserError: no such checkpoint, or it was trained on another vocabulary or other texts than the recipe's now.
    """
    prepared, mesh, model, step, params = restored(recipe, runtime, model_dir, step)
    plan.check_probes(probes, model, prepared)
    with jax.set_mesh(mesh):
        rows = run_probes(probes, model, params, prepared, recipe.seed)
    if not rows:
        raise UserError(f"--model_dir={model_dir}: the probes measure nothing that this run has")
    stage = next((one.stage.name for one in plan.plan(recipe, prepared) if step <= one.last_step), "import")
    directory.add_results(model_dir, rows, stage, step, recipe.seed)
