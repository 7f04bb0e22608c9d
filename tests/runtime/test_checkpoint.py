"""Checkpoints of arrays that lie on several devices, in parts and in copies."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from xalign_jax.runtime import sharding
from xalign_jax.runtime.checkpoint import SLICE_BYTES, Checkpoints, abstract


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
