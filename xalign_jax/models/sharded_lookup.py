"""Where rows and weights meet on a mesh: rows of a batch stay where they are, weights and parts of tables come to them.

Without a mesh in context, and where sizes do not divide, `spread` and `lookup` leave the rest to XLA.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xalign_jax import target
from xalign_jax.arrays import ROW_AXES

WIDTH_AXIS, VOCABULARY_AXIS, HEADS_AXIS = "fsdp", "tensor", "tensor"


def spread(x: jax.Array) -> jax.Array:
    """x with its rows (axis 0) spread over the mesh and every other axis whole.

    Left alone, XLA lets all rows meet on each device that has a part of a matrix.
    """
    mesh, ways = _mesh()
    whole = ways == 1 or x.shape[0] % ways
    return x if whole else jax.lax.with_sharding_constraint(x, PartitionSpec(_axes(mesh)))


def lookup(table: jax.Array, rows: jax.Array) -> jax.Array:
    """table[rows]: (V,D) rows of a table, (B,T) their numbers -> (B,T,D).

    Each device looks its part of the width up for the rows of its neighbours along "fsdp"; an all-to-all, and in the
    backward pass another, brings the parts together. No device ever holds the table whole.
    """
    mesh, ways = _mesh()
    width, vocabulary = (mesh.shape.get(axis) for axis in (WIDTH_AXIS, VOCABULARY_AXIS))
    if ways == 1 or rows.shape[0] % ways or table.shape[0] % (vocabulary or 1) or table.shape[1] % (width or 1):
        return table[rows]
    axes = PartitionSpec(_axes(mesh))
    place = PartitionSpec(VOCABULARY_AXIS if vocabulary else None, WIDTH_AXIS if width else None)
    find = functools.partial(_find, width=width, vocabulary=vocabulary)
    return jax.shard_map(find, in_specs=(place, axes), out_specs=axes)(table, rows)


def _find(table: jax.Array, rows: jax.Array, width: int | None, vocabulary: int | None) -> jax.Array:
    """A device's part of `lookup`; width and vocabulary are sizes of mesh axes, None where there is none."""
    if width:
        rows = jax.lax.all_gather(rows, WIDTH_AXIS, tiled=True)
    if vocabulary:
        rows = rows - jax.lax.axis_index(VOCABULARY_AXIS) * table.shape[0]
        here = (rows >= 0) & (rows < table.shape[0])
        found = jnp.where(here[..., None], table[jnp.where(here, rows, 0)], 0)
        found = jax.lax.psum(found, VOCABULARY_AXIS)
    else:
        found = table[rows]
    return jax.lax.all_to_all(found, WIDTH_AXIS, 0, 2, tiled=True) if width else found


def rows_divide(rows: int, heads: int) -> bool:
    """Whether every device of the mesh in context gets as many rows, and as many heads. No mesh is one device's."""
    mesh, ways = _mesh()
    if mesh.empty and target.device_count() > 1:
        return False
    return rows % ways == 0 and heads % mesh.shape.get(HEADS_AXIS, 1) == 0


def divide_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """function(*arrays) by each device on its rows and heads, for what XLA cannot divide, such as a kernel.

    Arrays of four axes are (B,heads,..), others (B,..); the result is (B,heads,..). Needs `rows_divide`.
    """
    mesh, _ = _mesh()
    if mesh.empty:
        return function(*arrays)
    heads = HEADS_AXIS if HEADS_AXIS in mesh.axis_names else None
    whole = PartitionSpec(_axes(mesh), heads)
    specs = tuple(whole if array.ndim == 4 else PartitionSpec(_axes(mesh)) for array in arrays)
    return jax.shard_map(function, in_specs=specs, out_specs=whole, check_vma=False)(*arrays)


def _mesh() -> tuple[jax.sharding.AbstractMesh, int]:
    """The mesh in context, and over how many devices it spreads rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, math.prod(mesh.shape[axis] for axis in _axes(mesh))


def _axes(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
    return tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
