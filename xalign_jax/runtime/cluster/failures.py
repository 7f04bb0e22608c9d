"""When one process of a run fails, all of them end within seconds and report the first cause."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax

from xalign_jax.errors import PassingError, RunError, UserError, may_pass, one_line
from xalign_jax.runtime.cluster import distributed

CAUSE, SEEN, LEAVES, ALIVE = (f"xalign/{key}" for key in ("failure", "failure_seen", "leaves", "alive"))
POLL_SECONDS = 1.0
OVER = "over"  # the last beat of a process that ended without a failure
LOST_SECONDS = 15.0  # a process that is silent for this long is taken for dead
LINGER_SECONDS = 6.0  # how long a failed process waits for the others to read why

_ending = threading.Lock()  # the thread that holds it ends this process


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within this context, an exception in any process ends all of them. A process that runs alone only raises it.

    All processes exit with the same code, which is the command line's: 2 for a UserError, 3 for an interruption, 4 for a
    lost process, the network or the storage, otherwise 1.
    """
    if distributed.client() is None:
        yield
        return
    _beat("")
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over,), daemon=True, name="failures of other processes")
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; the same command continues from here", 3)
    except Exception as error:
        if not isinstance(error, UserError | RunError):
            traceback.print_exc()
        # A collective fails if another process has ended. Then that process is the cause: let it report first.
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(LOST_SECONDS + 3 * POLL_SECONDS)
        fail(_cause(error), _code(error))
    finally:
        over.set()
        watcher.join()
        _beat(OVER)


@contextlib.contextmanager
def advise(advice: str) -> Iterator[None]:
    """If a device runs out of memory within this context, raise a RunError with the advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(f"out of device memory ({one_line(error)}): {advice}") from error


def _code(error: Exception) -> int:
    """The exit code for a failure. JAX speaks of the network when a collective has lost a process."""
    if isinstance(error, UserError | RunError):
        return error.code
    return PassingError.code if isinstance(error, jax.errors.JaxRuntimeError) and may_pass(error) else RunError.code


def _cause(error: Exception) -> str:
    """A failure as one line. Unexpected exceptions are given by their type and the beginning of their text."""
    text = one_line(error, None)
    return text if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {text[:300]}"


def fail(cause: str, code: int) -> NoReturn:
    """End this process, and with it all others of the run. It exits directly, so that no barrier can block it.

    If another process has failed first, its cause and exit code are used.
    """
    _ending.acquire()
    _print(f"xalign: {cause}")
    if distributed.client() is not None:
        own = {"process": jax.process_index(), "host": socket.gethostname(), "code": code, "cause": cause}
        with contextlib.suppress(RuntimeError):  # another process was first
            distributed.client().key_value_set(CAUSE, json.dumps(own))
        with contextlib.suppress(RuntimeError):  # the coordinator is gone
            # The store keeps the first cause; later ones cannot replace it.
            first = json.loads(distributed.client().key_value_try_get(CAUSE))
            if first["process"] != own["process"] and first["cause"] != cause:
                _say(first)
            code = first["code"]
            _linger()
    _exit(code)


def _beat(beat: str) -> None:
    """Show the other processes that this one lives; every beat is another text."""
    with contextlib.suppress(RuntimeError):  # the coordinator is gone, so JAX will end this process
        distributed.client().key_value_set(f"{ALIVE}/{jax.process_index():06d}", beat, allow_overwrite=True)


def _watch(over: threading.Event) -> None:
    """In a thread: show that this process lives, and end it when another one has failed, even while it waits."""
    client, own, beats = distributed.client(), jax.process_index(), itertools.count()
    heard = dict.fromkeys(range(jax.process_count()), ("", 0.0))
    last = time.monotonic()
    while not over.wait(POLL_SECONDS):
        _beat(str(next(beats)))
        # Process 0 looks for silent processes; every process looks for a reported cause.
        last, passed = time.monotonic(), time.monotonic() - last
        try:
            if own == 0:
                _find_the_dead(client.key_value_dir_get(f"{ALIVE}/"), heard, passed)
            first = json.loads(client.key_value_try_get(CAUSE))
        except (RuntimeError, ValueError):
            continue
        if first["process"] != own and not over.is_set() and _ending.acquire(blocking=False):
            _say(first)
            _linger()
            _exit(first["code"])


def _find_the_dead(beats: list[tuple[str, str]], heard: dict[int, tuple[str, float]], passed: float) -> None:
    """Fail if the beat of a process has not changed for `LOST_SECONDS`.

    The time since the last look counts as at most two polls. If process 0 or the whole machine stalls, the others are
    not taken for silent.

    Args:
      beats: (key, beat) of each process, from the store.
      heard: process -> its last beat and the seconds of silence since; updated here.
      passed: seconds since the last look.
    """
    passed = min(passed, 2 * POLL_SECONDS)
    # Process number -> its latest beat.
    said = {int(key.rpartition("/")[2]): beat for key, beat in beats}
    for number, (last, silent) in heard.items():
        beat = said.get(number, "")
        if beat != last:
            heard[number] = (beat, 0.0)
            continue
        heard[number] = (last, silent + passed)
        if beat != OVER and silent + passed > LOST_SECONDS:
            fail(f"process {number} died or lost its network: silent for {LOST_SECONDS:g} s", PassingError.code)


def _say(first: dict) -> None:
    """Print the failure of another process."""
    _print(f"xalign: process {first['process']} ({first['host']}) ended the run: {first['cause']}")


def _print(line: str) -> None:
    """A line on stderr. A full disk behind it must not keep this process from ending."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _linger() -> None:
    """Wait until every process has seen the failure. Process 0, which holds the store, leaves last.

    Otherwise JAX would abort the processes that find the store gone.
    """
    client, own = distributed.client(), jax.process_index()

    def mark(key: str, seconds: float) -> None:
        """Set this process's mark, and wait for the marks of all others, but not longer: one of them may be dead."""
        client.key_value_set(f"{key}/{own}", "", allow_overwrite=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until and len(client.key_value_dir_get(f"{key}/")) < jax.process_count():
            time.sleep(0.1)

    with contextlib.suppress(RuntimeError):
        mark(SEEN, LINGER_SECONDS)
        mark(LEAVES, 3 * POLL_SECONDS if own == 0 else 0.0)
    if own == 0:
        time.sleep(1)


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the disk behind it may be full
            stream.flush()
    os._exit(code)
