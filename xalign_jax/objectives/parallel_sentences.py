"""Parallel sentence identification: does the second text of a row translate the first? awesome-align's PSI.

Dou and Neubig 2021, arXiv 2101.08231, section 2.2, in the form of the released code. For the state h of the first token
of "bos a eos b eos" at `level`:

    logits = V tanh(W h + c) + d                 two classes
    loss = sum over pairs of the cross-entropy, class 1 where b translates a, 0 where b is another text
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.losses import project
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Objective, Tree
from xalign_jax.objectives.parts.sentences import (
    QUERY,
    check_encoder,
    has_keys,
    items,
    level_of,
    sentence_vectors,
    side,
)
from xalign_jax.recipe import freeze, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

HEAD = "parallel_sentences"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ParallelSentences(Objective):
    """Tell sentence pairs that translate each other from mismatched ones; counted by pairs.

    Batch of a TranslationFeed with `mismatched`: tokens, positions, segment_ids (R,T) int32, a segment is
    "bos a eos b eos"; group (R,S,2) int32, equal for texts that translate each other, -1 = empty slot.

    Attributes:
      level: the level whose first state is classified; None = the last. awesome-align's code has 9 of 12.
    """

    level: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0, inf)", "level")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "parallel_sentences": dense (width,width) and out (width,2), drawn from N(0, 0.02^2); biases 0. No state.

        Raises:
          UserError: the model lacks the level or is causal.
        """
        check_encoder("ParallelSentences", model, self.level, "first")
        dense, out = (
            0.02 * jax.random.normal(key, (model.width, size))
            for key, size in zip(jax.random.split(rng), (model.width, 2), strict=True)
        )
        biases = {"dense_bias": jnp.zeros(model.width), "out_bias": jnp.zeros(2)}
        return {HEAD: {"dense": dense, "out": out} | biases}, {}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for a batch without mismatched pairs."""
        if has_keys(batch) or "group" not in batch or batch["group"].shape[-1] != 2:
            raise UserError(
                "Stream.objective = @ParallelSentences(): it needs pairs that do not translate each other; bind a "
                "TranslationFeed with TranslationFeed.mismatched = 0.5"
            )

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of pairs, float32 scalar."""
        return items(batch)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state). Metrics: `accuracy`, and `parallel`, the share of pairs of class 1."""
        group = batch["group"].reshape(-1, 2)
        real, label = group[:, 0] >= 0, (group[:, 0] == group[:, 1]).astype(jnp.int32)
        # (R S,D) states of first tokens -> (R S,2) logits.
        first = sentence_vectors(
            model, side(batch, QUERY), batch["group"].shape[1], level_of(model, self.level), "first"
        )
        head = model.heads[HEAD]
        hidden = jnp.tanh(project(first, head["dense"], head["dense_bias"]))
        logits = project(hidden, head["out"], head["out_bias"])
        terms = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, label[:, None], axis=-1)[:, 0]
        right, pairs = jnp.sum(real & (jnp.argmax(logits, axis=-1) == label)), jnp.maximum(items(batch), 1)
        metrics = {"accuracy": right / pairs, "parallel": jnp.sum(label, where=real) / pairs}
        return jnp.sum(terms, where=real), metrics, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of the blocks up to the level, forward and backward. The head's are few."""
        rows, length = batch["tokens"].shape
        return rows * length * level_of(model, self.level) * model.block_flops_per_token(length)
