"""A recipe's train steps, lowered for a machine from shapes by the training loop's own functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from xalign_jax import target
from xalign_jax.models.model import Model
from xalign_jax.recipe import Recipe, Runtime, Stage
from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import abstract
from xalign_jax.scale.topology import Machine
from xalign_jax.training import checks, stages, state
from xalign_jax.training.build import build_model
from xalign_jax.training.step import jit_step, make_step


class Program(NamedTuple):
    """A stage's train step, lowered for a machine.

    Attributes:
      lowered: JAX's lowered step; its `compile()` gives the program.
      parameters: the number of parameters of the model and its heads.
    """

    stage: Stage
    model: Model
    mesh: Mesh
    lowered: Any
    parameters: int


def programs(recipe: Recipe, runtime: Runtime, machine: Machine) -> Iterator[Program]:
    """The train step of each stage, lowered one after another.

    Raises:
      UserError: the mesh does not multiply to the machine's devices, rows do not divide over it, or `xalign train`
        would refuse the recipe before it reads text.
    """
    checks.check(recipe)
    mesh = sharding.make_mesh(runtime.mesh, machine.slices)
    tokenizer = stages.blank_data(recipe).tokenizer
    with target.lowering_for(machine.platform, machine.devices):
        model = build_model(recipe, runtime, tokenizer)
        checks.check_shapes(recipe, runtime, model, mesh)
    for stage in recipe.stages:
        with target.lowering_for(machine.platform, machine.devices):
            program = _lower(stage, model, mesh, recipe.seed)
        yield program


def _lower(stage: Stage, model: Model, mesh: Mesh, seed: int) -> Program:
    # Shapes and places of the state and of a batch stand for the arrays.
    coordinates = stage.parametrization.bind(model, None)
    known = state.layout(stage, coordinates, model, seed, mesh)
    rows = NamedSharding(mesh, sharding.BATCH)
    batches = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows), stages.blank_batches(stage)
    )
    # The step counts tokens by language, and only text has their names: one nameless language stands for all.
    languages = {stream.name: ("",) for stream in stage.streams}
    step = jit_step(make_step(stage, coordinates, model, 0, seed, languages), known.where)
    with jax.set_mesh(mesh):
        lowered = step.lower(abstract(known.abstract, known.where), batches)
    parameters = sum(array.size for array in jax.tree.leaves(known.abstract_params))
    return Program(stage, model, mesh, lowered, parameters)
