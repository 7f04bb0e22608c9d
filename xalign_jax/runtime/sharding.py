"""The mesh, the table of logical axis rules, and global batches from each host's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xalign_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

# Logical axis of an array -> mesh axes. The array's axis is divided over the first of them, as long as they divide its
# size and no other axis of the array uses them. Output projections are sharded by rows. If sharded by columns, XLA for
# TPU all-reduces the full gradient instead of reduce-scattering it.
RULES: dict[str | None, tuple[str, ...]] = {
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "mlp_rows": ("tensor", "fsdp"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "head_rows": ("fsdp",),
    "norm": (),
    "layers": (),
    "queue": ("data", "fsdp"),
    None: (),
}


def make_mesh(shape: Sequence[int], slices: Sequence[Sequence[jax.Device]] | None = None) -> Mesh:
    """A mesh over all devices with axes (data, fsdp, tensor). One size may be -1: it takes the remaining devices.

    If there are several slices, the data axis spans them, so that only sums of gradients cross the data-centre network.

    Args:
      shape: the sizes of the axes; () = the slices along data, the devices of each along fsdp.
      slices: the devices of each slice; None = those present.

    Raises:
      UserError: the shape does not multiply to the number of devices, or its data axis is no multiple of the slices.
    """
    slices = present_slices() if slices is None else slices
    devices = sum(map(len, slices))
    shape = tuple(shape) or (len(slices), -1, 1)
    # Fill in a -1, then check that the product is the number of devices.
    known = int(np.prod([size for size in shape if size != -1]))
    sizes = [devices // max(known, 1) if size == -1 else size for size in shape]
    if len(sizes) != len(AXES) or sum(size == -1 for size in shape) > 1 or int(np.prod(sizes)) != devices:
        raise UserError(f"Runtime.mesh = {shape}: axes {AXES} must multiply to the {devices} devices present")
    data, *others = sizes
    if data % len(slices):
        raise UserError(
            f"Runtime.mesh = {shape}: the first, {AXES[0]}, spans the slices and must be a multiple of {len(slices)}; bind "
            f"Runtime.mesh = (-1, 16, 1) or (), which fits, or give --gin_file=runtimes/v5e_256x2.gin for two pods of v5e"
        )
    # One (data / slices, fsdp, tensor) array of devices for each slice, joined along the data axis.
    parts = [
        mesh_utils.create_device_mesh((data // len(slices), *others), list(one), allow_split_physical_axes=True)
        for one in slices
    ]
    return Mesh(np.concatenate(parts), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def present_slices() -> list[list[jax.Device]]:
    """The devices of this run by TPU slice. On other machines all devices form one slice."""
    slices: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        number = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        slices.setdefault(number, []).append(device)
    return [slices[number] for number in sorted(slices)]


def batch_ways(mesh: Mesh) -> int:
    """The number of parts that the rows of a batch are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def parameter_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of one array by its logical axes. Each mesh axis is used at most once."""
    spec: list[tuple[str, ...]] = []
    for name, size in zip(axes, shape, strict=True):
        # Take mesh axes as long as their product divides the size and no earlier axis of the array has them.
        along: tuple[str, ...] = ()
        for axis in RULES[name]:
            ways = math.prod(mesh.shape[each] for each in (*along, axis))
            if size % ways or any(axis in others for others in spec):
                break
            along += (axis,)
        spec.append(along)
    return PartitionSpec(*(along or None for along in spec))


def parameter_shardings(logical_axes: Any, abstract: Any, mesh: Mesh) -> Any:
    """NamedShardings for a tree of arrays (or shapes) and the matching tree of logical axes."""
    return jax.tree.map(
        lambda array, axes: NamedSharding(mesh, parameter_spec(axes, array.shape, mesh)),
        abstract,
        logical_axes,
        is_leaf=lambda node: hasattr(node, "shape"),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


Rows = Callable[[slice], dict[str, np.ndarray]]


def global_batch(rows: Rows, count: int, mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch of `count` rows, (count, ..) arrays sharded over (data, fsdp) by rows.

    This host computes only the rows of its own devices, each once.

    Args:
      rows: gives the arrays of a slice of rows.
    """
    # The slices of rows of this host's devices; devices along the tensor axis have the same ones.
    sharding = NamedSharding(mesh, BATCH)
    indices = sharding.addressable_devices_indices_map((count,)).values()
    # Normally they are contiguous, and one call of `rows` makes them all.
    slices = {_bounds(index[0], count) for index in indices if index is not None}
    low, high = min(a for a, _ in slices), max(b for _, b in slices)
    if high - low == sum(b - a for a, b in slices):  # the usual case: this host's rows form one range
        slices = {(low, high)}
    parts = {(a, b): rows(slice(a, b)) for a, b in slices}

    def assemble(name: str, shape: tuple[int, ...]) -> jax.Array:
        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            """The rows of one device."""
            a, b = _bounds(index[0] if index else slice(None), count)
            # The part that holds this device's rows, and the rows within it.
            start, part = next((s, p) for (s, e), p in parts.items() if s <= a and b <= e)
            return part[name][a - start : b - start]

        return jax.make_array_from_callback((count, *shape), sharding, piece)

    return {name: assemble(name, array.shape[1:]) for name, array in next(iter(parts.values())).items()}


def _bounds(index: slice, count: int) -> tuple[int, int]:
    start, stop, _ = index.indices(count)
    return start, stop
