"""Log-probabilities of continuations of contexts, and whether each continuation is the greedy one.

The vocabulary's logits are computed at the places that predict a continuation, and nowhere else: contexts are often
long and continuations short.

Shapes: B rows of T tokens, C predicted tokens of a row, D the width, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import TOKENS_AT_ONCE, length_batches
from xalign_jax.evaluation.encode import Batch, fetch, map_logits
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import Model


class Continuation(NamedTuple):
    """The score of one continuation of n tokens.

    Attributes:
      tokens: (n,) float32 log-probability of each token in nats, given the context and the tokens before it.
      greedy: whether each token is the most probable one, so that greedy decoding would write this continuation.
    """

    tokens: np.ndarray
    greedy: bool

    @property
    def total(self) -> float:
        """The log-probability of the continuation."""
        return float(self.tokens.sum(dtype=np.float64))


def score_continuations(
    model: Model, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> list[Continuation]:
    """Score each continuation after its context. Both are ids, as the model reads them.

    A context loses its beginning where both together have more than `model.max_length` + 1 tokens: the model reads all
    of them but the last.

    Args:
      model: causal, with its parameters. They lie on the mesh in context (`jax.set_mesh`), if there is one.

    Raises:
      UserError: a context or a continuation is empty, a continuation is longer than the model reads, or a probability
        is not finite.
    """
    pairs = list(zip(contexts, continuations, strict=True))
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            which = "continuation" if len(context) else "context"
            raise UserError(f"request {number} (counted from 0): its {which} has no token, so nothing can be scored")
        if len(continuation) > model.max_length:
            raise UserError(
                f"request {number} (counted from 0): a continuation of {len(continuation)} tokens; the model reads "
                f"{model.max_length}"
            )
    rows = [np.array([*pair[0], *pair[1]], np.int32)[-(model.max_length + 1) :] for pair in pairs]
    counts = np.array([len(continuation) for _, continuation in pairs], np.int64)
    found: dict[int, Continuation] = {}
    for index, batch in length_batches([row[:-1] for row in rows], model.max_length, TOKENS_AT_ONCE, "continuations"):
        places, targets = _predicted([rows[number] for number in index], counts[index], len(batch["tokens"]))
        scores, greedy = (fetch(array) for array in _scores(model, batch, places, targets))
        for number, count, tokens, most in zip(index, counts[index], scores, greedy, strict=False):
            if not np.isfinite(tokens[:count]).all():
                raise UserError(
                    f"request {number} (counted from 0): its probability is not finite; the parameters are damaged"
                )
            found[int(number)] = Continuation(tokens[:count].copy(), bool(most[:count].all()))
    return [found[number] for number in range(len(rows))]


def _predicted(rows: Sequence[np.ndarray], counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which places predict the last `counts` (B,) tokens of each row, and these tokens: (size,C) int32 each.

    C is a power of two, so that few shapes are compiled. Rows and columns that fill the arrays hold zeros.
    """
    width = max(4, 1 << (int(counts.max()) - 1).bit_length())
    places, targets = np.zeros((2, size, width), np.int32)
    for line, (row, count) in enumerate(zip(rows, counts, strict=True)):
        # The place before a token predicts it.
        places[line, :count] = np.arange(len(row) - 1 - count, len(row) - 1)
        targets[line, :count] = row[-count:]
    return places, targets


@jax.jit
def _scores(model: Model, batch: Batch, places: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(B,C) float32 log-probability of each target, and (B,C) bool whether it is the most probable token."""
    top = model.num_layers
    states = model.hidden(Inputs.of(batch), levels=(top,))[top]
    # (B,T,D) -> (B,C,D), then what meets the head's rows.
    inputs = model.head_input(jnp.take_along_axis(states, places[..., None], axis=1))

    def scores(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        return logits[target] - jax.nn.logsumexp(logits), jnp.argmax(logits) == target

    return map_logits(model, inputs, targets, scores)
