"""Denoising word alignment: XLM-Align (Chi et al. 2021, arXiv 2106.06381, section 3), in the form of its released code.

A row holds a sentence and its translation. E-step, on the row as it is, without a gradient, H the states at `level`:

    pi = H H^T between the two sentences, values <= 0 raised to 1e-6, then columns and rows normalised twice
    links = itermax(pi)                                       a(j): the partner of token j in the other sentence

M-step, on the row with masked tokens, c the states at the last level, i over the tokens of the other sentence:

    s(j,i) = (W_q c_j + b_q).(W_k c_i + b_k) / sqrt(D)
    loss = - sum over masked tokens j with a partner: log softmax_i s(j,i) [a(j)]

The paper trains it beside MMLM and TLM: add their streams.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.extraction import itermax, normalise
from xalign_jax.alignment.losses import pointer_loss, project
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.matrix_product import product
from xalign_jax.objectives.parts.corruption import Corrupted, Corruption, corrupt
from xalign_jax.objectives.parts.links import second_texts
from xalign_jax.objectives.parts.primitives import FORWARD
from xalign_jax.objectives.parts.sentences import check_level, has_keys
from xalign_jax.recipe import freeze, objects, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

HEAD = "word_pointer"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DenoisingAlignment(Objective):
    """Point from each masked token to its translation. The labels are the model's own alignment of the unmasked row.

    Both steps are in one program, with the same parameters. The loss is the mean over masked tokens that have a partner,
    times the number of masked tokens, by which it is counted: the links are not known before the step.

    Batch of a TranslationFeed: tokens, positions, segment_ids (B,T) int32; a segment is "bos a eos b eos".

    Attributes:
      level: the level of the E-step. XLM-Align's code has 8 of 12, its README 10.
      corruption: how many tokens are masked, and what replaces them.
    """

    level: int = gin.REQUIRED
    corruption: Corruption = dataclasses.field(default_factory=Corruption)

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "level")
        objects(self, "corruption")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "word_pointer": W_q and W_k (width,width), drawn from N(0, 0.02^2), and their biases of 0. No state.

        Raises:
          UserError: the model lacks the level or is causal, or the vocabulary has no mask piece.
        """
        check_level("DenoisingAlignment", model, self.level)
        if model.causal:
            raise UserError("Stream.objective = @DenoisingAlignment(): a causal model does not see the other sentence")
        if model.mask_id is None:
            raise UserError("Stream.objective = @DenoisingAlignment(): the vocabulary has no mask piece")
        names, keys = ("query", "key"), jax.random.split(rng)
        head = {n: 0.02 * jax.random.normal(key, (model.width,) * 2) for n, key in zip(names, keys, strict=True)}
        return {HEAD: head | {f"{name}_bias": jnp.zeros(model.width) for name in names}}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch whose translations stand in rows of their own."""
        if has_keys(batch):
            raise UserError("Stream.objective = @DenoisingAlignment(): both texts share a row; bind a TranslationFeed")

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of masked tokens, float32 scalar. The key is that of `loss`, so the choice is the same."""
        return jnp.sum(self._corrupt(model, batch, rng).chosen, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(mean loss times the count, metrics, state).

        Metrics: `accuracy` of the pointer, and `aligned`, the share of masked tokens that have a partner.
        """
        tokens, segment_ids = batch["tokens"], batch["segment_ids"]
        inputs, corrupted = Inputs.of(batch), self._corrupt(model, batch, rng)
        # (B,T) bool each: ordinary tokens of the first and of the second text. (B,T,T): tokens of the same pair.
        second = second_texts(tokens, segment_ids)
        ordinary = (segment_ids > 0) & ~jnp.asarray(model.special)[tokens]
        among = segment_ids[:, :, None] == segment_ids[:, None, :]
        partner = _partners(model, inputs, self.level, ordinary & ~second, ordinary & second, among)
        # M-step. (B,T,T): the tokens that a token may point to.
        top = model.num_layers
        states = model.hidden(inputs._replace(tokens=corrupted.tokens), levels=(top,))[top]
        head = model.heads[HEAD]
        query, key = (
            project(states.astype(jnp.float32), head[name], head[f"{name}_bias"]) for name in ("query", "key")
        )
        window = among & ordinary[:, None, :] & (second[:, :, None] != second[:, None, :])
        found = pointer_loss(query, key, partner, window, corrupted.chosen & (partner >= 0))
        masked, terms = jnp.sum(corrupted.chosen, dtype=jnp.float32), jnp.maximum(found.terms, 1)
        metrics = {"accuracy": found.correct / terms, "aligned": found.terms / jnp.maximum(masked, 1)}
        return found.loss * masked / terms, metrics, state

    def corrupted(self, model: Model, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """The tokens that the M-step reads, and the masked positions."""
        return self._corrupt(model, batch, rng)._asdict()

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of all blocks forward and backward, and of the E-step's blocks forward, a third of both."""
        rows, length = batch["tokens"].shape
        blocks = model.num_layers + self.level * FORWARD
        return rows * length * (blocks * model.block_flops_per_token(length) + 12.0 * model.width**2)

    def _corrupt(self, model: Model, batch: Batch, rng: jax.Array) -> Corrupted:
        return corrupt(rng, batch["tokens"], batch["segment_ids"], self.corruption, model.special, model.mask_id)


def _partners(
    model: Model, inputs: Inputs, level: int, first: jax.Array, second: jax.Array, among: jax.Array
) -> jax.Array:
    """The E-step: a(j) of every position, (B,T) int32, -1 = none. Where a token has several links, the last one counts."""
    states = jax.lax.stop_gradient(model.hidden(inputs, levels=(level,))[level])
    similarity = product(states, states, "nt", precision=jax.lax.Precision.HIGHEST)
    links = itermax(normalise(similarity, first, second, among=among).rows, first, second, among=among)
    # (B,T,T) links, rows of the first text and columns of the second one -> both directions.
    place = jnp.arange(links.shape[1], dtype=jnp.int32)
    forward = jnp.max(jnp.where(links, place, -1), axis=2)
    backward = jnp.max(jnp.where(links, place[:, None], -1), axis=1)
    return jnp.maximum(forward, backward)
