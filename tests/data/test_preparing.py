"""What preparing writes: the same bytes as ever, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from xalign_jax.data.store import assemble, prepare, shards, workers
from xalign_jax.data.store.columns import Encoder
from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores
from xalign_jax.errors import UserError
from xalign_jax.preparing import open_task

BYTES = Vocabulary(kind="bytes")
# Hashes of the corpus below, made before shards and worker processes existed. Recorded runs depend on them.
FINGERPRINT = "43307dd0dcc5f8594270332b"
ARRAYS = {
    ("train", "en"): 2756219804,
    ("train", "zh"): 3077951768,
    ("validation", "en"): 1869368681,
    ("validation", "zh"): 1362049729,
}
# A process that prepares as in `small`. It kills itself when it has written a number of shards.
PROCESS = """
import fcntl, os, signal, sys
from xalign_jax import preparing
from xalign_jax.data.store import prepare, shards, workers
from xalign_jax.data.store.store import Texts, Vocabulary
shards._BATCH_DOCUMENTS, workers._ALONE = 16, 0
task, cache, most, lock = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
write, written = shards.Shards.write, []
def counted(self, *arguments):
    if len(written) == most:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, *arguments)
    written.append(arguments)
shards.Shards.write = counted
if lock == "none":
    def flock(*_):
        raise OSError("no locks")
    fcntl.flock = flock
prepare.run(Texts(Vocabulary(kind="bytes"), [task], cache), [], preparing.open_task)
"""


@pytest.fixture
def task(tmp_path) -> str:
    """A task of 600 texts in two languages: groups, repeated texts, other cases and spaces, scripts of several bytes."""
    english = [f"p{i}\tThe page  number {i % 250} is here{'.' * (i % 3)}" for i in range(300)]
    other = [f"p{i}\t第{i}页 Straße \u0130 {'ß' * (i % 7)}" for i in range(0, 600, 2)]
    (tmp_path / "en.tsv").write_text("\n".join(english), encoding="utf-8")
    (tmp_path / "zh.tsv").write_text("\n".join(other), encoding="utf-8")
    return f"tsv:en={tmp_path}/en.tsv,zh={tmp_path}/zh.tsv"


@pytest.fixture
def small(monkeypatch):
    """Batches of 16 texts, shards of about 1,000 characters, and one process."""
    monkeypatch.setattr(shards, "_BATCH_DOCUMENTS", 16)
    monkeypatch.setenv("XALIGN_SHARD", "1000")
    monkeypatch.setenv("XALIGN_JOBS", "1")


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The sizes of the batches that this process tokenises."""
    sizes: list[int] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, batch: sizes.append(len(batch)) or encode(self, batch))
    return sizes


def check(task: str, cache: Path) -> None:
    """The store is the one that it has always been, and nothing else is left."""
    found = {}
    for split, languages in open_stores(Texts(BYTES, [task], cache), task).items():
        for language, store in languages.items():
            assert store.fingerprint == FINGERPRINT
            arrays = (store.tokens, store.offsets, store.group, store.text_hash, store.utf8_bytes)
            found[split, language] = zlib.crc32(b"".join(f"{a.dtype}".encode() + a.tobytes() for a in arrays))
    assert found == ARRAYS
    assert {path.name for path in cache.iterdir()} == {"index", "lock", "stores", "vocabularies"}
    assert len([*(cache / "stores").iterdir()]) == 1


def start(task: str, cache: Path, most: int = -1, lock: str = "flock") -> subprocess.Popen:
    """A process that prepares."""
    command = [sys.executable, "-c", PROCESS, task, str(cache), str(most), lock]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def killed(task: str, cache: Path, most: int) -> None:
    """Prepare in a process that is killed after `most` shards."""
    process = start(task, cache, most)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def prepare_here(task: str, cache: Path) -> None:
    run(Texts(BYTES, [task], cache), [], open_task)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_store_is_what_it_was_whatever_the_number_of_processes(task, count, small, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_ALONE", 0)
    monkeypatch.setenv("XALIGN_JOBS", str(count))
    prepare_here(task, tmp_path / "cache")
    check(task, tmp_path / "cache")


def test_a_store_of_one_shard_is_what_it_was(task, tmp_path):
    prepare_here(task, tmp_path / "cache")
    check(task, tmp_path / "cache")


def test_tokens_are_gathered_in_chunks(task, small, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "_CHUNK", 50)
    prepare_here(task, tmp_path / "cache")
    check(task, tmp_path / "cache")


def test_a_killed_preparation_goes_on(task, small, encoded, tmp_path):
    prepare_here(task, tmp_path / "whole")
    total = sum(encoded)
    encoded.clear()
    killed(task, tmp_path / "cache", 5)
    made = [path for path in (tmp_path / "cache").glob("partial/*/*") if not path.name.startswith(".")]
    there = sum(len(np.load(path / "kept.npy")) for path in made)
    assert len(made) == 5 and there > 100
    prepare_here(task, tmp_path / "cache")
    assert sum(encoded) == total - there
    check(task, tmp_path / "cache")


def test_a_preparation_that_is_killed_at_its_end_tokenises_nothing_again(task, small, encoded, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "assemble", stop)
        prepare_here(task, tmp_path / "cache")
    left = tmp_path / "cache" / "stores"
    assert not [*left.iterdir()]
    encoded.clear()
    prepare_here(task, tmp_path / "cache")
    assert not encoded
    check(task, tmp_path / "cache")


def test_what_a_killed_process_left_is_deleted(task, small, tmp_path):
    prepare_here(task, tmp_path / "cache")
    (store,) = (tmp_path / "cache" / "stores").iterdir()
    left = store.with_name(f".{store.name}.{os.uname().nodename}.999999999")
    store.rename(left)
    prepare_here(task, tmp_path / "cache")
    assert not left.exists()
    check(task, tmp_path / "cache")


@pytest.mark.parametrize("name", ["tokens.npy", "kept.npy", "shard.json", "key.npy"])
def test_a_flipped_byte_in_a_shard_is_found(task, name, small, encoded, tmp_path, capfd):
    killed(task, tmp_path / "cache", 5)
    shard = sorted((tmp_path / "cache").glob("partial/*/train-*"))[1]
    content = bytearray((shard / name).read_bytes())
    content[len(content) // 2] ^= 1
    (shard / name).write_bytes(content)
    prepare_here(task, tmp_path / "cache")
    assert f"{shard / name}: damaged (not the bytes that were written); making it again" in capfd.readouterr().err
    check(task, tmp_path / "cache")


def test_shards_of_another_text_are_not_used(task, small, tmp_path, monkeypatch, capfd):
    """Only a task that gives other texts than its fingerprint says has such shards."""
    killed(task, tmp_path / "cache", 5)
    (folder,) = (tmp_path / "cache" / "partial").iterdir()
    for shard in ("train-000001", "train-000002"):
        shutil.move(folder / shard, folder / f"{shard}.moved")
    shutil.move(folder / "train-000001.moved", folder / "train-000002")
    prepare_here(task, tmp_path / "cache")
    assert f"{task}: its text has changed; tokenising it again" in capfd.readouterr().err
    check(task, tmp_path / "cache")


@pytest.mark.parametrize("lock", ["flock", "none"])
def test_two_prepare_at_once(task, lock, small, tmp_path):
    """On a file system without locks both work, and the first to finish wins."""
    both = [start(task, tmp_path / "cache", lock=lock) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    check(task, tmp_path / "cache")


@pytest.mark.parametrize("good", [0, 3, 40])
def test_a_full_disk_loses_nothing_but_the_shard_in_hand(task, good, small, encoded, tmp_path, monkeypatch):
    """The disk is full after `good` arrays."""
    save, saved = np.save, []

    def full(file, values):
        saved.append(file)
        if len(saved) > good:
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        save(file, values)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(np, "save", full)
        prepare_here(task, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob(".*")]
    there = sum(len(np.load(file)) for file in (tmp_path / "cache").glob("partial/*/*/kept.npy"))
    tried = sum(encoded)
    prepare_here(task, tmp_path / "cache")
    assert there >= (good // 10) * 16
    assert sum(encoded) - tried == 600 - there
    check(task, tmp_path / "cache")


def test_a_worker_that_is_killed_is_an_error(task, small, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_ALONE", 0)
    monkeypatch.setenv("XALIGN_JOBS", "2")
    monkeypatch.setattr(workers, "_SERVE", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ChildProcessError, match="set XALIGN_JOBS to a smaller number"):
        prepare_here(task, tmp_path / "cache")


def test_a_vocabulary_without_text_is_refused_by_workers_too(task, small, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_ALONE", 0)
    monkeypatch.setenv("XALIGN_JOBS", "2")
    (tmp_path / "ids.json").write_text('{"size": 300, "specials": {"eos": 1}}')
    texts = Texts(Vocabulary(kind="ids", path=str(tmp_path / "ids.json")), [task], tmp_path / "cache")
    with pytest.raises(UserError, match="token ids only"):
        run(texts, [], open_task)


@pytest.mark.parametrize(("name", "value"), [("XALIGN_JOBS", "0"), ("XALIGN_JOBS", "two"), ("XALIGN_SHARD", "-1")])
def test_bad_settings_are_named(task, name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name} = '{value}': expected"):
        prepare_here(task, tmp_path / "cache")


def test_old_shards_are_deleted(task, small, tmp_path):
    killed(task, tmp_path / "cache", 3)
    (old,) = (tmp_path / "cache" / "partial").iterdir()
    os.utime(old, (0, 0))
    (tmp_path / "en.tsv").write_text("1\tother\n2\tagain\n")
    prepare_here(task, tmp_path / "cache")
    assert not old.exists()


def test_workers_start_without_jax():
    """Each worker would spend most of a second on it."""
    code = "import sys, xalign_jax.data.store.workers; sys.exit('jax' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
