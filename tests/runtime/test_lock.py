"""One run at a time in a model directory."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading

import pytest
from etils import epath
from waiting import wait_until

from xalign_jax.errors import UserError
from xalign_jax.runtime.cluster import lock
from xalign_jax.runtime.storage import write_atomically


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)


def leave(directory, **changes):
    """A lock as a run would leave it that was killed."""
    left = {"token": "old", "host": socket.gethostname(), "pid": os.getpid(), "renewed": 3} | changes
    write_atomically(epath.Path(directory) / "lock.json", json.dumps(left))


@contextlib.contextmanager
def renewing(directory, **changes):
    """Within, another run renews its lock again and again."""
    leave(directory, **changes)
    over = threading.Event()

    def renew():
        for renewed in itertools.count(4):
            if over.wait(0.05):
                return
            leave(directory, renewed=renewed, **changes)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_storage_that_fails_in_a_way_of_its_own_costs_a_renewal_and_not_the_lock(tmp_path, monkeypatch):
    class HttpError(Exception):
        """What a bucket's client raises: neither an OSError nor one of ours."""

    read, failures = lock.read_lock, iter([HttpError("503")] * 3)

    def failing(directory):
        if threading.current_thread().name == "lock of the model directory":
            for error in failures:
                raise error
        return read(directory)

    monkeypatch.setattr(lock, "read_lock", failing)
    path = epath.Path(tmp_path / "run")
    with lock.hold(path, pytest.fail):
        wait_until(lambda: read(path)["renewed"] >= 5)
        assert next(failures, None) is None


def test_held_renewed_and_released(tmp_path):
    path = epath.Path(tmp_path / "run")
    with lock.hold(path, print):
        wait_until(lambda: lock.read_lock(path)["renewed"] >= 2)
        assert lock.read_lock(path)["pid"] == os.getpid()
    assert not (path / "lock.json").exists()


def test_a_living_run_of_another_host_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 60)  # an answer comes with the first renewal, not after this
    with (
        renewing(tmp_path, host="elsewhere", pid=4),
        pytest.raises(UserError, match="process 4 on elsewhere is training there"),
        lock.hold(epath.Path(tmp_path), print),
    ):
        pass
    assert lock.read_lock(epath.Path(tmp_path))["token"] == "old"


def test_a_lock_of_this_host_whose_process_is_gone_is_taken_without_waiting(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(tmp_path, pid=dead.pid)
    monkeypatch.setattr(lock, "_is_renewed", lambda *_: pytest.fail("waits for a process that is gone"))
    with lock.hold(epath.Path(tmp_path), print):
        assert lock.read_lock(epath.Path(tmp_path))["pid"] == os.getpid()


def test_a_lock_of_another_host_that_is_not_renewed_is_taken(tmp_path):
    leave(tmp_path, host="elsewhere")
    with lock.hold(epath.Path(tmp_path), print):
        assert lock.read_lock(epath.Path(tmp_path))["host"] == socket.gethostname()


def test_losing_the_lock_is_noticed(tmp_path):
    lost = []

    def noticed():
        leave(tmp_path, token="other")  # each time: a renewal that was under way may have written over it
        return lost

    with lock.hold(epath.Path(tmp_path), lost.append):
        wait_until(noticed)
        wait_until(lambda: not any("lock of" in thread.name for thread in threading.enumerate()))  # it has said all
    assert len(lost) == 1 and "another run has taken the lock" in lost[0]
    assert lock.read_lock(epath.Path(tmp_path))["token"] == "other", "a lock that is not ours stays"


@pytest.mark.parametrize(
    "contents", [b"", b"\xff", b"[]", b'{"host": "a"}', b'{"token": "a", "host": "b", "pid": -1, "renewed": 0}']
)
def test_a_damaged_lock_holds_nobody_up(tmp_path, contents):
    (tmp_path / "lock.json").write_bytes(contents)
    with lock.hold(tmp_path, print):
        assert lock.read_lock(tmp_path)["renewed"] == 0
