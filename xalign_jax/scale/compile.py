"""A recipe's train steps, compiled for a machine from shapes alone: the loop's own functions, no text, no arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.sharding import Mesh, NamedSharding

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
      lowered: what `.compile()` makes the program of.
      parameters: how many the model and its heads have.
    """

    stage: Stage
    model: Model
    mesh: Mesh
    lowered: Any
    parameters: int


def programs(recipe: Recipe, runtime: Runtime, machine: Machine) -> Iterator[Program]:
    """The train step of each stage, lowered one after another.

    Raises:
      UserError: a mesh that does not multiply to the machine's devices, rows that do not divide over it, and whatever
        else `xalign train` would refuse before it reads text.
    """
    checks.check(recipe)
    mesh = sharding.make_mesh(runtime.mesh, machine.slices)
    with _as_if_on(machine):
        model = build_model(recipe, runtime, stages.blank_data(recipe).tokenizer)
        checks.check_shapes(recipe, runtime, model, mesh)
        for stage in recipe.stages:
            yield _lower(stage, model, mesh, recipe.seed)


def _lower(stage: Stage, model: Model, mesh: Mesh, seed: int) -> Program:
    coordinates = stage.parametrization.bind(model, None)
    known = state.layout(stage, coordinates, model, seed, mesh)
    rows = NamedSharding(mesh, sharding.BATCH)
    batches = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows), stages.blank_batches(stage)
    )
    languages = {stream.name: ("",) for stream in stage.streams}  # only text knows; the step counts tokens by them
    step = jit_step(make_step(stage, coordinates, model, 0, seed, languages), known.where)
    with jax.set_mesh(mesh):
        lowered = step.lower(abstract(known.abstract, known.where), batches)
    parameters = sum(array.size for array in jax.tree.leaves(known.abstract_params))
    return Program(stage, model, mesh, lowered, parameters)


@contextlib.contextmanager
def _as_if_on(machine: Machine) -> Iterator[None]:
    """What the library asks of JAX while it is traced, answered for the machine: it chooses sizes by it."""
    with mock.patch.multiple(jax, default_backend=lambda: machine.platform, device_count=lambda *_: machine.devices):
        yield
