"""Processes are killed or stopped at random moments, and restarted in other numbers. The result stays the same."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import time

import orbax.checkpoint as ocp
import pytest
from training import toy
from training.runs import assert_equal_up_to_rounding, finish, spawn, steps_logged, whole

DEVICES = 4
MESH = "2,2,1"
SECONDS = 180  # for all processes to end once one has


def start(model_dir, steps, processes, **options):
    """The run in `count` processes that share DEVICES simulated devices."""
    shared = {"steps": steps, "mesh": MESH, "devices": DEVICES // processes, "checkpoint_every": 2, **options}
    if processes == 1:
        return [spawn(model_dir, **shared)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    together = {"coordinator": coordinator, "processes": processes, "lost_seconds": 5}
    return [spawn(model_dir, process_id=number, **shared, **together) for number in range(processes)]


def lock_of(model_dir):
    path = model_dir / "lock.json"
    return json.loads(path.read_text())["token"] if path.exists() else ""


def wait_until(ready, running):
    """Return once the condition holds, or a process has ended."""
    begun = time.monotonic()
    while not ready() and all(process.poll() is None for process in running):
        assert time.monotonic() - begun < SECONDS
        time.sleep(0.05)


def disturb(running, model_dir, steps, before, chance):
    """Kill or stop one or all processes at a random moment after they met, once the lock differs from `before`."""
    wait_until(lambda: lock_of(model_dir) not in ("", before), running)
    if chance.random() < 0.75:  # amid the steps; else before the first one, while it is compiled
        target = steps_logged(model_dir) + chance.randint(1, 6)
        wait_until(lambda: steps_logged(model_dir) >= target, running)
    time.sleep(chance.uniform(0, 0.7))
    saving = [path.name for path in (model_dir / "checkpoints").glob("*tmp*")]
    told = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    victims = running if chance.random() < 0.5 else [chance.choice(running)]
    for process in victims:
        process.send_signal(told)
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in running]
    except subprocess.TimeoutExpired:
        pytest.fail(f"{told.name} to {len(victims)} of {len(running)} processes: some still run")
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    if told == signal.SIGTERM:
        assert set(codes) <= {0, 3} and len(set(codes)) == 1, errors
    elif 0 in codes:  # the run was at its end
        assert (model_dir / "checkpoints" / str(steps)).is_dir(), errors
    return told.name, len(victims), codes, saving


def readable(model_dir):
    """The steps of all checkpoints. Each checkpoint is read as a whole."""
    folder = model_dir / "checkpoints"
    manager = ocp.CheckpointManager(folder.absolute()) if folder.exists() else None
    steps = manager.all_steps() if manager else []
    for step in steps:
        found = manager.restore(step, args=ocp.args.Composite(params=whole(), rest=whole()))
        assert int(found["rest"]["step"]) == step
    return sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "steps"), [(2, 16), (20, 120)])
def test_the_state_at_the_end_is_that_of_an_undisturbed_run(tmp_path, rounds, steps):
    chance = random.Random(rounds)
    undisturbed, model_dir = tmp_path / "undisturbed", tmp_path / "run"
    finish(*start(undisturbed, steps, 1))
    newest = -1
    for number in range(rounds):
        processes, before = chance.choice([2, 4, 1, 2]), lock_of(model_dir)
        happened = disturb(start(model_dir, steps, processes, sleep=0.2), model_dir, steps, before, chance)
        whole_steps = readable(model_dir)
        print(f"round {number}: {processes} processes, {happened}, checkpoints {whole_steps}")
        assert max(whole_steps, default=-1) >= newest, "a newer checkpoint was there before"
        newest = max(whole_steps, default=-1)
    finish(*start(model_dir, steps, 2))
    assert readable(model_dir)[-1] == steps
    assert_equal_up_to_rounding(model_dir, undisturbed, toy.recipe(steps), steps)
