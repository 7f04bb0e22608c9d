"""Turns a hang into an error that shows where the run hangs."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from types import TracebackType

from xalign_jax.errors import PassingError
from xalign_jax.runtime.cluster import failures

COMPILE_SECONDS = 3600.0  # the first step may take longer by this much, because it is compiled


class Watchdog:
    """Within this context, the run ends with all threads' stacks and exit code 4 if no `beat` comes for `seconds`.

    The first beat may take an hour more, because its step is compiled. `seconds` = 0 turns the watchdog off.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds + COMPILE_SECONDS
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def beat(self) -> None:
        """Call this when a step has finished."""
        self._due = time.monotonic() + self._seconds

    def pause(self) -> None:
        """Allow any time until the next beat."""
        self._due = float("inf")

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._due:
                # The stacks show which call hangs; `fail` then ends the processes on all hosts.
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                failures.fail(
                    f"no step finished for {self._seconds:g} s (Runtime.watchdog_seconds); "
                    "the stacks of all threads are above",
                    PassingError.code,
                )
