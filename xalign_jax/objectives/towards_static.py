"""Pull the states of words towards aligned static vectors (Hämmerl et al. 2022, arXiv 2203.09326, and their code).

For the mean state u_i of a word that stands alone, its static vector v_i of length 1, and a batch of N words:

    loss = sum_i squared mean_j (u_ij - v_ij)^2 + cosine (1 - cos(u_i, v_i)) - N correlation sum_k c_k

c_k are the canonical correlations of the first principal directions of all u_i and all v_i of the batch
(`alignment.correlations`). They do not ask for equal vectors: some linear map of u must give v.

Their code trains masked language modelling beside the squared error or the correlations. Two things differ from its
correlations. It adds sqrt(1 + c_k), and centres each vector over its numbers instead of each number over the words.

No parallel text is needed: the alignment comes from the static vectors.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.correlations import canonical_correlations
from xalign_jax.alignment.pooling import last_tokens, segment_means
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.primitives import cosines, distances
from xalign_jax.objectives.parts.sentences import check_level, level_of
from xalign_jax.recipe import at_least_one, freeze, within

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
      correlation: weight of the correlations. They are those of the whole batch, however it is spread or accumulated.
        Each step then decomposes two matrices of the model's width.
      directions: how many there are, from the direction of the largest variance on; 10 in their code. A batch must have
        more words than twice as many.
    """

    level: int | None = None
    squared: float = 1.0
    cosine: float = 0.0
    correlation: float = 0.0
    directions: int = 10

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "level", "squared", "cosine", "correlation")
        at_least_one(self, "directions")
        if not self.squared + self.cosine + self.correlation:
            raise UserError("TowardsStatic: squared, cosine and correlation are all 0, so nothing is learned")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """No heads, no state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("TowardsStatic", model, self.level)
        return {}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for vectors of another width than the model's, and for too few words to correlate."""
        if "vector" not in batch:
            return
        rows, slots, width = batch["vector"].shape
        if width != model.width:
            raise UserError(
                f"VectorFeed.files: vectors of width {width}, and the model has width {model.width}; "
                "xalign vectors makes vectors of the model's width"
            )
        if self.correlation and self.directions > width:
            raise UserError(f"TowardsStatic.directions = {self.directions}: the vectors have width {width}")
        if self.correlation and rows * slots <= 2 * self.directions:
            raise UserError(
                f"TowardsStatic.directions = {self.directions}: a batch has at most {rows * slots} words, and needs more "
                f"than {2 * self.directions}; raise Stream.batch_size, or lower directions"
            )

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of words, float32 scalar."""
        return jnp.sum(_present(batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: the mean `cosine`, the mean `length` of words' states, and the mean `correlation` if it has a weight.
        """
        level, target, present = level_of(model, self.level), batch["vector"], _present(batch)
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
        total = jnp.sum(apart, where=present)
        if self.correlation:
            # (R,S,D) -> (R S,D): all words of the batch.
            x, y = (side.reshape(-1, model.width) for side in (words, target))
            found = canonical_correlations(x, y, present.reshape(-1), directions=self.directions)
            total -= self.count(model, batch, rng) * self.correlation * jnp.sum(found)
            metrics["correlation"] = jnp.mean(found)
        return total, metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the blocks up to the level, and of covariances with their gradients."""
        rows, length = batch["tokens"].shape
        words = rows * batch["vector"].shape[1] if self.correlation else 0
        blocks = rows * length * level_of(model, self.level) * model.block_flops_per_token(length)
        return blocks + 18.0 * words * model.width**2


def _present(batch: Batch) -> jax.Array:
    """(R,S) bool: the slots that hold a word."""
    slots = jnp.arange(1, batch["vector"].shape[1] + 1)
    return jnp.any(last_tokens(batch["segment_ids"])[:, None, :] == slots[:, None], axis=2)
