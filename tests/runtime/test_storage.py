"""Model directories in object stores: what is written there, when, and what happens when it cannot be."""

from __future__ import annotations

import json
import sys

import pytest
from etils import epath
from etils.epath import backend
from runtime.buckets import Bucket, use_buckets

from xalign_jax.errors import RunError, UserError
from xalign_jax.records import files as records
from xalign_jax.runtime import logs, storage
from xalign_jax.runtime.cluster import lock

ROW = {"stage": "align", "step": 3, "probe": "toy", "metric": "sum"}


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    use_buckets(monkeypatch, tmp_path)
    yield tmp_path / "bucket"
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_metrics_are_appended_across_restarts(bucket):
    where, before = "gs://bucket/run", "tensorflow" in sys.modules
    directory = storage.model_directory(where)
    log = logs.MetricsLog(directory, 0)
    for step in (1, 2, 3):
        log.write("align", step, {"loss": 1 / step})
    assert not (bucket / "run" / "metrics.jsonl").exists()
    log.sync()
    log.close()
    again = logs.MetricsLog(storage.model_directory(where), 2)
    again.write("align", 3, {"loss": 9.0})
    again.close()
    rows = [json.loads(line) for line in (bucket / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert len(list((bucket / "run").glob("events.*"))) >= 1
    assert ("tensorflow" in sys.modules) == before


def test_results_lock_and_folders_lie_in_the_bucket(bucket):
    directory = storage.model_directory("gs://bucket/run")
    logs.write_results(directory, [ROW | {"value": 1.5}])
    assert records.read_results(directory)[0]["value"] == 1.5
    with lock.hold(directory, print):
        assert (bucket / "run" / "lock.json").is_file()
    with storage.as_local(directory) as folder:
        assert (folder / "results.json").is_file() and not (folder / "lock.json").exists()
        (folder / "report.md").write_text("# Report")
    assert (bucket / "run" / "report.md").read_text() == "# Report"


def test_a_failing_store_leaves_what_was_there(bucket):
    directory = storage.model_directory("gs://bucket/run")
    logs.write_results(directory, [ROW | {"value": 1}])
    Bucket.writes_left = 0
    with pytest.raises(RunError, match=r"gs://bucket/run/results.json could not be written: 503 Service Unavailable"):
        logs.write_results(directory, [ROW | {"value": 2}])
    assert records.read_results(directory)[0]["value"] == 1
    log = logs.MetricsLog(directory, 0)
    log.write("align", 1, {"loss": 1.0})
    with pytest.raises(RunError, match="could not be written: 503"):
        log.sync()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("ftp://host/run", "expected a folder or gs://BUCKET/FOLDER"),
        ("s3://bucket/run", "expected a folder or gs://BUCKET/FOLDER"),
        ("gs://bucket/run", "pip install gcsfs"),
    ],
)
def test_stores_that_cannot_be_had(monkeypatch, where, said):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(UserError, match=said):
        storage.model_directory(where)


def test_a_folder_that_cannot_be_made_or_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for where, said in (
        (tmp_path / "file", r"--model_dir=\S+/file: \S+/file is a file; choose another folder"),
        (tmp_path / "file" / "run", r"--model_dir=\S+/file/run: \S+/file is a file"),
        (tmp_path / ("x" * 300), r"File name too long"),
    ):
        with pytest.raises(UserError, match=said):
            storage.model_directory(str(where))
    monkeypatch.setattr(storage.os, "access", lambda *_: False)  # root may write everywhere
    for where in (tmp_path / "folder", tmp_path / "folder" / "run"):
        with pytest.raises(UserError, match=r"/folder cannot be written; choose another folder"):
            storage.model_directory(str(where))
    assert not list((tmp_path / "folder").iterdir())


def test_a_damaged_folder_of_a_bucket_is_moved(bucket):
    folder = storage.model_directory("gs://bucket/run/checkpoints/8")
    (folder / "params" / "d").mkdir(parents=True)
    (folder / "params" / "d" / "array").write_bytes(b"values")
    storage.move(folder, folder.parent / "damaged" / "8")
    assert (bucket / "run" / "checkpoints" / "damaged" / "8" / "params" / "d" / "array").read_bytes() == b"values"
    assert not folder.exists()


def test_a_local_directory_is_a_path(tmp_path):
    path = storage.model_directory(str(tmp_path / "run"))
    assert not storage.is_remote(path)
    with storage.as_local(path) as folder:
        assert folder == tmp_path / "run" and folder.is_dir()
    storage.write_atomically(path / "file", "text")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["file"]
    assert isinstance(path, epath.Path)
