"""One run at a time in a model directory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.runtime import lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)


def leave(directory, **changes):
    """A lock as a run would leave it that was killed."""
    left = {"token": "old", "host": socket.gethostname(), "pid": os.getpid(), "renewed": 3} | changes
    (directory / "lock.json").write_text(json.dumps(left))


def test_held_renewed_and_released(tmp_path):
    path = epath.Path(tmp_path / "run")
    with lock.hold(path, print):
        time.sleep(0.6)
        found = lock.read_lock(path)
        assert found["pid"] == os.getpid() and found["renewed"] >= 1
    assert not (path / "lock.json").exists()


def test_a_living_run_of_another_host_is_refused(tmp_path):
    leave(tmp_path, host="elsewhere", pid=4)
    renewals = threading.Timer(0.2, lambda: leave(tmp_path, host="elsewhere", pid=4, renewed=4))
    renewals.start()
    with (
        pytest.raises(UserError, match="process 4 on elsewhere is training there"),
        lock.hold(epath.Path(tmp_path), print),
    ):
        pass
    assert lock.read_lock(epath.Path(tmp_path))["token"] == "old"


def test_locks_of_the_dead_are_taken(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(tmp_path, pid=dead.pid)
    started = time.monotonic()
    with lock.hold(epath.Path(tmp_path), print):
        assert time.monotonic() - started < 0.2, "no need to wait for a process that is gone"
    leave(tmp_path, host="elsewhere")
    with lock.hold(epath.Path(tmp_path), print):
        assert lock.read_lock(epath.Path(tmp_path))["host"] == socket.gethostname()


def test_losing_the_lock_is_noticed(tmp_path):
    lost = []
    with lock.hold(epath.Path(tmp_path), lost.append):
        leave(tmp_path, token="other")
        time.sleep(0.8)
    assert len(lost) == 1 and "another run has taken the lock" in lost[0]
    assert lock.read_lock(epath.Path(tmp_path))["token"] == "other", "a lock that is not ours stays"
