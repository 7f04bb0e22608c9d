"""Runs of the toy in processes of their own, and checks that two of them are equal."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from forks import Fork
from training import toy

from xalign_jax.models.model import build

STEPS = 24


def spawn(model_dir, steps=STEPS, devices=1, **options):
    """`toy.main` in a process of its own with `devices` simulated devices."""
    arguments = [f"{key}={value}" for key, value in options.items()]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"  # the last one counts
    environment = os.environ | {"XLA_FLAGS": flags}
    return Fork(toy.main, [str(model_dir), f"steps={steps}", *arguments], environment)


def pair(model_dir, of_second=None, **options):
    """Two processes with four devices each. `of_second` changes options of the second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"devices": 4, "mesh": "2,2,2", "coordinator": coordinator, "processes": 2, **options}
    return [spawn(model_dir, **shared | own, process_id=i) for i, own in enumerate(({}, of_second or {}))]


def go_on(model_dir):
    """Let processes continue that wait at `pause`."""
    Path(f"{model_dir}.go").touch()


def finish(*processes):
    """Wait for processes. All of them must succeed."""
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def steps_logged(model_dir):
    """The whole lines of metrics.jsonl. The run may still be writing the next line."""
    path = Path(model_dir) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def metrics(model_dir, timing=False):
    """Rows of metrics.jsonl, without speeds unless asked for."""
    rows = [json.loads(line) for line in (Path(model_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if timing or not k.startswith("perf/")} for row in rows]


def saved_params(model_dir, step=STEPS):
    """The parameters in a checkpoint."""
    manager = ocp.CheckpointManager(Path(model_dir).absolute() / "checkpoints")
    found = manager.restore(step, args=ocp.args.Composite(params=whole()))["params"]
    return jax.tree.map(np.asarray, found)


def whole():
    """Restore an item onto one device, whatever devices it was saved from."""
    return ocp.args.StandardRestore(fallback_sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def assert_identical(model_dir, undisturbed):
    """Check that metrics, results and the last parameters are equal, bit by bit."""
    assert metrics(model_dir) == metrics(undisturbed)
    assert json.loads((model_dir / "results.json").read_text()) == json.loads(
        (undisturbed / "results.json").read_text()
    )
    jax.tree.map(np.testing.assert_array_equal, saved_params(model_dir), saved_params(undisturbed))


def assert_equal_up_to_rounding(model_dir, undisturbed, recipe, step=STEPS):
    """Check that 20 losses agree within 1e-5, and parameters within 1e-3 of the update's norm."""
    losses, expected = ([row["loss"] for row in metrics(d)[:20]] for d in (model_dir, undisturbed))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    norms = [metrics(d)[0]["gradient_norm"] for d in (model_dir, undisturbed)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    start = jax.jit(build(recipe.model, toy.VOCABULARY).init)(jax.random.key(recipe.seed))
    start, ours, theirs = (
        jax.tree.leaves(t)
        for t in (start, saved_params(model_dir, step)["model"], saved_params(undisturbed, step)["model"])
    )

    def norm(differences):
        return np.sqrt(sum(float((d.astype(np.float64) ** 2).sum()) for d in differences))

    moved = norm([np.asarray(a) - b for a, b in zip(start, theirs, strict=True)])
    assert moved > 0.1
    assert norm([a - b for a, b in zip(ours, theirs, strict=True)]) < 1e-3 * moved
