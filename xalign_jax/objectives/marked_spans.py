"""Supervised word alignment as the prediction of spans: Nagata et al. 2020 (arXiv 2004.14516).

A row holds a sentence, in which one word is marked, and its translation. A linear head says with which token of the
translation the marked word's span begins and ends, or that the word has none (`alignment.spans`):

    loss = mean over answers of - [ log p_start(first token) + log p_end(last token) ] / 2

`xalign align --method=spans` extracts links with the trained head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.alignment.spans import HEAD, Answers, answers, span_loss, span_scores
from xalign_jax.interfaces import Batch, Tree
from xalign_jax.objectives.parts.marked import OnMarkedRows
from xalign_jax.objectives.parts.sentences import check_level

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MarkedSpans(OnMarkedRows):
    """Predict the span of a translation that translates the marked word. Learned from gold links.

    A word whose linked tokens do not all stand side by side has one answer for each run of them, as in the paper's code. A
    word without links has the answer "none". Only the translation's judged tokens and the row's first token compete.

    Batch of a MarkedFeed: tokens, positions, segment_ids (B,T) int32; linked (B,T) int32: 1 = the token belongs to a
    linked word, 0 = it does not, -1 = it is not judged.
    """

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "marked_spans": weight (2, width) of starts and ends, drawn from N(0, 0.02^2). No state.

        Raises:
          UserError: the model lacks the level.
        """
        check_level("MarkedSpans", model, self.level)
        return {HEAD: {"weight": 0.02 * jax.random.normal(rng, (2, model.width))}}, {}

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of answers, float32 scalar."""
        return jnp.sum(_wanted(batch).starts, dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state).

        Metrics: `start` and `end`, the shares of answers that begin and end with the most probable token; `answers`, of each
        marked word; `count_split`, the marked words whose linked tokens do not all stand side by side.
        """
        wanted = _wanted(batch)
        found = span_loss(span_scores(self.read(model, batch), model.heads[HEAD]), wanted)
        count = jnp.maximum(self.count(model, batch, rng), 1)
        metrics = {
            "start": found.starts / count,
            "end": found.ends / count,
            "answers": count / jnp.maximum(wanted.words, 1),
            "count_split": wanted.split,
        }
        return found.loss, metrics, state


def _wanted(batch: Batch) -> Answers:
    return answers(batch["linked"], batch["positions"], batch["segment_ids"])
