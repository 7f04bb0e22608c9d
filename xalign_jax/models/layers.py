"""Layers that architectures share. Parameters are float32, matrix products run in `dtype`, norms in float32.

Each parameter carries the names of its logical axes, such as ("embed", "mlp"). The runtime maps these names to the axes
of a mesh, so that no model knows the mesh.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax.errors import UserError
from xalign_jax.matrix_product import product

Axes = tuple[str | None, ...]

# By their names in Hugging Face configurations. Some functions have several names.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    **dict.fromkeys(("gelu", "gelu_python"), functools.partial(jax.nn.gelu, approximate=False)),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), functools.partial(jax.nn.gelu, approximate=True)),
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
    # The sigmoid approximation of GELU.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
}


class _Activated(Protocol):
    @property
    def activation(self) -> str: ...


def check_activation(config: _Activated) -> None:
    """Raise UserError if `config.activation` is not in the table."""
    if config.activation not in ACTIVATIONS:
        raise UserError(f"{type(config).__name__}.activation = {config.activation!r}: one of {', '.join(ACTIVATIONS)}")


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes float32 parameters annotated with their logical axes.

    Attributes:
      rngs: where initial values come from.
      std: standard deviation of the normal initialisation.
      stack: make so many of each parameter, along a leading axis "layers", for a scan over layers; None = make one.
    """

    rngs: nnx.Rngs
    std: float
    stack: int | None = None

    def normal(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter drawn from N(0, std^2)."""
        shape, axes = self._stacked(shape, axes)
        # Drawn flat and then shaped: the numbers are the same, and XLA compiles in a sixth of the time on CPU.
        drawn = jax.random.normal(self.rngs.params(), (math.prod(shape),), jnp.float32)
        return nnx.Param(self.std * drawn.reshape(shape), axes=axes)

    def ones(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter that starts at 1."""
        # A scale that starts at 1 leaves the normalised states as they are.
        shape, axes = self._stacked(shape, axes)
        return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)

    def zeros(self, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
        """A parameter that starts at 0."""
        shape, axes = self._stacked(shape, axes)
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)

    def _stacked(self, shape: tuple[int, ...], axes: Axes) -> tuple[tuple[int, ...], Axes]:
        """(n, ..) -> (layers, n, ..) where parameters are stacked."""
        return (shape, axes) if self.stack is None else ((self.stack, *shape), ("layers", *axes))


def project(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x (..., n) times weight (n, m): (..., m)."""
    # As one plain product (N,n) x (n,m). XLA then runs both gradients as plain products too.
    return product(x.reshape(-1, x.shape[-1]), weight, dtype=x.dtype).reshape(*x.shape[:-1], weight.shape[-1])


def add_bias(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """x (..., n) plus a bias (n,); None = no bias."""
    return x if bias is None else x + bias[...].astype(x.dtype)


class Sites(NamedTuple):
    """What a block computed on the way, for `Model.hidden(capture=...)`.

    Attributes:
      attention: (B, T, width), the output of attention before it is added to the residual stream.
      mlp: (B, T, mlp_width), the neurons: the input of the last product of the MLP.
    """

    attention: jax.Array
    mlp: jax.Array


class RMSNorm(nnx.Module):
    """x / rms(x) * scale along the last axis, computed in float32, returned in x's dtype (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float, make: Maker):
        self.eps = eps
        self.scale = make.ones((width,), ("norm",))

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        # (..., width) -> (..., 1), in float32: bfloat16 has two decimal digits, too few for a mean of squares.
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * inverse * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias on the last axis, computed in float32, returned in `dtype`."""

    def __init__(self, width: int, eps: float, dtype: DTypeLike, make: Maker):
        self.eps = eps
        self.dtype = dtype
        self.scale = make.ones((width,), ("norm",))
        self.bias = make.zeros((width,), ("norm",))

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        # The variance of the centred values: mean(x^2) - mean(x)^2 would cancel where the mean is large.
        centred = x.astype(jnp.float32) - jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (centred * inverse * self.scale[...] + self.bias[...]).astype(self.dtype)


class Dense(nnx.Module):
    """x weight + bias: (..., n) -> (..., m). `shape` and `axes` are the weight's, (n,m)."""

    def __init__(self, shape: tuple[int, int], axes: Axes, dtype: DTypeLike, make: Maker):
        # The bias has the output axis of the weight: (n,m) -> (m,).
        self.dtype = dtype
        self.weight = make.normal(shape, axes)
        self.bias = make.zeros(shape[1:], axes[1:])

    def __call__(self, x: jax.Array) -> jax.Array:
        # Parameters are float32; each product casts them, and the gradient is float32 again.
        return project(x, self.weight[...].astype(self.dtype)) + self.bias[...].astype(self.dtype)


class SwiGLU(nnx.Module):
    """(silu(x gate) * (x up)) down, with or without biases (Shazeer 2020, arXiv 2002.05202).

    `neurons` computes the input of the last product, and a call is the last product. So a block can show its neurons.
    """

    def __init__(self, width: int, hidden: int, dtype: DTypeLike, make: Maker, biases: bool = False):
        self.dtype = dtype
        # "mlp_rows" differs from "mlp" because both are sharded differently (runtime/sharding.py says why).
        self.gate = make.normal((width, hidden), ("embed", "mlp"))
        self.up = make.normal((width, hidden), ("embed", "mlp"))
        self.down = make.normal((hidden, width), ("mlp_rows", "embed"))
        # `nnx.data`: attributes that may hold parameters even if they are None now.
        self.gate_bias = nnx.data(make.zeros((hidden,), ("mlp",)) if biases else None)
        self.up_bias = nnx.data(make.zeros((hidden,), ("mlp",)) if biases else None)
        self.down_bias = nnx.data(make.zeros((width,), ("embed",)) if biases else None)

    @jax.named_scope("mlp")
    def neurons(self, x: jax.Array) -> jax.Array:
        """(..., width) -> (..., hidden)."""
        # Two products (..., width) x (width, hidden), multiplied element by element.
        return jax.nn.silu(self._project(x, "gate")) * self._project(x, "up")

    @jax.named_scope("mlp")
    def __call__(self, neurons: jax.Array) -> jax.Array:
        return self._project(neurons, "down")

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        return add_bias(project(x, getattr(self, name)[...].astype(self.dtype)), getattr(self, f"{name}_bias"))
