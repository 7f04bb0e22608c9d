"""Machines by name. Their devices can be compiled for without being present."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax

from xalign_jax.errors import UserError, install, one_line
from xalign_jax.runtime import hardware

# Shapes of slices by chip, as clouds rent them. A v4 chip shows as two devices.
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
TPUS = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}


class Machine(NamedTuple):
    """The machine that a program is compiled for.

    Attributes:
      name: the user's name for it.   platform: "tpu", "gpu" or "cpu".
      slices: the devices of each slice; the data-centre network joins the slices.
      chip: published figures of a chip; None if there are none.
      chips: number of chips; the number of devices may differ.
    """

    name: str
    platform: str
    slices: list[list[jax.Device]]
    chip: hardware.Chip | None
    chips: int

    @property
    def devices(self) -> int:
        """The number of devices of all slices."""
        return sum(map(len, self.slices))


def find(name: str, num_slices: int = 1) -> Machine:
    """The machine of that name: "v5e:16x16" (of `num_slices` slices), "cpu:8" (simulated devices), "gpu" (those here).

    Call this before JAX has started, because programs for a machine that is not here are made on the CPU.

    Raises:
      UserError: the name is unknown, libtpu is missing, there is no GPU, or JAX has started with fewer CPU devices.
    """
    if num_slices < 1:
        raise UserError(f"--num_slices={num_slices}: must be at least 1")
    family, _, shape = name.partition(":")
    if shape in TPUS.get(family, ()):
        return _tpu(name, num_slices)
    if family == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
        return _cpu(name, int(shape), num_slices)
    if name == "gpu":
        return _gpu(num_slices)
    known = "; ".join(f"{family}:{', '.join(shapes)}" for family, shapes in TPUS.items())
    raise UserError(f"--topology={name}: unknown. Known are cpu:N; gpu (if one is here); {known}")


def _tpu(name: str, num_slices: int) -> Machine:
    from jax.experimental import topologies

    # Without these variables libtpu asks a metadata server, which only a TPU's host has.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no process touches a TPU here, so they need no lock
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name}: needs the TPU compiler: {install('tpu')}")
    jax.config.update("jax_platforms", "cpu")
    try:
        there = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=num_slices)
    except RuntimeError as error:
        cause = one_line(error)
        raise UserError(f"--topology={name}: the TPU compiler says: {cause}") from None
    # Devices by slice, and chips by their coordinates: two devices of a v4 chip have the same ones.
    found: list[Any] = [*there.devices]
    slices: dict[int, list[Any]] = {}
    for device in found:
        slices.setdefault(getattr(device, "slice_index", 0) or 0, []).append(device)
    chips = len({(getattr(device, "slice_index", 0), *device.coords) for device in found})
    return Machine(name, "tpu", list(slices.values()), hardware.chip(found[0].device_kind), chips)


def _cpu(name: str, size: int, num_slices: int) -> Machine:
    jax.config.update("jax_platforms", "cpu")
    # Simulated devices are made when JAX starts; if it has started, those present must suffice.
    with contextlib.suppress(RuntimeError):  # JAX has started already
        jax.config.update("jax_num_cpu_devices", size * num_slices)
    devices = jax.devices()[: size * num_slices]
    if len(devices) < size * num_slices:
        raise UserError(f"--topology={name}: JAX has started with {len(devices)} CPU devices")
    slices = [devices[i * size : (i + 1) * size] for i in range(num_slices)]
    return Machine(name, "cpu", slices, None, len(devices))


def _gpu(num_slices: int) -> Machine:
    try:
        devices = jax.devices("gpu")
    except RuntimeError:
        raise UserError("--topology=gpu: there is no GPU here, or JAX is installed without CUDA") from None
    if num_slices > 1:
        raise UserError(f"--num_slices={num_slices}: only TPUs and simulated devices have several slices")
    return Machine("gpu", "gpu", [devices], hardware.chip(devices[0].device_kind), len(devices))
