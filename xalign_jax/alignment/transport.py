"""Entropic optimal transport between the tokens of two sentences (Cuturi 2013, arXiv 1306.0895), batched.

The divergence subtracts what each side costs by itself (Genevay et al. 2018, arXiv 1706.00292), so that equal sides
have divergence 0.
"""

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
    # Logs of the marginals, (...,M,1) and (...,1,N). A row asks its columns how many tokens its own sentence has.
    sources, targets = jnp.sum(there, -2, keepdims=True), jnp.sum(there, -1, keepdims=True)
    own_sources = jnp.max(jnp.where(there, sources, 1), -1, keepdims=True)
    own_targets = jnp.max(jnp.where(there, targets, 1), -2, keepdims=True)
    sends, receives = (-jnp.log(count.astype(similarity.dtype)) for count in (own_sources, own_targets))
    return _plan(similarity / regularisation, there, sends, receives, iterations)[0]


def transport_cost(
    cost: jax.Array,
    there: jax.Array,
    sends: jax.Array,
    receives: jax.Array,
    *,
    regularisation: float,
    iterations: int,
) -> jax.Array:
    """min_P <P, cost> + regularisation KL(P | a b^T), summed over all entries: a scalar.

    The gradient with respect to the cost is the plan P, which is exact where the iterations have converged (envelope
    theorem). So nothing is differentiated through the iterations.

    Args:
      cost: (...,M,N).
      there: (...,M,N) bool. Blocks of True are problems of their own, such as the sentences of two packed rows.
      sends, receives: (...,M) and (...,N) float32, log a and log b. In each block, a and b sum to 1.
      regularisation, iterations: as in `sinkhorn`.
    """
    sends, receives = sends[..., None], receives[..., None, :]
    plan, log_plan = jax.lax.stop_gradient(_plan(-cost / regularisation, there, sends, receives, iterations))
    return jnp.sum(plan * cost) + regularisation * jnp.sum(plan * (log_plan - sends - receives))


def _plan(
    kernel: jax.Array, there: jax.Array, sends: jax.Array, receives: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """The plan (...,M,N), 0 where nothing is `there`, and its logarithm, with any finite value at these places.

    Args:
      kernel: (...,M,N), its logarithm.   sends, receives: (...,M,1) and (...,1,N), logs of the marginals.
    """

    def update(_: jax.Array, scalings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rows = scalings[0]
        columns = receives - _log_sum(kernel + rows, there, -2)
        return sends - _log_sum(kernel + columns, there, -1), columns

    # Log scalings of rows (...,M,1) and columns (...,1,N).
    start = jnp.zeros_like(kernel[..., :, :1]), jnp.zeros_like(kernel[..., :1, :])
    rows, columns = jax.lax.fori_loop(0, iterations, update, start)
    log_plan = jnp.where(there, kernel + rows + columns, 0.0)
    return jnp.where(there, jnp.exp(log_plan), 0.0), log_plan


def _log_sum(values: jax.Array, there: jax.Array, axis: int) -> jax.Array:
    """log sum exp over the tokens of an axis, which is kept; 0 where there is none, so that nothing is infinite."""
    total = jax.nn.logsumexp(values, axis=axis, where=there, keepdims=True)
    return jnp.where(jnp.any(there, axis=axis, keepdims=True), total, 0.0)
