"""`--profile` traces steps of each stage and changes nothing else; what cannot be traced is said in a line."""

from __future__ import annotations

import contextlib
import shutil

import jax
import pytest
from training import toy
from training.runs import metrics

from xalign_jax import cli
from xalign_jax.errors import UserError
from xalign_jax.recipe import Runtime
from xalign_jax.runtime import storage
from xalign_jax.training import train
from xalign_jax.training.tracing import RESULT, WARM, Profile, Traced, Tracer

STEPS = 15  # 5 of `align` and 10 of `pretrain`


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    monkeypatch.setattr(train.stages, "prepare_data", train.stages.prepare_data)
    monkeypatch.setattr(train.stages, "load_data", train.stages.load_data)
    monkeypatch.setattr(train.stages, "blank_data", train.stages.blank_data)
    toy.use_toy_data()


class Report:
    """A report that keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Traced] = []

    def __call__(self, traced: Traced) -> str:
        self.given.append(traced)
        (traced.folder / RESULT).write_text("{}")
        return f"report of {traced.stage}"


def run(folder, steps=None, report=None):
    profile = None if steps is None else Profile(steps, report or Report())
    runtime = Runtime(mesh=(1, 8, 1), log_every=1, checkpoint_every=100)
    train.train(toy.recipe(STEPS), runtime, storage.model_directory(str(folder)), "toy", profile=profile)


def test_a_trace_of_each_stage_with_enough_steps(tmp_path, capsys):
    run(tmp_path / "plain")
    report = Report()
    run(tmp_path / "traced", 5, report)
    (traced,) = report.given
    assert (traced.stage, traced.first_step, traced.steps) == ("pretrain", 5 + WARM + 1, 5)
    assert traced.seconds > 0 and traced.seconds_before > 0
    assert traced.program.startswith("HloModule jit_update") and "attention/attend" in traced.program
    folder = tmp_path / "traced" / "profile" / "pretrain"
    assert traced.folder == folder and len([*folder.glob("plugins/profile/*/*.xplane.pb")]) == 1
    said = capsys.readouterr()
    assert "--profile=5: too few steps, not traced: align has 5" in said.err
    assert f"report of pretrain\nThe trace: tensorboard --logdir={folder}" in said.out
    # Nothing else has changed, to the bit.
    assert metrics(tmp_path / "traced") == metrics(tmp_path / "plain")


def test_a_stage_is_traced_once(tmp_path, capsys):
    """A run that was interrupted repeats its command."""
    report = Report()
    for _ in range(2):
        run(tmp_path, 7, report)
        shutil.rmtree(tmp_path / "checkpoints")
    assert len(report.given) == 1
    assert f"--profile: {tmp_path}/profile/pretrain has a trace of this stage, which stays" in capsys.readouterr().err


def test_more_steps_than_are_left_are_refused(tmp_path):
    most = 10 - WARM
    with pytest.raises(UserError, match=rf"--profile=8: too few .* pretrain has 10; at most --profile={most}$"):
        run(tmp_path, most + 1)
    assert not (tmp_path / "environment.json").exists() and not (tmp_path / "profile").exists()
    run(tmp_path)
    with pytest.raises(UserError, match=r"--profile=1: too few .* pretrain has 0; leave out --profile$"):
        run(tmp_path, 1)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
def test_a_number_of_steps_is_at_least_one(value, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--gin_file=a.gin", "--model_dir=b", f"--profile={value}"])
    assert stopped.value.code == cli.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument --profile: {value!r} is not a number from 1 on" in line


def test_a_run_that_stops_within_a_trace_ends_it(tmp_path):
    planned = train.stages.plan(toy.recipe(STEPS), toy.SimpleNamespace(tokenizer=toy.ids()))[0]
    meter = toy.SimpleNamespace(paused=contextlib.nullcontext)
    with (
        pytest.raises(KeyError),
        Tracer(Profile(1, Report()), planned, 0, storage.model_directory(str(tmp_path)), meter) as it,
    ):
        for at in range(1, WARM + 1):
            it.after(at, jax.numpy.zeros(()), str)
        raise KeyError
    # Only one trace can run at a time, so that this one would fail.
    with jax.profiler.trace(tmp_path / "other"):
        pass
    assert not (tmp_path / "profile" / "align" / RESULT).exists()
