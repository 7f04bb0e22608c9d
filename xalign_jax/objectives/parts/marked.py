"""Objectives that read the rows of a MarkedFeed, in which one word of a sentence is marked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax

from xalign_jax.interfaces import Batch, Inputs, Objective
from xalign_jax.objectives.parts.sentences import level_of
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class OnMarkedRows(Objective):
    """A head judges the states of one level.

    Attributes:
      level: the level whose states are judged; None = the last. Nothing above it is computed.
    """

    level: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "level")

    def read(self, model: Model, batch: Batch) -> jax.Array:
        """The states of the level, (B,T,width)."""
        level = level_of(model, self.level)
        return model.hidden(Inputs.of(batch), levels=(level,))[level]

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the blocks up to the level, forward and backward. The head's are few."""
        rows, length = batch["tokens"].shape
        return rows * length * level_of(model, self.level) * model.block_flops_per_token(length)
