"""Trackers get a run's metrics and the results of its probes, and continue after a restart."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from types import SimpleNamespace
from typing import ClassVar

import gin
import pytest
from etils import epath

from xalign_jax.errors import RunError, UserError
from xalign_jax.evaluation.encode import row
from xalign_jax.interfaces import Tracker, Tracking
from xalign_jax.recipe import Runtime
from xalign_jax.runtime import trackers
from xalign_jax.runtime.logs import MetricsLog


@gin.configurable(module="test_trackers")
@dataclasses.dataclass(frozen=True)
class Noted(Tracker):
    """Keeps what it is told; fails at a step if asked to."""

    fails: int = -1
    told: ClassVar[list] = []

    def start(self, run):
        self.told.append(("start", run.id, run.step, run.config.get("seed")))
        return NotedRun(self)


class NotedRun(Tracking):
    def __init__(self, tracker):
        self.tracker = tracker

    def log(self, step, values):
        if step == self.tracker.fails:
            raise ConnectionError("the network\nis gone")
        self.tracker.told.append((step, dict(values)))

    def finish(self):
        self.tracker.told.append("finish")


@pytest.fixture
def folder(tmp_path):
    Noted.told.clear()
    (tmp_path / "environment.json").write_text(json.dumps({"run_id": "0123456789ab", "recipe": {"seed": 3}}))
    return epath.Path(tmp_path)


def _logged(folder, step, *chosen, name="toy, seed 3"):
    log = MetricsLog(folder, step, chosen, name)
    log.write("pretrain", step + 1, {"loss": 2.0})
    log.results(step + 1, [row("ppl", "x", 5.0, 9, language="en", level=2), row("ppl", "x", float("nan"), 9)][:1])
    log.sync()
    log.close()


def test_metrics_and_results_go_to_each_tracker_and_the_id_stays(folder):
    _logged(folder, 0, Noted(), trackers.TensorBoard())
    _logged(folder, 1, Noted())
    values = {"probes/ppl/x/en/2": 5.0}
    first = [("start", "0123456789ab", 0, 3), (1, {"loss": 2.0}), (1, values), "finish"]
    assert Noted.told == [*first, ("start", "0123456789ab", 1, 3), (2, {"loss": 2.0}), (2, values), "finish"]
    assert len(list(folder.glob("events.out.*"))) == 1
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_values_that_are_null_are_left_out():
    rows = [row("ppl", "x", 5.0, 9, split="heldout", control="untrained"), {**row("ppl", "y", 1.0, 9), "value": None}]
    assert trackers.of_rows(rows) == {"probes/ppl/x/heldout/untrained": 5.0}


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(folder, capsys):
    _logged(folder, 0, Noted(fails=1), trackers.TensorBoard())
    assert Noted.told == [("start", "0123456789ab", 0, 3)]
    said = capsys.readouterr().err
    assert said == "xalign: Noted gets no more numbers of this run: the network is gone\n"
    assert (folder / "metrics.jsonl").read_text().count("\n") == 1


def test_the_default_is_tensorboard_alone():
    assert trackers.chosen(Runtime()) == (trackers.TensorBoard(),) and trackers.chosen(Runtime(trackers=[])) == ()
    for wrong in ("TensorBoard", (trackers.TensorBoard,), (3,), trackers.TensorBoard()):
        with pytest.raises(UserError, match=r"^Runtime\.trackers"):
            Runtime(trackers=wrong)
    with pytest.raises(UserError, match=r"^Wandb\.mode = 'on'"):
        trackers.Wandb(mode="on")


@pytest.mark.parametrize("tracker", [trackers.Wandb(), trackers.Trackio()])
def test_a_missing_package_is_one_line_with_the_command(tracker, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    name = type(tracker).__name__
    with pytest.raises(UserError, match=rf"^Runtime\.trackers: {name} needs .*: pip install {name.lower()}, or "):
        tracker.check()


def test_what_each_library_is_told(folder, monkeypatch):
    told = []

    def fake(name):
        own = SimpleNamespace(
            log=lambda values, **about: told.append((name, values, about)),
            finish=lambda: told.append((name, "finish")),
            define_metric=lambda *names, **about: told.append((name, names, about)),
        )
        return SimpleNamespace(init=lambda **settings: told.append((name, settings)) or own)

    monkeypatch.setitem(sys.modules, "wandb", fake("wandb"))
    monkeypatch.setitem(sys.modules, "trackio", fake("trackio"))
    _logged(folder, 4, trackers.Wandb("p", mode="offline"), trackers.Trackio("p"))
    started = {name: settings for name, settings, *_ in told if isinstance(settings, dict) and "project" in settings}
    assert started["wandb"] == {
        "project": "p", "entity": None, "mode": "offline", "resume": "allow", "config": {"seed": 3}, "dir": str(folder),
        "name": "toy, seed 3", "id": "0123456789ab",
    }  # fmt: skip
    assert started["trackio"] == {
        "project": "p", "name": "toy, seed 3-0123456789ab", "space_id": None, "config": {"seed": 3}, "resume": "allow",
    }  # fmt: skip
    assert ("wandb", {"loss": 2.0, "step": 5}, {}) in told and ("trackio", {"loss": 2.0}, {"step": 5}) in told
    assert [name for name, what, *_ in told if what == "finish"] == ["wandb", "trackio"]


def test_a_library_that_does_not_start_is_one_line(folder, monkeypatch):
    def init(**settings):
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(RunError, match=r"^Wandb does not start \(api_key not configured \(no-tty\)\); take it out"):
        _logged(folder, 0, Noted(), trackers.Wandb())
    assert Noted.told[-1] == "finish"


def test_the_real_wandb_offline(folder, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _logged(folder, 0, trackers.Wandb(mode="offline"))
    _logged(folder, 1, trackers.Wandb(mode="offline"))
    runs = [path.name for path in (folder / "wandb").iterdir() if path.name.startswith("offline-run")]
    assert runs and all(name.endswith("-0123456789ab") for name in runs)


def test_the_real_trackio(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TRACKIO_DIR", os.fspath(tmp_path_factory.mktemp("trackio")))
    trackio = pytest.importorskip("trackio")
    for step in (0, 1):
        _logged(folder, step, trackers.Trackio())
    (run,) = trackio.Api().runs("xalign_jax")
    assert run.name == "toy, seed 3-0123456789ab"
