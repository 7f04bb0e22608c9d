"""Corruption of tokens for masked language modelling (Devlin et al. 2019, section 3.1), a function of a random key.

Shapes: B rows of T tokens, and V token ids.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.recipe import freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Corruption:
    """How many tokens are chosen, and what replaces them. Ordinary tokens are all but padding and special tokens.

    Attributes:
      rate: share of the ordinary tokens that are chosen.
      exact: choose floor(rate n + u) of a segment's n ordinary tokens, u uniform in [0,1), as fairseq and InfoXLM do
        (they count special tokens too). False = choose each token independently (XLM, Hugging Face).
      mask: share of the chosen tokens that the mask piece replaces.
      random: share of the chosen tokens that an ordinary piece replaces, drawn uniformly. The remaining chosen tokens
        stay as they are.
    """

    rate: float = 0.15
    exact: bool = False
    mask: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "(0, 1]", "rate")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise UserError(f"Corruption.mask = {self.mask}, Corruption.random = {self.random}: shares of at most 1")


class Corrupted(NamedTuple):
    """Tokens after corruption (B,T) int32, and the chosen positions (B,T) bool."""

    tokens: jax.Array
    chosen: jax.Array


@jax.named_scope("corruption")
def corrupt(
    rng: jax.Array,
    tokens: jax.Array,
    segment_ids: jax.Array,
    corruption: Corruption,
    special: np.ndarray,
    mask_id: int | None,
) -> Corrupted:
    """Choose tokens and replace most of them.

    Args:
      rng: the key that decides everything; the same key gives the same corruption.
      tokens, segment_ids: (B,T) int32; segment 0 is padding, other segment ids are at most T.
      special: (V,) bool, ids that are neither chosen nor drawn.
      mask_id: the id that stands for a masked token.

    Raises:
      UserError: every id is special, or there is no mask id.
    """
    ordinary = np.flatnonzero(~special)
    if mask_id is None:
        raise UserError("Corruption: the vocabulary has no mask piece")
    if not ordinary.size:
        raise UserError("Corruption: the vocabulary has no ordinary pieces")
    choice_rng, fate_rng, draw_rng = jax.random.split(rng, 3)
    # (B,T) bool: the positions that may be chosen, then those that are.
    eligible = (segment_ids > 0) & ~jnp.asarray(special)[tokens]
    if corruption.exact:
        chosen = _choose_exactly(choice_rng, eligible, segment_ids, corruption.rate)
    else:
        chosen = eligible & (jax.random.uniform(choice_rng, tokens.shape, jnp.float32) < corruption.rate)
    # One uniform number in [0,1) decides what replaces a token: below `mask` the mask piece, then a random piece, else
    # nothing. All are (B,T); positions that are not chosen ignore them.
    fate = jax.random.uniform(fate_rng, tokens.shape, jnp.float32)
    drawn = jnp.asarray(ordinary, tokens.dtype)[jax.random.randint(draw_rng, tokens.shape, 0, ordinary.size, jnp.int32)]
    replaced = jnp.where(fate < corruption.mask + corruption.random, drawn, tokens)
    replaced = jnp.where(fate < corruption.mask, jnp.asarray(mask_id, tokens.dtype), replaced)
    return Corrupted(jnp.where(chosen, replaced, tokens), chosen)


def _choose_exactly(rng: jax.Array, eligible: jax.Array, segment_ids: jax.Array, rate: float) -> jax.Array:
    """(B,T) bool: floor(rate n + u) of the n eligible positions of each segment, drawn without replacement."""
    # Every eligible position gets a random score in [0,1). A segment's positions of lowest score are chosen.
    order_rng, count_rng = jax.random.split(rng)
    scores = jnp.where(
        eligible, jax.random.uniform(order_rng, eligible.shape, jnp.float32), 2.0
    )  # the others come last
    # One u for each row and segment id from 0 to T: (B,T+1).
    rows, length = eligible.shape
    offsets = jax.random.uniform(count_rng, (rows, length + 1), jnp.float32)

    def row(eligible: jax.Array, segments: jax.Array, scores: jax.Array, offsets: jax.Array) -> jax.Array:
        # One row: arrays (T,) by position, and (T+1,) by segment id. Tokens of each segment, and eligible ones.
        sizes = jnp.zeros(offsets.shape, jnp.int32).at[segments].add(1)
        counts = jnp.zeros(offsets.shape, jnp.int32).at[segments].add(eligible)
        # The place of each position after sorting by segment, then by score. A segment's first place is the number of
        # tokens in earlier segments; the difference is a position's rank within its segment.
        place = jnp.argsort(jnp.lexsort((scores, segments)))
        rank = place - (jnp.cumsum(sizes) - sizes)[segments]
        wanted = jnp.floor(rate * counts + offsets).astype(jnp.int32)
        return eligible & (rank < wanted[segments])

    return jax.vmap(row)(eligible, segment_ids, scores, offsets)
