"""Layers shared by architectures. Parameters are float32 and carry their logical axes; matmuls run in `dtype`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from xalign_jax.errors import UserError

Axes = tuple[str | None, ...]

# By the names in Hugging Face configurations, several of which mean the same.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    **dict.fromkeys(("gelu", "gelu_python"), functools.partial(jax.nn.gelu, approximate=False)),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), functools.partial(jax.nn.gelu, approximate=True)),
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
}


def check_activation(config: Any) -> None:
    """Raises UserError if `config.activation` is not in the table."""
    if config.activation not in ACTIVATIONS:
        raise UserError(f"{type(config).__name__}.activation = {config.activation!r}: one of {', '.join(ACTIVATIONS)}")


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes float32 parameters annotated with their logical axes.

    Attributes:
      std: standard deviation of the normal initialisation.
      stack: make that many of each along a leading axis "layers", for modules that a scan applies one after another.
    """

    rngs: nnx.Rngs
    std: float
    stack: int | None = None

    def normal(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter drawn from N(0, std^2)."""
        shape, axes = self._stacked(shape, axes)
        # Drawn flat: the same numbers as drawn in shape, in a sixth of XLA's compile time on CPU.
        drawn = jax.random.normal(self.rngs.params(), (math.prod(shape),), jnp.float32)
        return nnx.Param(self.std * drawn.reshape(shape), axes=axes)

    def ones(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter that starts at 1."""
        shape, axes = self._stacked(shape, axes)
        return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)

    def zeros(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter that starts at 0."""
        shape, axes = self._stacked(shape, axes)
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)

    def _stacked(self, shape: tuple[int, ...], axes: Axes) -> tuple[tuple[int, ...], Axes]:
        return (shape, axes) if self.stack is None else ((self.stack, *shape), ("layers", *axes))


def project(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x (..., n) times weight (n, m): one plain matrix product, whose gradients XLA also runs as plain products."""
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def add_bias(x: jax.Array, module: nnx.Module, name: str) -> jax.Array:
    """x (..., n) plus the module's bias (n,) of that name, if it has one."""
    return x + getattr(module, name)[...].astype(x.dtype) if hasattr(module, name) else x


class Sites(NamedTuple):
    """What a block computed on the way, for `Model.hidden(capture=...)`.

    Attributes:
      attention: (B, T, width), the attention's output before it joins the residual stream.
      mlp: (B, T, mlp_width), the neurons: what the last product of the MLP reads.
    """

    attention: jax.Array
    mlp: jax.Array


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, computed in float32, returned in x's dtype."""

    def __init__(self, width: int, eps: float, make: Maker):
        self.eps = eps
        self.scale = make.ones((width,), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * inverse * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias, computed in float32, returned in `dtype`."""

    def __init__(self, width: int, eps: float, dtype: Any, make: Maker):
        self.eps = eps
        self.dtype = dtype
        self.scale = make.ones((width,), ("norm",))
        self.bias = make.zeros((width,), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        centred = x.astype(jnp.float32) - jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (centred * inverse * self.scale[...] + self.bias[...]).astype(self.dtype)


class Dense(nnx.Module):
    """x weight + bias: (..., n) -> (..., m); `axes` are those of the weight (n,m)."""

    def __init__(self, shape: tuple[int, int], axes: Axes, dtype: Any, make: Maker):
        self.dtype = dtype
        self.weight = make.normal(shape, axes)
        self.bias = make.zeros(shape[1:], axes[1:])

    def __call__(self, x: jax.Array) -> jax.Array:
        return project(x, self.weight[...].astype(self.dtype)) + self.bias[...].astype(self.dtype)


class SwiGLU(nnx.Module):
    """(silu(x gate) * (x up)) down, with or without biases: `neurons` up to the last product, the call after it."""

    def __init__(self, width: int, hidden: int, dtype: Any, make: Maker, biases: bool = False):
        self.dtype = dtype
        self.gate = make.normal((width, hidden), ("embed", "mlp"))
        self.up = make.normal((width, hidden), ("embed", "mlp"))
        self.down = make.normal((hidden, width), ("mlp_rows", "embed"))
        if biases:
            self.gate_bias = make.zeros((hidden,), ("mlp",))
            self.up_bias = make.zeros((hidden,), ("mlp",))
            self.down_bias = make.zeros((width,), ("embed",))

    def neurons(self, x: jax.Array) -> jax.Array:
        """(..., width) -> (..., hidden)."""
        return jax.nn.silu(self._project(x, "gate")) * self._project(x, "up")

    def __call__(self, neurons: jax.Array) -> jax.Array:
        return self._project(neurons, "down")

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        return add_bias(project(x, getattr(self, name)[...].astype(self.dtype)), self, f"{name}_bias")
