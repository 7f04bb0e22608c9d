"""How well the tokens of two sentences find partners in each other, for all pairs of sentences of a batch.

For the unit vectors x_i (m,D) and y_j (n,D) of two sentences, with S = x y^T:

    A = softmax over j of S / t,   B = softmax over i of S / t           two attentions
    score(x, y) = [ mean_i sum_j A_ij S_ij + mean_j sum_i B_ij S_ij ] / 2
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from xalign_jax.matrix_product import product

HEAD = "light_aligner"  # the name in a run of the head whose projection gives the vectors

_product = functools.partial(product, precision=jax.lax.Precision.HIGHEST)


def partner_scores(
    query: jax.Array, key: jax.Array, query_item: jax.Array, key_item: jax.Array, items: int, temperature: float
) -> jax.Array:
    """(N,N) float32: the score of each sentence of one side with each sentence of the other. Empty sentences give 0.

    Args:
      query, key: (M,D) and (L,D) unit vectors of all tokens.
      query_item, key_item: (M,) and (L,) int, the sentence of each token, from 0; -1 = the token is left out.
      items: N, sentences of each side.
      temperature: t, at least .05: smaller ones would leave float32's range.
    """
    # (M,L) cosines, and exp(S/t) without overflow; (M,N) and (L,N): which tokens belong to which sentence.
    cosine = _product(query, key, "nt")
    weight = jnp.exp((cosine - 1) / temperature)
    of_query, of_key = (jax.nn.one_hot(item, items, dtype=cosine.dtype) for item in (query_item, key_item))
    return (_found(weight, cosine, of_query, of_key) + _found(weight.T, cosine.T, of_key, of_query).T) / 2


def _found(weight: jax.Array, cosine: jax.Array, of_query: jax.Array, of_key: jax.Array) -> jax.Array:
    """(N,N): the mean over a sentence's tokens of the cosine that their attention finds in each other sentence."""
    # (M,L) x (L,N) -> (M,N): sums over the tokens of each other sentence.
    total = _product(weight, of_key)
    found = _product(weight * cosine, of_key) / jnp.where(total > 0, total, 1)
    return _product(of_query, found, "tn") / jnp.maximum(of_query.sum(0), 1)[:, None]
