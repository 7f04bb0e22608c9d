"""Model FLOPs of a step: what the mathematics of its objectives needs, whatever is recomputed or wasted."""

from __future__ import annotations

from typing import NamedTuple

import jax

from xalign_jax.models.model import Model
from xalign_jax.objectives.masked_lm import MaskedLM
from xalign_jax.objectives.translation_ranking import TranslationRanking
from xalign_jax.objectives.word_contrast import WordContrast
from xalign_jax.objectives.word_distance import WordDistance
from xalign_jax.objectives.xlco import XlCo
from xalign_jax.recipe import Stage, Stream

FORWARD = 1 / 3  # share of a pass that needs no gradient: 2 of the 6 FLOPs per weight and token


class _Token(NamedTuple):
    """FLOPs per token of a forward and a backward pass: of one block (its mean), and of the head."""

    block: float
    head: float


def step_flops(stage: Stage, model: Model) -> float:
    """FLOPs of a step over all devices, forward and backward."""
    return sum(_stream_flops(stream, model) for stream in stage.streams)


def _stream_flops(stream: Stream, model: Model) -> float:
    objective, feed = stream.objective, stream.feed
    tokens, token = stream.batch_size * feed.length, _token(model, feed.length)
    if isinstance(objective, MaskedLM):
        return tokens * (model.num_layers * token.block + objective.corruption.rate * token.head)
    if isinstance(objective, WordContrast):
        levels = objective.levels or tuple(range(model.num_layers + 1))
        products = len(levels) + objective.head
        return tokens * max(levels) * token.block + products * _contrast(stream.batch_size * feed.words_per_row, model)
    if isinstance(objective, WordDistance):  # means over a concept's words and over a language's, in each table
        means = (1 + objective.offset) * (1 if model.tied else 2)
        return means * 4.0 * (stream.batch_size * feed.words_per_row) ** 2 * model.width
    if isinstance(objective, TranslationRanking):
        level = model.num_layers if objective.level is None else objective.level
        directions = 2 if objective.both_directions else 1
        return 2 * tokens * level * token.block + directions * _contrast(stream.batch_size * feed.slots, model)
    if isinstance(objective, XlCo):
        return _xlco(objective, tokens, stream.batch_size * feed.slots, token, model)
    return tokens * model.flops_per_token(feed.length)


def _xlco(objective: XlCo, tokens: int, items: int, token: _Token, model: Model) -> float:
    sides = 1 + (1.0 if objective.momentum is None else FORWARD)
    own = 0 if objective.negatives == "queue" else _contrast(items, model)
    queue = 4.0 * items * objective.queue * model.width  # similarities, and the queries' gradient
    return (2 if objective.both_directions else 1) * (sides * tokens * objective.level * token.block + own + queue)


def _contrast(items: int, model: Model) -> float:
    """Similarities of all items with all, and the gradients of both sides."""
    return 6.0 * items * items * model.width


def _token(model: Model, length: int) -> _Token:
    shapes = model.shapes
    head = sum(a.size for name in shapes if name.startswith("head") for a in jax.tree.leaves(shapes[name]))
    head += shapes["embedding"].size if model.tied else 0
    return _Token((model.flops_per_token(length) - 6.0 * head) / model.num_layers, 6.0 * head)
