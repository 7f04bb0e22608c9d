"""Tells a run to save and stop, on SIGTERM, SIGINT or a maintenance event of the cloud in any of its processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from types import TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from xalign_jax.runtime.cluster import distributed, failures

METADATA_SECONDS = 5.0
ONCE_SECONDS = 0.5  # signals this close together count as one: a terminal and a wrapper script may both send it
INTERRUPTED = 3  # exit code of a run that can be resumed
FIRST = "xalign: the run stops once its state is saved; interrupt it again to end it at once"
SECOND = "interrupted again and ended at once; the same command continues from the last checkpoint"
EVENTS = {"maintenance-event": "NONE", "preempted": "FALSE"}  # values of Google's metadata server while nothing is due


class StopNotice:
    """Tells all processes, at the same step, to save and stop. Call `reached` after every step.

    Signals are handled only within the context. A SIGINT after another notice ends the process at once, even during
    a step, with exit code 3.

    Several processes agree through JAX's preemption service. It handles SIGTERM in any process, and chooses the first
    step that no process has passed. This needs no collective, so a notice takes effect within a step.
    """

    def __init__(self) -> None:
        self._told, self._asked = False, 0
        self._alone = distributed.client() is None
        self._over = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopNotice:
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
            self._listen()
        if jax.default_backend() == "tpu" or "GCE_METADATA_HOST" in os.environ:
            threading.Thread(target=_watch_events, args=(self._over,), daemon=True, name="maintenance events").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        # Restore the handlers that were there before, and end the thread.
        if self._before:
            for told, handler in self._before.items():
                signal.signal(told, handler or signal.SIG_DFL)
            signal.set_wakeup_fd(self._fd_before)
            self._heard.close()  # this ends the thread

    def _listen(self) -> None:
        """Handle signals, and count them in a thread.

        Python calls handlers in the main thread, and not while that thread compiles or waits for a device that hangs.
        But it writes the number of each signal to a socket at once, which the thread reads.
        """
        own = (signal.SIGINT, signal.SIGTERM) if self._alone else (signal.SIGINT,)  # JAX's service handles SIGTERM
        numbers, self._heard = socket.socketpair()
        self._heard.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._heard.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second, args=(numbers,), daemon=True, name="signals").start()
        self._before = {told: signal.signal(told, self._stop) for told in own}

    def _stop(self, *_: Any) -> None:
        if self._alone:
            self._told = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> bool:
        """True if the run must save and stop now. Every process must call this after every step."""
        if self._alone:
            return self._told
        self._asked += 1  # calls, not steps: after a notice before the first call, the service chooses number 1
        return multihost_utils.reached_preemption_sync_point(self._asked)


def _end_at_second(numbers: socket.socket) -> None:
    """In a thread: end the process at a SIGINT after the first signal. `numbers` gives one byte for each signal."""
    first = None
    with numbers:
        while number := numbers.recv(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if first is None:
                first = time.monotonic()
                print(FIRST, file=sys.stderr, flush=True)
            elif number[0] == signal.SIGINT and time.monotonic() > first + ONCE_SECONDS:
                failures.fail(SECOND, INTERRUPTED)


def _watch_events(over: threading.Event) -> None:
    """In a thread: turn a notice of maintenance or preemption into a SIGTERM.

    A notice may stand for an hour. One that stands already when the run begins has stopped the run before, so it is
    passed over: otherwise each restart would train a single step and use up one of the restarts that are allowed.
    """
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    before: dict[str, str] = {}
    wait = 0.0  # the first look is at once
    while not over.wait(wait):
        wait = METADATA_SECONDS
        # The server answers with the ordinary value until an event is due.
        for event, ordinary in EVENTS.items():
            request = urllib.request.Request(
                f"http://{host}/computeMetadata/v1/instance/{event}", headers={"Metadata-Flavor": "Google"}
            )
            try:
                with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
                    said = answer.read().decode().strip()
            except OSError:
                continue
            if said not in (ordinary, before.setdefault(event, said)):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            before[event] = said
