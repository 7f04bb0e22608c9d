"""Hidden states of two sentences become links of their tokens: the methods by name, each one jitted on batches.

Shapes: B sentence pairs, M source and N target tokens, D the width.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment.extraction import (
    above,
    alignment_probabilities,
    directed_argmax,
    itermax,
    pairs_of,
    softmax_both_ways,
    unit_cosines,
)
from xalign_jax.alignment.symmetrise import SYMMETRISATIONS, heaviest_matching, symmetrise
from xalign_jax.alignment.transport import sinkhorn
from xalign_jax.errors import UserError

METHODS = ("argmax", "itermax", "match", "softmax", "ot")
DIRECTED = ("argmax", "softmax", "ot")  # methods with two directions, which are then joined


@dataclasses.dataclass(frozen=True)
class Extraction:
    """How states become links.

    Attributes:
      method: one of METHODS. By "argmax", tokens choose the token of highest cosine. By "itermax" (SimAlign), a second
        round follows mutual argmax, for tokens without a link. By "match" (SimAlign), links are the one-to-one links of
        highest total cosine. By "softmax" (awesome-align), tokens are linked whose probability exceeds the threshold.
        By "ot", tokens choose by the entropic transport plan for cosines.
      symmetrise: one of SYMMETRISATIONS, for methods of DIRECTED.
      threshold: of "softmax".
      regularisation: of "ot".
      temperature: divides cosines before the softmax that gives probabilities. Links do not depend on it.

    Raises:
      UserError: an unknown name, or directions for a method that has none.
    """

    method: str = "itermax"
    symmetrise: str = "intersection"
    threshold: float = 1e-3
    regularisation: float = 0.1
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method={self.method}: one of {', '.join(METHODS)}")
        if self.symmetrise not in SYMMETRISATIONS:
            raise UserError(f"--symmetrise={self.symmetrise}: one of {', '.join(SYMMETRISATIONS)}")
        if self.symmetrise != "intersection" and self.method not in DIRECTED:
            raise UserError(f"--symmetrise: --method={self.method} has no directions; leave --symmetrise out")
        if not self.regularisation > 0:
            raise UserError(f"--regularisation={self.regularisation}: above 0")


class Found(NamedTuple):
    """What the device found, (B,M,N) each.

    Attributes:
      forward, backward: bool, links of both directions. For "match" both are the similarities, float32.
      probability: float32, the geometric mean of the softmax of cosines over targets and over sources.
    """

    forward: jax.Array
    backward: jax.Array
    probability: jax.Array


@functools.partial(jax.jit, static_argnames="extraction")
def extract(
    source: jax.Array,
    target: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    extraction: Extraction,
    among: jax.Array | None = None,
) -> Found:
    """What `links` needs, from states.

    Args:
      source, target: (B,M,D) and (B,N,D) states.
      source_mask, target_mask: (B,M) and (B,N) bool, tokens that may be linked: no padding and no specials.
      among: (B,M,N) bool, tokens of the same sentence pair, where rows hold several; None = a row is one pair.
    """
    similarity = unit_cosines(source, target)
    cosine = 2 * similarity - 1
    ways = softmax_both_ways(cosine / extraction.temperature, source_mask, target_mask, among)
    probability = jnp.sqrt(ways[0] * ways[1])
    if extraction.method == "match":
        return Found(similarity, similarity, probability)
    if extraction.method == "itermax":
        found = itermax(similarity, source_mask, target_mask, among=among)
        return Found(found, found, probability)
    if extraction.method == "softmax":
        ways = alignment_probabilities(source, target, source_mask, target_mask, among)
        there = pairs_of(source_mask, target_mask, among)
        forward, backward = (above(way, way, extraction.threshold) & there for way in ways)
        return Found(forward, backward, probability)
    if extraction.method == "ot":
        strength = extraction.regularisation
        similarity = sinkhorn(cosine, source_mask, target_mask, regularisation=strength, among=among)
    return Found(*directed_argmax(similarity, similarity, source_mask, target_mask, among), probability)


def links(
    forward: np.ndarray, backward: np.ndarray, source_mask: np.ndarray, target_mask: np.ndarray, extraction: Extraction
) -> np.ndarray:
    """Links of tokens (B,M,N) bool, on the host, from what `extract` found with the same masks."""
    if extraction.method == "match":
        return heaviest_matching(forward, source_mask, target_mask)
    return symmetrise(forward, backward, extraction.symmetrise)
