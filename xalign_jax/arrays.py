"""Array functions that several rooms use: rows in pieces."""

from __future__ import annotations

import jax
import jax.numpy as jnp

ROW_AXES = ("data", "fsdp")  # the mesh axes along which the rows of batches lie


def split_rows(array: jax.Array, pieces: int, fill: int = 0) -> jax.Array:
    """(N, ...) -> (pieces, ceil(N / pieces), ...), padded with rows of `fill`. Row i goes to piece i % pieces.

    Neighbouring rows lie on one device when rows are sharded. So contiguous pieces would occupy one device after
    another; pieces with a stride occupy all devices at once.
    """
    rows = -(-array.shape[0] // pieces)
    padding = [(0, rows * pieces - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    # (N,..) -> (rows,pieces,..) -> (pieces,rows,..): the first reshape keeps the order, so the stride is `pieces`.
    padded = jnp.pad(array, padding, constant_values=fill)
    return padded.reshape(rows, pieces, *array.shape[1:]).swapaxes(0, 1)


def join_rows(array: jax.Array, count: int) -> jax.Array:
    """The inverse of `split_rows`: (pieces, n, ...) -> (count, ...), without the padding."""
    return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])[:count]
