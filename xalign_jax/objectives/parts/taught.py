"""Objectives with a teacher: a model that reads the queries of translation pairs, and stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.objectives.parts.momentum import copied
from xalign_jax.objectives.parts.sentences import sides_apart
from xalign_jax.recipe import resolve, with_paths

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Taught(Objective):
    """Keeps the parameters of a teacher as the state "teacher". No gradient moves them.

    Bind `ContrastFeed.pivot` to the language that the teacher knows best, and `ContrastFeed.reverse = 0.0`.

    Attributes:
      teacher: a model directory of the same shape and vocabulary; None = the model as it is when the stage begins.
    """

    teacher: str | None = dataclasses.field(default=None, metadata=with_paths(lambda path: path and resolve(path)))

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads; state "teacher": its parameters, zeros until `prefill`."""
        return {}, {"teacher": jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), model.shapes)}

    def state_axes(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """The teacher is sharded like the model."""
        return {"teacher": model.logical_axes()}

    def directories(self) -> Mapping[str, str]:
        """The teacher's directory, if it has one."""
        return {} if self.teacher is None else {"teacher": self.teacher}

    def prefill(
        self, model: Model, state: dict[str, Tree], batches: Iterable[Batch], rng: jax.Array
    ) -> dict[str, Tree]:
        """The teacher as a copy of the parameters, unless it came from a directory.

        Raises:
          UserError: a language stands on the teacher's side and on the other one.
        """
        if not sides_apart(next(iter(batches))):
            raise UserError(
                f"{type(self).__name__}: both sides of the feed's pairs hold texts of one language, so the teacher would "
                'read translations; bind ContrastFeed.pivot = "en" (what the teacher knows) and ContrastFeed.reverse = 0.0'
            )
        if self.teacher is not None:
            return state
        return {"teacher": copied(model.params)}

    def taught_by(self, model: Model, state: dict[str, Tree]) -> Model:
        """The teacher, with its parameters bound."""
        return model.bind(jax.lax.stop_gradient(state["teacher"]))
