"""Which words translate a marked word: a binary classifier of tokens (BinaryAlign, Latouche et al. 2024).

arXiv 2407.12881. With w and b a head, and h_t the state of token t of the translation:

    p_t = sigmoid(w . h_t + b)          t belongs to a word that is linked with the marked word
    loss = - sum_t [ y_t log p_t + (1 - y_t) log(1 - p_t) ]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

HEAD = "marked_words"  # the head's name in a run


class Marked(NamedTuple):
    """Scalars of tokens: the summed loss, and how many are judged, linked, found (p above .5), and found rightly."""

    loss: jax.Array
    judged: jax.Array
    linked: jax.Array
    found: jax.Array
    right: jax.Array


def marked_scores(states: jax.Array, head: Mapping[str, jax.Array]) -> jax.Array:
    """w . h + b: states (...,D) -> (...,) float32. The head has "weight" (D,) and "bias" ()."""
    states = states.astype(jnp.float32)
    return jnp.matmul(states, head["weight"], precision=jax.lax.Precision.HIGHEST) + head["bias"]


def marked_loss(scores: jax.Array, linked: jax.Array) -> Marked:
    """The loss of scores, which are logits.

    Args:
      scores: (...,) float32.
      linked: (...,) int, 1 = the token belongs to a linked word, 0 = it does not, -1 = it is not judged.
    """
    judged, positive, found = linked >= 0, linked == 1, scores > 0
    # -log p = softplus(-s) and -log(1 - p) = softplus(s).
    terms = jax.nn.softplus(jnp.where(positive, -scores, scores))
    flags = (judged, positive, judged & found, positive & found)
    return Marked(jnp.sum(terms, where=judged), *(jnp.sum(flag, dtype=jnp.float32) for flag in flags))
