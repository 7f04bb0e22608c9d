"""A number for each array of a tree that changes with every bit, wherever the array's parts lie."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from xalign_jax.runtime.compilation import jit_once

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # unsigned type by bytes


def named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by their places, "opt_state/0/mu/embedding" and the like."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksums(tree: Any, prefix: str = "") -> dict[str, int]:
    """A checksum of each array by its name (`named`). Equal arrays have equal ones under any sharding and in any process.

    They are computed where the arrays lie, so that no array is gathered or copied to a host. Arrays of equal shape,
    dtype and sharding share one compilation. One program runs at a time: each sums over all devices, and XLA's simulated
    devices on CPU have too few threads for several such sums at once, which would wait for each other for ever.
    """
    compiled = _compiled()
    return {name: int(jax.device_get(compiled(array))) for name, array in named(tree, prefix).items()}


@functools.cache
def _compiled() -> Callable[[jax.Array], jax.Array]:
    return jit_once(_checksum)


def _checksum(array: jax.Array) -> jax.Array:
    """() uint32: the sum of all elements' bits, each times an odd number of its place, modulo 2^32.

    An odd factor keeps every change of a single element visible. The sum does not depend on the order of its terms.
    """
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize])
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return jnp.sum(array.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
