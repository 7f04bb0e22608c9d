"""Matrix products: the dtype of their sums, and forms that are fast on CPUs too.

Shapes: the last two axes of both operands are multiplied; axes before them are equal, and count products.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from xalign_jax.target import device_count, platform

Form = Literal["nn", "nt", "tn"]  # which operand is transposed: neither, the right one, the left one


def product(
    a: jax.Array,
    b: jax.Array,
    form: Form = "nn",
    dtype: DTypeLike | None = None,
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """a b ("nn"), a b^T ("nt") or a^T b ("tn").

    Args:
      a, b: (..., rows, columns) of one dtype.
      dtype: of the result; None = float32, or float64 for float64 operands. Sums are never taken in fewer bits.
      precision: of the operands. None = the default, which on a TPU rounds float32 operands to bfloat16.
    """
    dtype = jnp.promote_types(a.dtype, jnp.float32) if dtype is None else dtype
    if a.dtype == b.dtype == jnp.bfloat16 and platform() == "cpu":
        return _bfloat16_product(form, a, b).astype(dtype)
    a = a.swapaxes(-1, -2) if form == "tn" else a
    b = b.swapaxes(-1, -2) if form == "nt" else b
    return jnp.matmul(a, b, preferred_element_type=dtype, precision=precision)


@functools.cache
def fast_bfloat16() -> bool:
    """The devices of this process multiply bfloat16 faster than float32. Among CPUs, those with AMX do."""
    if jax.default_backend() != "cpu":
        return True
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False  # not Linux


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bfloat16_product(form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """The float32 product of bfloat16 operands on a CPU, with gradients that are such products too.

    XLA for CPUs has a kernel of bfloat16 products, four times as fast as float32 on processors with AMX. It takes the
    kernel only if the result is float32 and the left operand is not transposed. Otherwise it converts both operands to
    float32 (measured with jax 0.10).
    """
    if form == "tn":
        a = _transposed(a)
    along = a.ndim - 1, b.ndim - (1 if form == "nt" else 2)
    batch = tuple(range(a.ndim - 2))
    return jax.lax.dot_general(a, b, ((along[:1], along[1:]), (batch, batch)), preferred_element_type=jnp.float32)


def _transposed(a: jax.Array) -> jax.Array:
    """(..., m, n) -> (..., n, m)."""
    # Devices that share the columns would have to exchange halves of them.
    if a.shape[-1] % 2 or device_count() > 1:
        return a.swapaxes(-1, -2)
    # XLA folds a plain transpose into the product. It does not see that this is one: (m,2,n/2) -> (2,n/2,m) -> (n,m).
    halves = a.reshape(*a.shape[:-1], 2, a.shape[-1] // 2)
    return jnp.moveaxis(halves, -3, -1).reshape(*a.shape[:-2], a.shape[-1], a.shape[-2])


def _forward(form: Form, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bfloat16_product(form, a, b), (a, b)


def _backward(form: Form, operands: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The result's gradient is rounded as the operands are. In turn: of a b, of a b^T, and of a^T b.
    (a, b), g = operands, g.astype(jnp.bfloat16)
    if form == "nn":
        gradients = _bfloat16_product("nt", g, b), _bfloat16_product("tn", a, g)
    elif form == "nt":
        gradients = _bfloat16_product("nn", g, b), _bfloat16_product("tn", g, a)
    else:
        gradients = _bfloat16_product("nt", b, g), _bfloat16_product("nn", a, g)
    return gradients[0].astype(a.dtype), gradients[1].astype(b.dtype)


_bfloat16_product.defvjp(_forward, _backward)
