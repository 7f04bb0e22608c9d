"""MEXA and NeuronXA: how often a translation wins strictly in its row and in its column of the cosine matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.neighbours import Neighbours, neighbours

STATES = ("value", "binary")


class Mexa(NamedTuple):
    """MEXA of one language at one level.

    Attributes:
      score: mu in [0, 1]. Compare only scores of equal n, because mu falls as n grows.
      hits: (N,) bool, pairs that win strictly on both sides, for a bootstrap.
      n: pairs. Chance for unrelated vectors is 1/(2n - 1).
    """

    score: float
    hits: np.ndarray
    n: int


def mexa(pivot: np.ndarray, language: np.ndarray) -> Mexa:
    """mu = (1/N) #{i : C_ii > max_{j != i} C_ij and C_ii > max_{j != i} C_ji}, C_ij = cos(pivot_i, language_j).

    Both comparisons are strict, so a tie fails (cisnlp/Mexa, `compute_mexa.py`). The caller pools the states of a
    sentence, for example weighted by position. mu is at most the smaller accuracy of the two directions of retrieval.

    Args:
      pivot, language: (N,D) vectors; row i of one translates row i of the other.

    Raises:
      UserError: the sides do not pair, fewer than two pairs, or a number is not finite.
    """
    pivot, language = checked.paired("mexa", pivot, language)
    found = _strict(neighbours(pivot, language, 2)) & _strict(neighbours(language, pivot, 2))
    return Mexa(float(found.mean()), found, len(found))


def neuronxa(pivot: np.ndarray, language: np.ndarray, *, states: str = "binary") -> Mexa:
    """MEXA of feed-forward neuron states (after NeuronXA, arXiv 2507.14900; its details are not verified here).

    The caller pools the neurons of all tokens, and of all levels if it likes, and says which neurons they are. For a
    gated layer these are the values before the gate, or the products after it.

    Args:
      pivot, language: (N,F) pooled values of F neurons.
      states: "binary" replaces each value by 1 where it is positive and by 0 elsewhere. "value" keeps it.

    Raises:
      UserError: as `mexa`, or an unknown kind of state.
    """
    checked.choice("neuronxa", "states", states, STATES)
    if states == "value":
        return mexa(pivot, language)
    return mexa(*((np.asarray(side) > 0).astype(np.float32) for side in checked.paired("neuronxa", pivot, language)))


def _strict(near: Neighbours) -> np.ndarray:
    """(N,) bool: candidate i is the best one of query i, and better than the second one."""
    return (near.indices[:, 0] == np.arange(len(near.indices))) & (near.scores[:, 0] > near.scores[:, 1])
