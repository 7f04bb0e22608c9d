"""One run at a time writes a model directory."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.runtime.cluster import distributed
from xalign_jax.runtime.storage import write_atomically

RENEW_SECONDS = 10.0
LOCK = {"token": str, "host": str, "pid": int, "renewed": int}
APPEAR_SECONDS = 90.0  # within which a file of one host is seen by the others; NFS remembers for 60 that there was none


@contextlib.contextmanager
def hold(directory: epath.Path, lost: Callable[[str], Any]) -> Iterator[None]:
    """Process 0 holds the lock of a model directory; every process sees that it does, else all refuse.

    Raises:
      UserError: another run holds it, or the directory is not one and the same to every process.
    """
    own = DirectoryLock(directory, lost) if distributed.is_main() else None
    try:
        token = distributed.exchange("lock", own.token if own else "")[0]
        sees = distributed.exchange("sees the lock", "yes" if own or _appears(directory, token) else "no")
        blind = [str(number) for number, said in enumerate(sees) if said == "no"]
        if blind:
            raise UserError(
                f"--model_dir={directory}: process {', '.join(blind)} of {len(sees)} does not see what process 0 writes "
                "there; choose a directory that all hosts share, or an object store"
            )
        yield
    finally:
        if own is not None:
            own.release()


def _appears(directory: epath.Path, token: str) -> bool:
    until = time.monotonic() + APPEAR_SECONDS
    while read_lock(directory).get("token") != token:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


class DirectoryLock:
    """`lock.json`: which process writes here, renewed every few seconds so that others see whether it still lives.

    A lock whose process is gone from this host is taken at once; one of another host, if it is not renewed for two
    and a half periods. No clock is compared with another.

    Args:
      lost: called, in a thread, with one line if another process has taken the lock all the same.

    Raises:
      UserError: another run is writing here.
    """

    def __init__(self, directory: epath.Path, lost: Callable[[str], Any]) -> None:
        self.token = secrets.token_hex(8)
        self._directory, self._lost = directory, lost
        self._over = threading.Event()
        found = read_lock(directory)
        if found and not _is_gone(found) and _is_renewed(directory, found):
            raise UserError(
                f"{directory}: process {found['pid']} on {found['host']} is training there; "
                "end it first, or choose another --model_dir"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self._write(0)
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock of the model directory")
        self._thread.start()

    def release(self) -> None:
        """Let the next run in."""
        self._over.set()
        self._thread.join()
        if read_lock(self._directory).get("token") == self.token:
            (self._directory / "lock.json").unlink(missing_ok=True)

    def _write(self, renewed: int) -> None:
        own = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "renewed": renewed}
        write_atomically(self._directory / "lock.json", json.dumps(own) + "\n")

    def _renew(self) -> None:
        renewed = 0
        while not self._over.wait(RENEW_SECONDS):
            renewed += 1
            try:
                mine = read_lock(self._directory).get("token") == self.token
                if mine:
                    self._write(renewed)
            except Exception:  # storage that fails for a moment, in its own way; checkpoints say so if it lasts
                continue
            if not mine:
                self._lost(f"{self._directory}: another run has taken the lock; two runs may not share a directory")
                return


def read_lock(directory: epath.Path) -> dict[str, Any]:
    """What `lock.json` says, {} if there is none, or one that no run can have written."""
    try:
        found = json.loads((directory / "lock.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in LOCK.items())
    return found if whole and 0 < found["pid"] < 2**31 else {}


def _is_gone(found: dict[str, Any]) -> bool:
    """Whether the process that wrote the lock was of this host and is no more (or is this one)."""
    if found["host"] != socket.gethostname():
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return found["pid"] == os.getpid()


def _is_renewed(directory: epath.Path, found: dict[str, Any]) -> bool:
    until = time.monotonic() + 2.5 * RENEW_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, RENEW_SECONDS / 4))
        now = read_lock(directory)
        if not now:
            return False
        if now != found:
            return True
    return False
