"""Batches of marked rows, without a feed."""

from __future__ import annotations

import numpy as np
from sentence_cases import KEY, V

ROWS, T = 8, 12


def marked_batch(seed=0):
    """Rows of two segments of five tokens and two of padding. A sentence has two tokens, and its translation three.

    A third of the translation's tokens is not judged.
    """
    random = np.random.default_rng(seed)
    segments = np.tile(np.repeat([1, 2, 0], [5, 5, 2]), (ROWS, 1)).astype(np.int32)
    places = np.tile([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0], (ROWS, 1)).astype(np.int32)
    return {
        "tokens": random.integers(5, V, (ROWS, T)).astype(np.int32),
        "positions": places,
        "segment_ids": segments,
        "linked": np.where(places >= 2, random.integers(-1, 2, (ROWS, T)), -1).astype(np.int32),
    }


def with_head(objective, model, params):
    return params | {"heads": objective.init(KEY, model)[0]}
