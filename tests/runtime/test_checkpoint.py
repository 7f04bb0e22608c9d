"""Checkpoints of arrays that lie on several devices, in parts and in copies."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoints import SLICE_BYTES, Checkpoints, abstract
from xalign_jax.runtime.checksums import checksums


def test_copies_and_parts_come_back_and_small_ones_compile_nothing(tmp_path):
    mesh = sharding.make_mesh((2, 2, 2))
    where = {
        "copies": NamedSharding(mesh, PartitionSpec()),
        "parts": NamedSharding(mesh, PartitionSpec("tensor")),
        "large": NamedSharding(mesh, PartitionSpec("fsdp")),
    }
    values = {name: np.arange(24.0, dtype=np.float32).reshape(8, 3) for name in ("copies", "parts")}
    # Four copies of each half, of which each copy writes a quarter.
    values["large"] = np.arange(2 * SLICE_BYTES, dtype=np.float32).reshape(8, -1)
    assert values["large"].nbytes == 8 * SLICE_BYTES
    params = {name: jax.device_put(value, where[name]) for name, value in values.items()}
    rest = {"opt_state": {"copies": params["copies"]}}
    checkpoints = Checkpoints(tmp_path, keep=2)

    checksums(params)  # what these compile is compiled once for a run
    compiled: list[str] = []

    def listen(event, seconds, **about):
        compiled.extend([event] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    checkpoints.save(1, {name: params[name] for name in ("copies", "parts")}, rest, {})
    assert not compiled
    checkpoints.save(2, params, rest, {})
    jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled  # the copies of the large one shared it out
    checkpoints.close()

    targets = abstract(params, where), abstract(rest, {"opt_state": {"copies": where["copies"]}})
    restored, found = Checkpoints(tmp_path).restore(2, *targets)
    jax.tree.map(np.testing.assert_array_equal, restored, values)
    np.testing.assert_array_equal(found["opt_state"]["copies"], values["copies"])
    assert restored["large"].sharding == where["large"]


def test_checksums_change_with_every_bit_and_not_with_the_places_of_parts():
    mesh = sharding.make_mesh((2, 2, 2))
    chance = np.random.default_rng(0)
    for dtype in ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"):
        values = np.asarray(chance.integers(0, 2, (8, 6, 4)) * 1.5).astype(jax.numpy.dtype(dtype))
        found = {
            checksums({"a": jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))})["a"]
            for spec in ((), ("data",), ("fsdp", "tensor"), (None, "data", "tensor"), (("data", "fsdp", "tensor"),))
        }
        assert len(found) == 1
        for damaged in (_flipped(values, 77), np.roll(values, 1), np.zeros_like(values), values[::-1]):
            assert checksums({"a": jax.numpy.asarray(damaged)})["a"] not in found
    assert checksums({"a": {"b": np.float32(0)}, "c": (np.int32(5),)}) == {"a/b": 0, "c/0": 5}


def _flipped(values, at):
    """The lowest bit of one element the other way round."""
    raw = bytearray(values.tobytes())
    raw[at * values.itemsize] ^= 1
    return np.frombuffer(bytes(raw), values.dtype).reshape(values.shape)
