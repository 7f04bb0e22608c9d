"""Back-translation masked LM, the second objective of ERNIE-M (Ouyang et al. 2021): a text reads its own translation.

    y = argmax p(y_j | x), one token for each placeholder; each placeholder sees x and itself
    loss = - sum_{i in M_x} log p(x_i | x without M_x, y)

The first pass reads x whole and writes the pseudo tokens y. The second pass reads x with masks and y, and all tokens
see each other. y is a constant: no gradient goes through the first pass. No code was published, and every detail beyond
the formula is ours. A model that was trained by `CAMLM` before writes tokens of other languages.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs
from xalign_jax.objectives.masked_lm import MaskedLM, Plan
from xalign_jax.objectives.parts.primitives import FORWARD, best_tokens
from xalign_jax.recipe import at_least_one

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BTMLM(MaskedLM):
    """Cross-entropy of the chosen tokens of texts that stand beside their pseudo translations, counted by their number.

    Batch: tokens, positions, segment_ids (B,T) int32 of a TextFeed.

    Attributes:
      pseudo: pseudo tokens of a row. The texts of a row share them evenly. Rows grow by so many tokens.
      restart: the positions of the pseudo tokens restart at 0; False = they go on where the text ends.
    """

    pseudo: int = 8
    restart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "pseudo")

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError if the rows with their pseudo tokens are longer than the model takes."""
        length = batch["tokens"].shape[1]
        if length + self.pseudo > model.max_length:
            name = type(model.config).__name__
            raise UserError(
                f"BTMLM.pseudo = {self.pseudo}: rows of {length} tokens would have {length + self.pseudo}, more than "
                f"{name}.max_length = {model.max_length}; shorten the feed's rows"
            )
        if "types" in batch:
            raise UserError("Stream.objective = @BTMLM(): pseudo tokens have no language; set language_types = False")

    def states(self, model: Model, batch: Batch, plan: Plan) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The states of the texts at level L after both passes, and `pseudo_distinct`, distinct pseudo tokens / all."""
        top, length = model.num_layers, batch["tokens"].shape[1]
        inputs = self.extended(model, batch)
        pseudo = self._written(model, inputs, length)
        # (B,T+P): the text with masks, then the pseudo tokens. All tokens of a segment see each other.
        second = inputs._replace(tokens=jnp.concatenate([plan.tokens, pseudo], axis=1), seen=None)
        real = inputs.segment_ids[:, length:] > 0
        ordered = jnp.sort(jnp.where(real, pseudo, -1), axis=None)
        distinct = jnp.sum((jnp.diff(ordered, prepend=-1) != 0) & (ordered >= 0))
        metrics = {"pseudo_distinct": distinct / jnp.maximum(jnp.sum(real), 1)}
        return model.hidden(second, levels=(top,))[top][:, :length], metrics

    def extended(self, model: Model, batch: Batch) -> Inputs:
        """What the first pass reads: rows of T text tokens and P placeholders, which only they themselves see."""
        segments, length = batch["segment_ids"], batch["segment_ids"].shape[1]
        number = jnp.arange(self.pseudo)
        # (B,1) texts of each row -> (B,P): the placeholders go to the texts in turn. A row without text has none.
        texts = jnp.max(segments, axis=1, keepdims=True)
        owner = jnp.where(texts > 0, number % jnp.maximum(texts, 1) + 1, 0)
        nth = number // jnp.maximum(texts, 1)
        size = jnp.sum(segments[:, None, :] == owner[:, :, None], axis=2)
        position = jnp.where(owner > 0, nth if self.restart else nth + size, 0)
        assert model.mask_id is not None, "`init` has looked"
        masks = jnp.full(owner.shape, model.mask_id)
        columns = (batch["tokens"], masks), (batch["positions"], position), (segments, owner)
        tokens, positions, owners = (jnp.concatenate([one, other.astype(one.dtype)], axis=1) for one, other in columns)
        key = jnp.arange(length + self.pseudo)
        seen = jnp.broadcast_to((key < length) | (key[:, None] == key), (len(segments), len(key), len(key)))
        return Inputs(tokens, positions, owners, seen=seen)

    @staticmethod
    def _written(model: Model, inputs: Inputs, length: int) -> jax.Array:
        """(B,P) int32: the most probable ordinary token at each placeholder."""
        top = model.num_layers
        # Constants in place of parameters, so that nothing of this pass is kept for a gradient.
        fixed = model.bind(*jax.lax.stop_gradient((model.params, dict(model.heads))))
        states = fixed.hidden(inputs, levels=(top,))[top][:, length:]
        h = fixed.head_input(states.reshape(-1, states.shape[-1]))
        found = best_tokens(h, fixed.head_weight(), fixed.head_bias(), jnp.asarray(model.special))
        return found.reshape(states.shape[:2])

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the second pass, forward and backward, and of the first pass and its head, which is only forward."""
        rows, length = batch["tokens"].shape
        blocks = rows * (length + self.pseudo) * model.num_layers * model.block_flops_per_token(length + self.pseudo)
        head = model.head_flops_per_token * rows * (self.corruption.rate * length + self.pseudo * FORWARD)
        return blocks * (1 + FORWARD) + head
