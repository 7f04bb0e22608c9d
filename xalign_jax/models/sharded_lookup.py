"""Where rows and weights meet on a mesh: rows of a batch stay on their device, weights and tables come to them.

A table (V,D) is sharded along both axes: V along "tensor" and D along "fsdp". Rows of a batch are spread along "data"
and "fsdp". Without a mesh in context, or where sizes do not divide, `spread` and `lookup` leave the placement to XLA.
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
    """x (B,...) with its rows (axis 0) spread over the mesh, and every other axis whole on each device.

    Without this constraint, XLA gathers all rows on each device that has a part of a matrix.
    """
    # Rows that do not divide by the devices stay as XLA places them.
    mesh, ways = _mesh()
    whole = ways == 1 or x.shape[0] % ways
    return x if whole else jax.lax.with_sharding_constraint(x, PartitionSpec(_axes(mesh)))


@jax.named_scope("lookup")
def lookup(table: jax.Array, rows: jax.Array) -> jax.Array:
    """table[rows]: (B,T,D) from a table (V,D) and the numbers of its rows (B,T) int32.

    No device ever holds the whole table. Along "fsdp", a device has some of the columns. It looks these up for the rows
    of its neighbours too, and an all-to-all brings the columns of each row together. The backward pass has another one.
    """
    mesh, ways = _mesh()
    width, vocabulary = (mesh.shape.get(axis) for axis in (WIDTH_AXIS, VOCABULARY_AXIS))
    if ways == 1 or rows.shape[0] % ways or table.shape[0] % (vocabulary or 1) or table.shape[1] % (width or 1):
        return table[rows]
    # Where the rows (B,T) lie, and where the table (V,D) lies.
    axes = PartitionSpec(_axes(mesh))
    place = PartitionSpec(VOCABULARY_AXIS if vocabulary else None, WIDTH_AXIS if width else None)
    find = functools.partial(_find, width=width, vocabulary=vocabulary)
    return jax.shard_map(find, in_specs=(place, axes), out_specs=axes)(table, rows)


def _find(table: jax.Array, rows: jax.Array, width: int | None, vocabulary: int | None) -> jax.Array:
    """`lookup` on one device: its part (V,D) of the table, its rows (B,T).

    Args:
      width, vocabulary: sizes of the mesh axes "fsdp" and "tensor"; None = the mesh has no such axis.
    """
    if width:
        # The rows of all neighbours along "fsdp": (B,T) -> (fsdp B,T). Numbers are small, columns are not.
        rows = jax.lax.all_gather(rows, WIDTH_AXIS, tiled=True)
    if vocabulary:
        # Numbers within this device's part of the vocabulary. One device along "tensor" has the row; the others add 0.
        rows = rows - jax.lax.axis_index(VOCABULARY_AXIS) * table.shape[0]
        here = (rows >= 0) & (rows < table.shape[0])
        # (fsdp B,T,D): rows of other devices are read at 0 and set to 0.
        found = jnp.where(here[..., None], table[jnp.where(here, rows, 0)], 0)
        found = jax.lax.psum(found, VOCABULARY_AXIS)
    else:
        found = table[rows]
    # (fsdp B,T,D) -> (B,T,fsdp D): send each neighbour its rows, receive all columns of this device's rows.
    return jax.lax.all_to_all(found, WIDTH_AXIS, 0, 2, tiled=True) if width else found


def rows_divide(rows: int, heads: int) -> bool:
    """Whether `divide_rows` can give every device of the mesh in context the same number of rows and of heads."""
    mesh, ways = _mesh()
    # Several devices without a mesh: nothing says where the rows lie.
    if mesh.empty and target.device_count() > 1:
        return False
    return rows % ways == 0 and heads % mesh.shape.get(HEADS_AXIS, 1) == 0


def divide_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """function(*arrays), computed by each device on its own rows and heads. XLA cannot divide a kernel by itself.

    Args:
      arrays: those of four axes are (B,heads,..), others (B,..). B and heads must divide (`rows_divide`).

    Returns:
      (B,heads,..), sharded as the arrays of four axes.
    """
    mesh, _ = _mesh()
    if mesh.empty:
        return function(*arrays)
    heads = HEADS_AXIS if HEADS_AXIS in mesh.axis_names else None
    # Axis 0 is spread by rows, axis 1 of four-axis arrays by heads.
    whole = PartitionSpec(_axes(mesh), heads)
    specs = tuple(whole if array.ndim == 4 else PartitionSpec(_axes(mesh)) for array in arrays)
    return jax.shard_map(function, in_specs=specs, out_specs=whole, check_vma=False)(*arrays)


def _mesh() -> tuple[jax.sharding.AbstractMesh, int]:
    """The mesh in context, and the number of devices along its axes of rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, math.prod(mesh.shape[axis] for axis in _axes(mesh))


def _axes(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
    """The axes of the mesh along which rows lie."""
    return tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
