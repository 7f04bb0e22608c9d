"""Canonical correlations of two sets of vectors, with gradients, for losses. `alignment.linear_maps` has them on the host.

Deep CCA (Andrew et al. 2013, ICML) maximises their sum. But a batch has few words for the width of a model, so that most
correlations would be 1 whatever the vectors are. Each side is therefore cut to its first principal directions, as SVCCA
does (Raghu et al. 2017, arXiv 1706.05806). With all directions, the sum is that of deep CCA.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
# Where the last kept eigenvalue equals the next one, the kept directions jump and have no gradient. Below this relative
# distance, the gradient grows no further.
GAP = 1e-3


def canonical_correlations(
    x: jax.Array, y: jax.Array, present: jax.Array, *, directions: int, ridge: float = 1e-4
) -> jax.Array:
    """The correlations (K,) float32 of the first K principal directions of both sides, from the largest on.

    They are the singular values of C_x^-1/2 C_xy C_y^-1/2, where both roots hold the K largest eigenvalues of a side.
    The gradient of their sum is finite also where eigenvalues or correlations are equal.

    Args:
      x: (N,D) float32.
      y: (N,E) float32, row by row the partners of x. They are constants, which get no gradient.
      present: (N,) bool, the rows that count. With K + K rows or fewer, some correlations are 1 for any vectors.
      directions: K, at most D and E.
      ridge: the share of a side's mean variance that is added to each of its variances.
    """
    weights, y = present.astype(x.dtype)[:, None], jax.lax.stop_gradient(y)
    # (N,D) and (N,E): centred, 0 where a row does not count.
    x, y = (weights * (side - jnp.sum(weights * side, 0) / jnp.maximum(jnp.sum(weights), 1)) for side in (x, y))
    axes, inverse, _ = _principal(_covariance(y, ridge), directions)
    # (N,K): y in its own principal directions, whitened.
    y = jnp.matmul(y, (axes * inverse)[:, -directions:], precision=HIGHEST)
    # (D,D) x (D,K): whitened covariance of the two sides.
    across = jnp.matmul(x.T, y, precision=HIGHEST)
    whitened = jnp.matmul(inverse_root(_covariance(x, ridge), directions), across, precision=HIGHEST)
    return jnp.linalg.svd(whitened, compute_uv=False)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_root(matrix: jax.Array, directions: int) -> jax.Array:
    """sum_k w_k w_k' / sqrt(l_k) over the largest eigenvalues l_k of a symmetric matrix (D,D), none of them negative.

    Its derivative uses differences of inverse roots in place of those of eigenvectors, which have none where
    eigenvalues are equal (Daleckii and Krein). An eigenvalue of 0 adds nothing.
    """
    axes, inverse, _ = _principal(matrix, directions)
    return jnp.matmul(axes * inverse, axes.T, precision=HIGHEST)


@inverse_root.defjvp
def _inverse_root_jvp(
    directions: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    axes, inverse, values = _principal(primals[0], directions)
    roots = jnp.sqrt(jnp.maximum(values, 0))
    first, second = inverse[:, None], inverse[None, :]
    # (D,D): (h(a) - h(b)) / (a - b), where h is 1 / sqrt for kept eigenvalues and 0 for the others.
    between_kept = -first * second / _no_zero(roots[:, None] + roots)
    larger = jnp.maximum(values[:, None], values)
    edge = (first + second) / _no_zero(jnp.maximum(jnp.abs(values[:, None] - values), GAP * larger))
    slopes = jnp.where((first > 0) & (second > 0), between_kept, edge)
    turned = jnp.matmul(jnp.matmul(axes.T, tangents[0], precision=HIGHEST), axes, precision=HIGHEST)
    change = jnp.matmul(jnp.matmul(axes, slopes * turned, precision=HIGHEST), axes.T, precision=HIGHEST)
    return jnp.matmul(axes * inverse, axes.T, precision=HIGHEST), change


def _principal(matrix: jax.Array, directions: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvectors (D,D) as columns, 1 / sqrt of the largest eigenvalues and 0 for the others (D,), eigenvalues (D,)."""
    values, axes = jnp.linalg.eigh(matrix)  # the largest eigenvalue comes last
    kept = (jnp.arange(len(values)) >= len(values) - directions) & (values > 0)
    return axes, jnp.where(kept, jax.lax.rsqrt(_no_zero(values)), 0), values


def _covariance(side: jax.Array, ridge: float) -> jax.Array:
    """X'X + ridge (its mean variance) I, (D,D) from centred rows (N,D)."""
    own = jnp.matmul(side.T, side, precision=HIGHEST)
    return own + ridge * jnp.trace(own) / len(own) * jnp.eye(len(own), dtype=own.dtype)


def _no_zero(values: jax.Array) -> jax.Array:
    return jnp.where(values > 0, values, 1)
