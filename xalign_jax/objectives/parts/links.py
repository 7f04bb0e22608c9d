"""Tokens of packed sentence pairs, and the links between them that the model itself finds.

A ContrastFeed packs sentences into rows of queries and their translations, in the same slots, into rows of keys. Shapes:
R rows of T tokens, S slots in a row, D the width. A link joins query token i and key token j of the same slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from xalign_jax.alignment.extraction import softmax_both_ways
from xalign_jax.alignment.methods import Extraction, extract
from xalign_jax.alignment.pooling import last_tokens
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs
from xalign_jax.matrix_product import product
from xalign_jax.objectives.parts.primitives import cosines, l2_normalize
from xalign_jax.objectives.parts.sentences import KEY, QUERY, has_keys

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

GUIDES = ("softmax", "argmax", "itermax", "ot")
ONE_TO_ONE = ("argmax", "ot")  # guides that give a token one link at most


class TokenPairs(NamedTuple):
    """Both sides of a batch at one level.

    Attributes:
      query, key: (R,T,D) states.
      query_mask, key_mask: (R,T) bool, tokens that may be linked: of a pair that takes part, and not special.
      among: (R,T,T) bool, the query token and the key token stand in the same slot.
    """

    query: jax.Array
    key: jax.Array
    query_mask: jax.Array
    key_mask: jax.Array
    among: jax.Array

    @property
    def masks(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The masks, as functions of `alignment` take them."""
        return self.query_mask, self.key_mask, self.among


def check_pairs(name: str, batch: Batch) -> None:
    """Raise UserError for batches that hold no single sentence pairs. `name` is the objective's gin class."""
    if not has_keys(batch) or batch["group"].shape[-1] != 1:
        raise UserError(
            f"Stream.objective = @{name}(): it links the words of a sentence and its translation; bind a ContrastFeed "
            "with ContrastFeed.mixup = False"
        )


def taking_part(batch: Batch) -> jax.Array:
    """(R,S) bool: slots with a sentence pair whose sides differ. A text that is its own translation teaches nothing."""
    return (batch["group"][..., 0] >= 0) & ~_identical(batch)


def identical(batch: Batch) -> jax.Array:
    """The number of sentence pairs whose sides have the same text; int32 scalar."""
    return jnp.sum((batch["group"][..., 0] >= 0) & _identical(batch), dtype=jnp.int32)


def token_pairs(model: Model, batch: Batch, level: int) -> TokenPairs:
    """Both sides of a ContrastFeed's batch at a level; nothing above the level is computed."""
    # (R,S) -> (R,S+1): segment s is slot s - 1, and segment 0 is padding.
    present = jnp.pad(taking_part(batch), ((0, 0), (1, 0)))
    states, masks, segments = [], [], []
    for which in (QUERY, KEY):
        inputs = Inputs.of(batch, which)
        states.append(model.hidden(inputs, levels=(level,))[level])
        segments.append(inputs.segment_ids)
        here = jnp.take_along_axis(present, inputs.segment_ids, axis=1)
        masks.append(here & ~jnp.asarray(model.special)[inputs.tokens])
    among = segments[0][:, :, None] == segments[1][:, None, :]
    return TokenPairs(states[0], states[1], masks[0], masks[1], among)


def pair_scores(pairs: TokenPairs, temperature: float | None) -> jax.Array:
    """(R,T,T) at least float32: products of states, or cosines divided by a temperature."""
    query, key = pairs.query, pairs.key
    if temperature is not None:
        query, key = l2_normalize(query), l2_normalize(key)
    # Products are large and exp magnifies errors, so float32 operands keep their precision on every backend.
    scores = product(query, key, "nt", precision=jax.lax.Precision.HIGHEST)
    return scores if temperature is None else scores / temperature


def probabilities(pairs: TokenPairs, temperature: float | None) -> tuple[jax.Array, jax.Array]:
    """awesome-align's P_s and P_t (R,T,T): the softmax of `pair_scores` over keys, and over queries."""
    return softmax_both_ways(pair_scores(pairs, temperature), *pairs.masks)


def found_links(pairs: TokenPairs, guide: str, threshold: float) -> jax.Array:
    """(R,T,T) bool: links that both directions find, without a gradient.

    Args:
      guide: one of GUIDES, methods of `alignment.methods.Extraction`.
      threshold: of "softmax".
    """
    still = jax.tree.map(jax.lax.stop_gradient, pairs)
    found = extract(still.query, still.key, still.query_mask, still.key_mask,
                    Extraction(guide, threshold=threshold), still.among)  # fmt: skip
    return found.forward & found.backward


def linked_states(pairs: TokenPairs, guide: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each query token (N,D), N = R T, the key token (N,D) that it is linked with, and whether there is one (N,) bool.

    Args:
      guide: one of ONE_TO_ONE. A token without a link has zeros in place of the key token.
    """
    joined = found_links(pairs, guide, threshold=0.0)
    width = pairs.query.shape[-1]
    # (R,T,T) x (R,T,D) -> (R,T,D).
    partners = jnp.einsum("rij,rjd->rid", joined.astype(pairs.key.dtype), pairs.key)
    return pairs.query.reshape(-1, width), partners.reshape(-1, width), jnp.any(joined, axis=2).reshape(-1)


def mean_cosine(a: jax.Array, b: jax.Array, linked: jax.Array) -> jax.Array:
    """The mean cosine of linked tokens (N,D) twice, (N,) bool; float32 scalar, 0 where no token is linked."""
    return jnp.sum(cosines(a, b) * linked) / jnp.maximum(jnp.sum(linked), 1)


def squared_distance(a: jax.Array, b: jax.Array, linked: jax.Array) -> jax.Array:
    """sum |a - b|^2 over linked tokens (N,D) twice, (N,) bool; float32 scalar."""
    apart = (a - b).astype(jnp.float32)
    return jnp.sum(jnp.sum(apart * apart, axis=-1) * linked)


def pair_flops(model: Model, batch: Batch, level: int) -> float:
    """FLOPs of both sides up to the level and of the products of their states, forward and backward."""
    rows, length = batch["tokens"].shape
    passes = 2 * rows * length * level * model.block_flops_per_token(length)
    return passes + 6.0 * rows * length**2 * model.width


def _identical(batch: Batch) -> jax.Array:
    """(R,S) bool: both sides have the same text, by their hashes; also where a slot is empty."""
    return batch["text"][..., 0] == batch["key_text"][..., 0]


def second_texts(tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """(B,T) bool: tokens of the second text of rows of "bos a eos b eos", with its eos.

    Args:
      tokens, segment_ids: (B,T) int32 of a TranslationFeed.
    """
    # A segment ends with eos, so its last token tells which id that is.
    eos = (segment_ids > 0) & (tokens == jnp.max(jnp.where(last_tokens(segment_ids) > 0, tokens, -1)))
    # Each segment has two of them, so an odd number of earlier ones in the row means: within the second text.
    return (jnp.cumsum(eos, axis=1) - eos) % 2 == 1
