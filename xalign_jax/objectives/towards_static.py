"""Pull the states of words towards aligned static vectors (Hämmerl et al. 2022, arXiv 2203.09326, and their code).

For the mean state u_i of a word that stands alone, and its static vector v_i of length 1:

    loss = sum_i squared mean_j (u_ij - v_ij)^2 + cosine (1 - cos(u_i, v_i))

Their code has the squared error, and in its place a loss of canonical correlations, which is not here. It trains masked
language modelling beside it. No parallel text is needed: the alignment comes from the static vectors.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.pooling import last_tokens, segment_means
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.primitives import cosines, distances
from xalign_jax.objectives.parts.sentences import check_level
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TowardsStatic(Objective):
    """Distance of words from their static vectors, counted by words. A word is the mean of its tokens, bos and eos too.

    Batch of a VectorFeed: tokens, positions, segment_ids (R,T) int32; vector (R,S,D) float32.

    Attributes:
      level: the level whose states are pulled; None = the last.
      squared, cosine: weights of the two distances.
    """

    level: int | None = None
    squared: float = 1.0
    cosine: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "level", "squared", "cosine")
        if not self.squared + self.cosine:
            raise UserError("TowardsStatic: squared and cosine are both 0, so nothing is learned")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("TowardsStatic", model, self._level(model))
        return {}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for vectors of another width than the model's."""
        if "vector" in batch and batch["vector"].shape[-1] != model.width:
            raise UserError(
                f"VectorFeed.files: vectors of width {batch['vector'].shape[-1]}, and the model has width {model.width}; "
                "xalign vectors makes vectors of the model's width"
            )

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of words, float32 scalar."""
        return jnp.sum(_present(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state). Metrics: the mean `cosine`, and the mean `length` of words' states."""
        level, target, present = self._level(model), batch["vector"], _present(batch)
        states = model.hidden(Inputs.of(batch), levels=(level,))[level]
        # (R,T,D) -> (R,S,D): one vector for each word.
        words = segment_means(states, batch["segment_ids"], target.shape[1])
        apart = distances(words, target, self.squared, self.cosine)
        count = jnp.maximum(self.count(model, batch, rng), 1)
        lengths = jnp.linalg.norm(jax.lax.stop_gradient(words), axis=-1)
        metrics = {
            "cosine": jnp.sum(cosines(words, target), where=present) / count,
            "length": jnp.sum(lengths, where=present) / count,
        }
        return jnp.sum(apart, where=present), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the blocks up to the level."""
        rows, length = batch["tokens"].shape
        return rows * length * self._level(model) * model.block_flops_per_token(length)

    def _level(self, model: Model) -> int:
        return model.num_layers if self.level is None else self.level


def _present(batch: Batch) -> jax.Array:
    """(R,S) bool: the slots that hold a word."""
    slots = jnp.arange(1, batch["vector"].shape[1] + 1)
    return jnp.any(last_tokens(batch["segment_ids"])[:, None, :] == slots[:, None], axis=2)
