"""Preparing on Beam's direct runner: the bytes that `prepare` writes alone, and errors in one line.

Beam refuses some of the versions in constraints.txt, so it needs an environment of its own: docs/data.md, "Beam".
"""

from __future__ import annotations

import filecmp
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store import prepare, shards
from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, Vocabulary
from xalign_jax.errors import RunError, UserError
from xalign_jax.preparing import open_task

pytest.importorskip("apache_beam", reason="Beam needs an environment of its own: docs/data.md")
from xalign_jax.data.store import beam

MEMORY = ("--runner=DirectRunner",)
PROCESSES = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
BYTES = Vocabulary(kind="bytes")
# A process that prepares on Beam, and kills itself when it has written a number of shards.
KILLED = """
import os, signal, sys
from xalign_jax import preparing
from xalign_jax.data.store import beam, prepare, shards
from xalign_jax.data.store.store import Texts, Vocabulary
shards._BATCH_DOCUMENTS = 16
cache, most, *tasks = sys.argv[1:]
write, written = shards.Shards.write, []
def counted(self, *arguments):
    if len(written) == int(most):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, *arguments)
    written.append(arguments)
shards.Shards.write = counted
engine = beam.engine(["--runner=DirectRunner"])
prepare.run(Texts(Vocabulary(kind="bytes"), tasks, cache), [], preparing.open_task, engine)
"""


@pytest.fixture
def tasks(tmp_path) -> list[str]:
    """Two tasks of 4,500 texts: groups, fields, repeated texts, and validation texts that the other task trains on."""
    english = [f"p{i}\tThe page  number {i % 2500} is here{'.' * (i % 3)}" for i in range(3000)]
    other = [f"p{i}\t第{i}页 Straße \u0130 {'ß' * (i % 7)}" for i in range(0, 3000, 2)]
    (tmp_path / "en.tsv").write_text("\n".join(english), encoding="utf-8")
    (tmp_path / "zh.tsv").write_text("\n".join(other), encoding="utf-8")
    rows = [{"text": f"the PAGE number {i} is here", "kind": f"k{i % 5}", "who": [[4, 8, "P"]]} for i in range(4500)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [f"tsv:en={tmp_path}/en.tsv,zh={tmp_path}/zh.tsv", f"jsonl:en={tmp_path}/a.jsonl,label=kind,spans=who"]


@pytest.fixture
def small(monkeypatch):
    """A shard is a batch; one process."""
    monkeypatch.setenv("XALIGN_SHARD", "1")
    monkeypatch.setenv("XALIGN_JOBS", "1")


def on_beam(texts: Texts, modules: tuple[str, ...] = (), options: tuple[str, ...] = MEMORY) -> None:
    run(texts, modules, open_task, beam.engine(options))


def files(cache: Path) -> list[Path]:
    """All files of a cache but its index, which holds times."""
    found = (path.relative_to(cache) for path in cache.rglob("*") if path.is_file())
    return sorted(path for path in found if path.parts[0] not in ("index", "lock"))


def check_same(cache: Path, other: Path) -> None:
    """Two caches hold the same bytes."""
    assert files(cache) == files(other)
    different = [path for path in files(cache) if not filecmp.cmp(cache / path, other / path, shallow=False)]
    assert not different


@pytest.mark.parametrize("options", [MEMORY, PROCESSES], ids=["memory", "processes"])
def test_stores_are_those_of_preparing_alone(tasks, options, small, tmp_path):
    alone, engine = (Texts(BYTES, tasks, tmp_path / name) for name in ("alone", "engine"))
    run(alone, [], open_task)
    on_beam(engine, options=options)
    info = [json.loads(path.read_bytes()) for path in (tmp_path / "engine").glob("stores/*/store.json")]
    assert sorted(one["dropped_as_validation_text"] > 0 for one in info) == [True, True]
    check_same(tmp_path / "alone", tmp_path / "engine")
    assert {path.name for path in (tmp_path / "engine").iterdir()} == {"index", "lock", "stores", "vocabularies"}


def test_a_trained_vocabulary_and_cleaned_texts(tasks, small, tmp_path):
    vocabulary, cleaning = Vocabulary(size=400), Cleaning(shortest=16, near=0.9)
    alone, engine = (Texts(vocabulary, tasks, tmp_path / name, cleaning) for name in ("alone", "engine"))
    run(alone, [], open_task)
    on_beam(engine)
    assert len([*(tmp_path / "engine").glob("stores/*/cleaning.json")]) == 2
    check_same(tmp_path / "alone", tmp_path / "engine")


MODULE = """
import seqio, tensorflow as tf
from xalign_jax import tasks
tasks.register_tsv("own_tsv", {"en": "%(folder)s/en.tsv"})
def rows(split, shuffle_files, seed=None):
    return tf.data.Dataset.range(50 if split == "train" else 5).map(lambda i: {"text": tf.strings.as_string(i)})
seqio.TaskRegistry.add(
    "own_rows", seqio.FunctionDataSource(rows, ["train", "validation"]), preprocessors=[],
    output_features={"text": seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, rank=0, dtype=tf.string)},
)
"""


def test_seqio_tasks_of_a_module(tasks, small, tmp_path, monkeypatch):
    (tmp_path / "own_beam.py").write_text(MODULE % {"folder": tmp_path})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # workers are other processes
    monkeypatch.syspath_prepend(tmp_path)
    alone, engine = (Texts(BYTES, ["own_tsv", "own_rows"], tmp_path / name) for name in ("alone", "engine"))
    run(alone, ["own_beam"], open_task)
    on_beam(engine, ("own_beam",), PROCESSES)
    check_same(tmp_path / "alone", tmp_path / "engine")


def test_shards_are_those_of_preparing_alone(tasks, small, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise OSError("stop")

    monkeypatch.setattr(prepare, "assemble", stop)
    alone, engine = (Texts(BYTES, tasks[:1], tmp_path / name) for name in ("alone", "engine"))
    with pytest.raises(OSError, match="stop"):
        run(alone, [], open_task)
    with pytest.raises(RunError, match=r"the pipeline failed: .*stop"):
        on_beam(engine)
    assert len([*(tmp_path / "engine").glob("partial/*/*/shard.json")]) >= 5
    check_same(tmp_path / "alone", tmp_path / "engine")


@pytest.mark.parametrize("again", ["alone", "beam"])
def test_a_killed_pipeline_is_finished(tasks, again, small, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_BATCH_DOCUMENTS", 16)
    run(Texts(BYTES, tasks, tmp_path / "alone"), [], open_task)
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cache"), "40", *tasks], timeout=300)
    assert process.returncode == -signal.SIGKILL
    there = {path.parent for path in (tmp_path / "cache").glob("partial/*/*/shard.json")}
    assert len(there) == 40
    written = []
    write = shards.Shards.write
    monkeypatch.setattr(shards.Shards, "write", lambda self, *a: written.append(self.place(*a[:2])) or write(self, *a))
    texts = Texts(BYTES, tasks, tmp_path / "cache")
    if again == "alone":
        run(texts, [], open_task)
    else:
        on_beam(texts)
    # Whole shards are used, and all others are made.
    assert len(written) > 40 and not there & set(written)
    shutil.rmtree(tmp_path / "cache" / "partial", ignore_errors=True)  # the killed process had a folder there
    check_same(tmp_path / "alone", tmp_path / "cache")


def test_shards_of_another_text_are_deleted(tasks, small, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_BATCH_DOCUMENTS", 16)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cache"), "40", tasks[0]], timeout=300)
    there = sorted((tmp_path / "cache").glob("partial/*/train-*"))
    shutil.rmtree(there[1])
    there[2].rename(there[1])
    texts = Texts(BYTES, tasks[:1], tmp_path / "cache")
    with pytest.raises(RunError, match=r"its text has changed; its shards are deleted: start again$"):
        on_beam(texts)
    on_beam(texts)
    run(Texts(BYTES, tasks[:1], tmp_path / "alone"), [], open_task)
    shutil.rmtree(tmp_path / "cache" / "partial", ignore_errors=True)  # the killed process had a folder there
    check_same(tmp_path / "alone", tmp_path / "cache")


def test_a_worker_with_another_folder_as_cache_is_an_error(tasks, small, tmp_path, monkeypatch):
    """Here the folder is gone that workers look for, as on a machine of its own."""
    check = beam.Shared.check
    monkeypatch.setattr(beam.Shared, "check", lambda self: self.mark.rmdir() or check(self))
    with pytest.raises(RunError, match=r"cache on the worker .* is not the folder of .*all workers share$"):
        on_beam(Texts(BYTES, tasks[:1], tmp_path / "cache"))


def test_a_worker_that_writes_elsewhere_is_an_error(tasks, small, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "make", lambda *_: None)
    with pytest.raises(RunError, match=r"the pipeline has ended, but .*: missing or damaged; all workers must share"):
        on_beam(Texts(BYTES, tasks[:1], tmp_path / "cache"))


def test_a_worker_with_another_text_or_version_is_an_error(tasks, small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"has numpy 0\.1, and the machine that started"):
        versions = iter([prepare.versions()])
        patch.setattr(beam, "versions", lambda: next(versions, {"numpy": "0.1"}))
        on_beam(Texts(BYTES, tasks[:1], tmp_path / "cache"))
    opened = beam.open_tasks

    def changed(*arguments):
        with open(tmp_path / "en.tsv", "a") as file:
            file.write("\nnew\ta new line")
        return opened(*arguments)

    monkeypatch.setattr(beam, "open_tasks", changed)
    with pytest.raises(RunError, match="finds another text than the machine that started the pipeline; put the text"):
        on_beam(Texts(BYTES, tasks[:1], tmp_path / "cache"))


@pytest.mark.parametrize("options", [MEMORY, PROCESSES], ids=["memory", "processes"])
def test_bad_text_is_one_line(options, small, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good\n\0bad\n" * 3)
    with pytest.raises(UserError, match=r"^[^\n]*bad.txt:2: a NUL byte, which no text has: [^\n]*in UTF-16$"):
        on_beam(Texts(BYTES, [f"lines:en={tmp_path}/bad.txt"], tmp_path / "cache"), options=options)
    assert not [*(tmp_path / "cache" / "partial").glob("beam-*")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--direct_num_workers=two", r"^--pipeline_options: argument --direct_num_workers: invalid int value: 'two'$"),
        ("--runner=NoRunner", r"^--pipeline_options: Unexpected pipeline runner: NoRunner. Valid values are .*Direct"),
    ],
)
def test_bad_options_are_named(option, message):
    with pytest.raises(UserError, match=message):
        beam.engine([option])
