"""Storage fails, hosts disagree, or a second run uses the directory: one line says so, and every process ends."""

from __future__ import annotations

import resource
import signal

import pytest
from training.runs import go_on, pair, saved_params, spawn
from waiting import wait_until

LINE = "xalign: "


def ends(running, seconds=150):
    """Exit codes and standard error of processes."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], errors


@pytest.mark.slow  # two processes, and a failure that takes time to be told
def test_storage_that_fails_in_the_middle_of_a_save(tmp_path):
    model_dir = tmp_path / "run"
    both = pair(model_dir, pause=6)
    wait_until(lambda: (model_dir / "checkpoints" / "4").exists(), both)
    # Larger files are cut short, with an error. What the process prints lies in a file too, and has room.
    resource.prlimit(both[0].pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    go_on(model_dir)
    codes, errors = ends(both)
    assert codes == [1, 1], errors
    for said in errors:
        (line,) = [line for line in said.splitlines() if line.startswith(LINE) and "could not be written" in line]
        assert "/checkpoints: a checkpoint (the newest whole one stays) could not be written" in line
    steps = sorted(int(path.name) for path in (model_dir / "checkpoints").iterdir() if path.name.isdigit())
    assert steps and steps[-1] < 24
    for step in steps:
        assert saved_params(model_dir, step)["model"]["embedding"].shape == (64, 32)


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ({}, {"steps": 27}, "Recipe.stages[0].steps is 8 on process 0"),
        ({}, {"text": 5}, "first rows.align/align_lm is"),
        ({"ties": 20}, {"ties": 21}, "pretrain/Stage.parametrization is"),
    ],
)
def test_hosts_that_do_not_agree(tmp_path, first, other, said):
    codes, errors = ends(pair(tmp_path / "run", of_second=other, **first))
    assert codes == [2, 2]
    assert all(f"xalign: the processes of this run do not agree: {said}" in error for error in errors)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_second_run_in_the_same_directory_is_refused_and_the_first_goes_on(tmp_path):
    model_dir = tmp_path / "run"
    first = spawn(model_dir, pause=11, renew_seconds=0.5)
    wait_until((model_dir / "lock.json").exists, [first])
    codes, (said,) = ends([spawn(model_dir)])
    assert codes != [0] and f"process {first.pid} on " in said and "is training there" in said
    assert said.splitlines()[-1].startswith(LINE) and "Traceback" not in said
    first.send_signal(signal.SIGTERM)
    go_on(model_dir)
    codes, _ = ends([first])
    assert codes == [3]
    assert not (model_dir / "lock.json").exists()
