"""Array functions that several rooms use."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

ROW_AXES = ("data", "fsdp")  # the mesh axes along which rows of batches lie


def split_rows(array: jax.Array, pieces: int, fill: Any = 0) -> jax.Array:
    """(N, ...) -> (pieces, ceil(N / pieces), ...), padded with `fill`; row i goes to piece i % pieces.

    Strided, so that each piece spans all devices when rows are sharded.
    """
    rows = -(-array.shape[0] // pieces)
    padding = [(0, rows * pieces - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, padding, constant_values=fill)
    return padded.reshape(rows, pieces, *array.shape[1:]).swapaxes(0, 1)


def join_rows(array: jax.Array, count: int) -> jax.Array:
    """The inverse of `split_rows`: (pieces, n, ...) -> (count, ...)."""
    return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])[:count]
