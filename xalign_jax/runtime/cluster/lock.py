"""A lock for model directories, so that one run at a time writes there."""

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
APPEAR_SECONDS = 90.0  # longest time until other hosts see a file; NFS remembers for 60 s that there was none


@contextlib.contextmanager
def hold(directory: epath.Path, lost: Callable[[str], Any]) -> Iterator[None]:
    """Process 0 holds the lock of a model directory within this context. All processes check that they see its file.

    Args:
      lost: see `DirectoryLock`.
    Raises:
      UserError: another run holds the lock, or the processes do not share the directory.
    """
    own = DirectoryLock(directory, lost) if distributed.is_main() else None
    try:
        token = distributed.exchange("lock", own.token if own else "")[0]
        # Process 0 shares its token; the others look for it in the file. Processes on hosts with different disks, or
        # in different directories, do not find it.
        sees = distributed.exchange("sees the lock", "yes" if own or _appears(directory, token) else "no")
        blind = [str(number) for number, said in enumerate(sees) if said == "no"]
        if blind:
            raise UserError(
                f"--model_dir={directory}: process {', '.join(blind)} of {len(sees)} does not see what process 0 "
                "writes there; choose a directory that all hosts share, or an object store"
            )
        yield
    finally:
        if own is not None:
            own.release()


def _appears(directory: epath.Path, token: str) -> bool:
    """True once this process sees the lock with the token; False if it does not in time."""
    until = time.monotonic() + APPEAR_SECONDS
    while read_lock(directory).get("token") != token:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


class DirectoryLock:
    """The file `lock.json`, which names the process that writes here. It is renewed every few seconds to show its life.

    A lock is taken over at once if its process ran on this host and has ended. A lock of another host is taken over if
    it is not renewed for two and a half periods. Clocks of different hosts are never compared.

    Args:
      lost: called in a thread, with one line, if another process has taken the lock nevertheless.

    Raises:
      UserError: another run is writing here.
    """

    def __init__(self, directory: epath.Path, lost: Callable[[str], Any]) -> None:
        self.token = secrets.token_hex(8)
        self._directory, self._lost = directory, lost
        self._over = threading.Event()
        found = read_lock(directory)
        # An existing lock counts if its process may live and the file is renewed while this process looks.
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
        """Remove the lock, so that another run can start."""
        self._over.set()
        self._thread.join()
        # Another run may have taken the lock; its file must stay.
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
            except Exception:  # storage may fail for a moment; if it lasts, the next checkpoint reports it
                continue
            if not mine:
                self._lost(f"{self._directory}: another run has taken the lock; two runs may not share a directory")
                return


def read_lock(directory: epath.Path) -> dict[str, Any]:
    """The contents of `lock.json`; {} if there is none, or if no run can have written it."""
    try:
        found = json.loads((directory / "lock.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    # Every value must have its type, and the number of the process must be possible.
    whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in LOCK.items())
    return found if whole and 0 < found["pid"] < 2**31 else {}


def _is_gone(found: dict[str, Any]) -> bool:
    """True if the process that wrote the lock ran on this host and has ended, or is this process."""
    if found["host"] != socket.gethostname():
        return False
    try:
        # Signal 0 only checks that the process exists. A process of another user gives a PermissionError.
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return found["pid"] == os.getpid()


def _is_renewed(directory: epath.Path, found: dict[str, Any]) -> bool:
    """True once the lock changes; False if it disappears or stays the same for two and a half periods."""
    until = time.monotonic() + 2.5 * RENEW_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, RENEW_SECONDS / 4))
        # A live process renews it once a period. A removed lock is free.
        now = read_lock(directory)
        if not now:
            return False
        if now != found:
            return True
    return False
