"""Runs stop, die, restart, change mesh and process count; the result stays what DESIGN calls equal."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from training import toy

from xalign_jax import config
from xalign_jax.errors import RunError, UserError
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.training import loop

STEPS = 24


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    monkeypatch.setattr(loop.plan, "prepare_data", loop.plan.prepare_data)
    monkeypatch.setattr(loop.plan, "load_data", loop.plan.load_data)
    toy.use_toy_data()


def _spawn(model_dir, devices=1, **options):
    arguments = [f"{key}={value}" for key, value in options.items()]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["XALIGN_CACHE"]) / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, toy.__file__, str(model_dir), f"steps={STEPS}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def _metrics(model_dir, timing=False):
    rows = [json.loads(line) for line in (Path(model_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if timing or not k.startswith("perf/")} for row in rows]


def _params(model_dir, step=STEPS):
    manager = ocp.CheckpointManager(Path(model_dir).absolute() / "checkpoints")
    found = manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore()))["params"]
    return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run on one device that nothing happens to, and the parameters it started from."""
    model_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    _finish(_spawn(model_dir))
    return model_dir


def _assert_identical(model_dir, undisturbed):
    assert _metrics(model_dir) == _metrics(undisturbed)
    assert json.loads((model_dir / "results.json").read_text()) == json.loads(
        (undisturbed / "results.json").read_text()
    )
    jax.tree.map(np.testing.assert_array_equal, _params(model_dir), _params(undisturbed))


def _assert_equal_up_to_rounding(model_dir, undisturbed):
    """DESIGN section 6: 20 losses within 1e-5 relative, parameters within 1e-3 of the update's norm."""
    losses, expected = ([row["loss"] for row in _metrics(d)[:20]] for d in (model_dir, undisturbed))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    norms = [_metrics(d)[0]["gradient_norm"] for d in (model_dir, undisturbed)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    first = toy.recipe(STEPS)
    start = loop.build(first.model, toy.VOCABULARY).init(jax.random.key(first.seed))
    start, ours, theirs = (
        jax.tree.leaves(t) for t in (start, _params(model_dir)["model"], _params(undisturbed)["model"])
    )

    def norm(differences):
        return np.sqrt(sum(float((d.astype(np.float64) ** 2).sum()) for d in differences))

    moved = norm([np.asarray(a) - b for a, b in zip(start, theirs, strict=True)])
    assert moved > 0.1
    assert norm([a - b for a, b in zip(ours, theirs, strict=True)]) < 1e-3 * moved


def test_a_run_leaves_what_explains_it(undisturbed):
    assert {"config.gin", "environment.json", "metrics.jsonl", "results.json", "checkpoints"} <= {
        path.name for path in undisturbed.iterdir()
    }
    rows = _metrics(undisturbed, timing=True)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {row["stage"] for row in rows} == {"align", "pretrain"}
    assert rows[0]["tokens/a"] == rows[0]["tokens/b"] == 4 * 16
    assert rows[0]["perf/tokens_per_second"] > 0
    assert "loss/align_words" in rows[0] and "loss/pretrain_lm" in rows[-1]
    results = json.loads((undisturbed / "results.json").read_text())
    assert [(row["stage"], row["step"]) for row in results] == [("align", STEPS // 3), ("pretrain", STEPS)]
    recipe, _ = config.load([str(undisturbed / "config.gin")], [], (Recipe, Runtime))
    assert recipe == dataclasses.replace(toy.recipe(STEPS), modules=recipe.modules)


def test_sigterm_saves_and_the_same_command_continues(undisturbed, tmp_path):
    model_dir = tmp_path / "run"
    process = _spawn(model_dir, sleep=0.3)
    while not (model_dir / "metrics.jsonl").exists() or len(_metrics(model_dir)) < 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    _finish(_spawn(model_dir))
    _assert_identical(model_dir, undisturbed)


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_sigkill_at_any_moment_costs_only_the_steps_since_the_last_checkpoint(undisturbed, tmp_path, rounds):
    model_dir, chance = tmp_path / "run", random.Random(rounds)
    for _ in range(rounds):
        process = _spawn(model_dir, sleep=0.05, checkpoint_every=2)
        time.sleep(chance.uniform(3.0, 12.0))
        process.kill()
        process.communicate()
    _finish(_spawn(model_dir, checkpoint_every=2))
    assert [row["loss"] for row in _metrics(model_dir)] == [row["loss"] for row in _metrics(undisturbed)]
    _assert_identical(model_dir, undisturbed)


@pytest.mark.parametrize("mesh", ["8,1,1", "1,8,1", "1,2,4", "2,2,2"])
def test_any_mesh_of_eight_devices_equals_one_device(undisturbed, tmp_path, mesh):
    _finish(_spawn(tmp_path / "run", devices=8, mesh=mesh))
    _assert_equal_up_to_rounding(tmp_path / "run", undisturbed)


def test_two_processes_of_four_devices_equal_one_device_and_can_be_resumed_by_one(undisturbed, tmp_path):
    model_dir = tmp_path / "run"

    def pair(**options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        shared = {"devices": 4, "mesh": "2,2,2", "coordinator": coordinator, "processes": 2, **options}
        return [_spawn(model_dir, process_id=number, **shared) for number in range(2)]

    both = pair(sleep=0.3)
    while not (model_dir / "checkpoints" / "8").exists():
        time.sleep(0.1)
        assert all(process.poll() is None for process in both), [p.communicate()[1] for p in both]
    for process in both:
        process.kill()
        process.communicate()
    _finish(_spawn(model_dir, devices=1, sleep=0.0))
    _assert_equal_up_to_rounding(model_dir, undisturbed)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    recipe = toy.recipe(STEPS, bad_row=8 * 13 + 3)  # in the 14th batch of the shared LM cursor
    runtime = Runtime(mesh=(8, 1, 1), log_every=5, checkpoint_every=4)
    with pytest.raises(RunError, match=r"step 14: the loss of stream pretrain_lm"):
        loop.Run(recipe, runtime, tmp_path, "toy").train()
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["stage"], failure["step"], failure["stream"]) == ("pretrain", 14, "pretrain_lm")
    assert np.isinf(failure["batch"]["pretrain_lm"]["weights"][3][0])
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 12
    assert all(np.isfinite(row["loss"]) for row in _metrics(tmp_path))


def test_another_recipe_is_refused_with_the_difference_and_extend_adds_steps(tmp_path):
    runtime = Runtime(mesh=(1, 8, 1), checkpoint_every=4)
    loop.Run(toy.recipe(3), runtime, tmp_path, "toy").train()
    with pytest.raises(UserError, match=r"Recipe.stages\[0\].schedule.peak is 0.01 there, 0.02 here"):
        loop.Run(toy.recipe(3, peak=0.02), runtime, tmp_path, "toy")
    longer = toy.recipe(3)
    last = dataclasses.replace(longer.stages[1], steps=4)
    longer = dataclasses.replace(longer, stages=(longer.stages[0], last))
    with pytest.raises(UserError, match="--extend"):
        loop.Run(longer, runtime, tmp_path, "toy")
    loop.Run(longer, dataclasses.replace(runtime, mesh=(2, 2, 2)), tmp_path, "toy", extend=True).train()
    assert _metrics(tmp_path)[-1]["step"] == 5


@pytest.mark.parametrize(
    ("mesh", "change", "said"),
    [
        ((3, 1, 1), {}, r"Runtime.mesh = \(3, 1, 1\)"),
        ((8, 1, 1), {"rows": 12}, r"align_lm/Stream.rows = 12 does not divide over 8 devices"),
        ((8, 1, 1), {"feed": toy.ToyFeed(length=64)}, "longer than the model's max_length = 32"),
        ((8, 1, 1), {"name": "pretrain_lm"}, "'pretrain_lm' is used 2 times"),
    ],
)
def test_what_cannot_run_is_refused_before_training(tmp_path, mesh, change, said):
    recipe = toy.recipe(3)
    words, lm = recipe.stages[0].streams
    first = dataclasses.replace(recipe.stages[0], streams=(words, dataclasses.replace(lm, **change)))
    with pytest.raises(UserError, match=said):
        loop.Run(dataclasses.replace(recipe, stages=(first, recipe.stages[1])), Runtime(mesh=mesh), tmp_path, "toy")


def test_parameters_of_another_run_are_a_start(tmp_path):
    runtime = Runtime(mesh=(8, 1, 1))
    loop.Run(toy.recipe(3), runtime, tmp_path / "a", "toy").train()
    start = dataclasses.replace(toy.recipe(3), init_from=str(tmp_path / "a"), seed=5)
    fresh = loop.Run(start, runtime, tmp_path / "b", "toy")._first_state()
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(fresh.params["model"]), _params(tmp_path / "a", 3)["model"]
    )
    with pytest.raises(UserError, match="no checkpoints there"):
        loop.Run(dataclasses.replace(start, init_from=str(tmp_path / "c")), runtime, tmp_path / "d", "toy").train()
