"""Entropic optimal transport between the tokens of two sentences (Cuturi 2013, arXiv 1306.0895), batched."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xalign_jax.alignment.extraction import pairs_of


def sinkhorn(
    similarity: jax.Array,
    source_mask: jax.Array,
    target_mask: jax.Array,
    *,
    regularisation: float = 0.1,
    iterations: int = 50,
    among: jax.Array | None = None,
) -> jax.Array:
    """The plan that maximises <plan, similarity> + regularisation * entropy(plan).

    Each of m source tokens sends 1 / m, and each of n target tokens receives 1 / n. Sums are taken in log space, so a
    small regularisation does not underflow. Columns sum to 1 / n up to convergence, rows to 1 / m exactly.

    Args:
      similarity: (...,M,N), any finite values.
      source_mask, target_mask: (...,M) and (...,N) bool.
      regularisation: larger = a plan that is closer to uniform. POT's `reg`, for costs of minus the similarity.
      iterations: each updates the columns, then the rows.
      among: (...,M,N) bool, tokens of the same sentence pair, where rows hold several; None = a row is one pair.

    Returns:
      (...,M,N), 0 at padding. All 0 if a sentence has no token.
    """
    there = pairs_of(source_mask, target_mask, among)
    # (...,M,N) log kernel; padding gets minus infinity by `where` in each sum.
    kernel = similarity / regularisation
    # Logs of the marginals, (...,M,1) and (...,1,N). A row asks its columns how many tokens its own sentence has.
    sources, targets = jnp.sum(there, -2, keepdims=True), jnp.sum(there, -1, keepdims=True)
    own_sources = jnp.max(jnp.where(there, sources, 1), -1, keepdims=True)
    own_targets = jnp.max(jnp.where(there, targets, 1), -2, keepdims=True)
    sends, receives = -jnp.log(own_sources.astype(kernel.dtype)), -jnp.log(own_targets.astype(kernel.dtype))

    def update(_: jax.Array, scalings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = scalings[0]
        columns = receives - _log_sum(kernel + rows, there, -2)
        return sends - _log_sum(kernel + columns, there, -1), columns

    # Log scalings of rows (...,M,1) and columns (...,1,N).
    start = jnp.zeros_like(kernel[..., :, :1]), jnp.zeros_like(kernel[..., :1, :])
    rows, columns = jax.lax.fori_loop(0, iterations, update, start)
    return jnp.where(there, jnp.exp(kernel + rows + columns), 0.0)


def _log_sum(values: jax.Array, there: jax.Array, axis: int) -> jax.Array:
    """log sum exp over the tokens of an axis, which is kept; 0 where there is none, so that nothing is infinite."""
    total = jax.nn.logsumexp(values, axis=axis, where=there, keepdims=True)
    return jnp.where(jnp.any(there, axis=axis, keepdims=True), total, 0.0)
