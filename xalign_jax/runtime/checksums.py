"""Checksums of sharded arrays. They change with every bit and do not depend on the sharding."""

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
    """The leaves of a tree by their paths, such as "opt_state/0/mu/embedding"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksums(tree: Any, prefix: str = "") -> dict[str, int]:
    """A checksum of each array, by its name (`named`). Equal arrays have equal checksums under any sharding.

    Checksums are computed where the arrays lie: no array is gathered or copied to a host. Arrays of equal shape, dtype
    and sharding share one compilation. One program runs at a time, because each sums over all devices. XLA's
    simulated devices on CPU have too few threads for several such sums at once: they would wait for each other forever.
    """
    compiled = _compiled()
    return {name: int(jax.device_get(compiled(array))) for name, array in named(tree, prefix).items()}


@functools.cache
def _compiled() -> Callable[[jax.Array], jax.Array]:
    return jit_once(_checksum)


def _checksum(array: jax.Array) -> jax.Array:
    """() uint32: the sum of all elements' bits, each multiplied by an odd number for its place, modulo 2^32.

    With an odd factor, every change of a single element changes the sum. The order of the terms does not matter.
    """
    # Floats -> their bits, and every element's row-major index -> its factor; both have the array's shape.
    # For a shard, XLA computes its part of the sum and adds the parts of all devices.
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize])
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return jnp.sum(array.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
