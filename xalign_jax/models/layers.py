"""Layers shared by architectures. Parameters are float32 and carry their logical axes; matmuls run in `dtype`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[..., jax.Array]


def parameter(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], init: Initializer) -> nnx.Param:
    """A float32 parameter drawn from `init(key, shape, dtype)`, annotated with its logical axes."""
    return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


def project(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x (..., n) times weight (n, m): one plain matrix product, whose gradients XLA also runs as plain products."""
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, computed in float32, returned in x's dtype."""

    def __init__(self, width: int, eps: float, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = parameter(rngs, (width,), ("norm",), nnx.initializers.ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * inverse * self.scale[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """(silu(x gate) * (x up)) down, without biases: (..., width) -> (..., width)."""

    def __init__(self, width: int, hidden: int, init: Initializer, dtype: Any, rngs: nnx.Rngs):
        self.dtype = dtype
        self.gate = parameter(rngs, (width, hidden), ("embed", "mlp"), init)
        self.up = parameter(rngs, (width, hidden), ("embed", "mlp"), init)
        self.down = parameter(rngs, (hidden, width), ("mlp", "embed"), init)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up, down = (w[...].astype(self.dtype) for w in (self.gate, self.up, self.down))
        return project(jax.nn.silu(project(x, gate)) * project(x, up), down)
