"""Which span translates a marked word: its first and its last token are predicted (Nagata et al. 2020).

arXiv 2004.14516, with the loss of its code. An answer is a span of the translation, or "none", which stands at the row's
first token as in SQuAD 2.0. With two vectors as head, and h_t the state of token t of the translation or of the first token:

    p_start(t) = softmax_t(w_start . h_t)       p_end(t) = softmax_t(w_end . h_t)
    loss = - [ log p_start(i) + log p_end(j) ] / 2      summed over answers from token i to token j
    omega_ij = p_start(i) p_end(j)                      the probability of such an answer, i <= j

Shapes: R rows of T tokens, width D. Each segment of a row has one marked word. Pairs of tokens, (R,T,T), take as much memory
as one head's attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

HEAD = "marked_spans"  # the head's name in a run


class Answers(NamedTuple):
    """What the head should say.

    Attributes:
      places: (R,T) int32, the segment of each token that an answer may begin or end with; 0 = it may not.
      starts, ends: (R,T) bool, the first and the last token of each answer.
      words: scalar, the marked words.
      split: scalar, those whose linked tokens do not stand side by side.
    """

    places: jax.Array
    starts: jax.Array
    ends: jax.Array
    words: jax.Array
    split: jax.Array


class Found(NamedTuple):
    """Scalars: the summed loss, and how many answers begin and end with the most probable token."""

    loss: jax.Array
    starts: jax.Array
    ends: jax.Array


def answers(linked: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> Answers:
    """The answers of gold links: one for each run of linked tokens; none, at the first token, for a word without links.

    Args:
      linked: (R,T) int32, 1 = the token belongs to a linked word, 0 = it does not, -1 = it is not judged, so that no answer
        begins or ends there.
      positions: (R,T) int32, from 0 in each segment.
      segment_ids: (R,T) int32, from 1; 0 is padding.
    """
    chosen, first = linked == 1, (positions == 0) & (segment_ids > 0)
    # A segment begins with the marked sentence, so a run never reaches from one segment into another.
    starts = chosen & ~jnp.pad(chosen[:, :-1], ((0, 0), (1, 0)))
    ends = chosen & ~jnp.pad(chosen[:, 1:], ((0, 0), (0, 1)))
    runs = jnp.sum(_together(segment_ids) & starts[:, None, :], axis=2)  # (R,T) of the token's segment
    none, split = first & (runs == 0), first & (runs > 1)
    places = jnp.where((linked >= 0) | first, segment_ids, 0)
    words, apart = (jnp.sum(flags, dtype=jnp.float32) for flags in (first, split))
    return Answers(places, starts | none, ends | none, words, apart)


def span_scores(states: jax.Array, head: Mapping[str, jax.Array]) -> jax.Array:
    """w_start . h and w_end . h: states (R,T,D) -> (2,R,T) float32. The head has "weight" (2,D)."""
    # A bias would be added to all scores of a softmax, and so change nothing.
    return jnp.einsum("ed,rtd->ert", head["weight"], states.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def span_loss(scores: jax.Array, wanted: Answers) -> Found:
    """The loss of scores (2,R,T)."""
    flags = jnp.stack([wanted.starts, wanted.ends])
    loss = -jnp.sum(log_probabilities(scores, wanted.places), where=flags) / 2
    best = flags & (scores >= jnp.max(_candidates(scores, wanted.places), axis=-1))
    return Found(loss, *jnp.sum(best, axis=(1, 2), dtype=jnp.float32))


def log_probabilities(scores: jax.Array, places: jax.Array) -> jax.Array:
    """log p_start and log p_end: scores (2,R,T) and places (R,T) as in `Answers` -> (2,R,T); -inf outside of places."""
    everything = jax.nn.logsumexp(_candidates(scores, places), axis=-1)
    return jnp.where(places > 0, scores - everything, -jnp.inf)


def best_spans(states: jax.Array, head: Mapping[str, jax.Array], translation: jax.Array) -> jax.Array:
    """The probability of the best span at its tokens, and 0 at all others: (R,T) float32.

    The best span is the one of highest omega. If none is more probable than "none", all tokens have 0.

    Args:
      states: (R,T,D); each row has one segment.
      translation: (R,T) bool, the tokens of the translation.
    """
    at = jnp.arange(translation.shape[1])
    places = (translation | (at == 0)).astype(jnp.int32)
    start, end = log_probabilities(span_scores(states, head), places)
    none = start[:, :1] + end[:, :1]
    start = jnp.where(translation, start, -jnp.inf)
    # The best start up to each token is the start of the best span that ends there.
    spans = jnp.where(translation, jax.lax.cummax(start, axis=1) + end, -jnp.inf)
    best, last = jnp.max(spans, axis=1, keepdims=True), jnp.argmax(spans, axis=1, keepdims=True)
    first = jnp.argmax(jnp.where(at <= last, start, -jnp.inf), axis=1, keepdims=True)
    # Written so that numbers which are not finite stay visible.
    return jnp.where((at >= first) & (at <= last) & ~(best <= none), jnp.exp(best), 0.0)


def _candidates(scores: jax.Array, places: jax.Array) -> jax.Array:
    """(2,R,T,T): for each token, the scores of all tokens of its segment; -inf elsewhere."""
    return jnp.where(_together(places), scores[:, :, None, :], -jnp.inf)


def _together(segment_ids: jax.Array) -> jax.Array:
    """(R,T,T) bool: two tokens have the same number."""
    return segment_ids[:, :, None] == segment_ids[:, None, :]
