"""A run whose model directory is a bucket: checkpoints, logs, a restart, and storage that fails during the run."""

from __future__ import annotations

import json

import pytest
from runtime import gcs
from training.runs import finish, metrics, spawn

pytest.importorskip("gcsfs")


@pytest.fixture
def server(monkeypatch):
    """A bucket server for the processes that the test starts."""
    server = gcs.serve()
    for name, value in gcs.environment(server).items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()


def train(**options):
    process = spawn("gs://bucket/run", steps=12, **options)
    _, errors = process.communicate(timeout=280)
    return process.returncode, errors


def whole_steps(server):
    return {int(name.split("/")[2]) for name in server.objects if name.count("/") == 3 and "commit_success" in name}


def test_a_refusal_in_the_middle_of_a_save_is_one_line_and_the_run_goes_on_from_the_last_whole_step(server):
    server.refuses = lambda name: "/8/params/" in name and "ocdbt" in name
    code, errors = train()
    assert code == 1
    assert errors.splitlines()[-1].startswith("xalign: gs://bucket/run/checkpoints: a checkpoint (the newest whole one")
    assert whole_steps(server) == {4}
    assert "run/lock.json" not in server.objects
    server.refuses = lambda name: False
    code, errors = train()
    assert code == 0, errors
    assert whole_steps(server) == {8, 12}
    rows = [json.loads(line) for line in server.objects["run/metrics.jsonl"][0].splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {"run/config.gin", "run/results.json", "run/vocabulary/vocabulary.json"} <= server.objects.keys()
    assert sum("tfevents" in name for name in server.objects) == 2


def test_a_run_starts_from_parameters_in_a_bucket_as_from_those_on_a_disk(server, tmp_path):
    finish(spawn("gs://bucket/run", steps=6), spawn(tmp_path / "run", steps=6))
    starts = {"a": "gs://bucket/run", "b": tmp_path / "run"}
    finish(*(spawn(tmp_path / name, steps=3, init_from=start) for name, start in starts.items()))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    read = json.loads((tmp_path / "a" / "environment.json").read_text())["inputs"]
    assert read["Recipe.init_from, step 6"][0] == "gs://bucket/run"


def test_a_bucket_without_a_run_is_named(server, tmp_path):
    process = spawn(tmp_path / "run", steps=3, init_from="gs://bucket/none")
    _, errors = process.communicate(timeout=280)
    assert process.returncode != 0
    assert errors.splitlines()[-1].startswith("xalign: Recipe.init_from = 'gs://bucket/none': no vocabulary there")
