"""How a command ends: its exit code, and what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 3  # and errors.PassingError.code

INTERRUPTED_LINE = "xalign: interrupted; the same command continues from here"
EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 interrupted and resumable, 4 lost a process, the "
    "network or the storage (the same command may work again)."
)


def catch_interrupts() -> list[int]:
    """Handle SIGINT from now on; returns a list that is empty until the first one comes.

    SIGINT raises KeyboardInterrupt wherever the command is. During an import it ends the process at once, because
    modules written in C print exceptions or hide them. Training replaces this handler by its own. A process that was
    started with SIGINT ignored still ignores it.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # Look up the stack for a frame of the import system.
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                end_interrupted()
            frame = frame.f_back
        raise KeyboardInterrupt

    # A shell starts background jobs with SIGINT ignored, which shows as another handler here.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return came


def end_interrupted() -> NoReturn:
    """Say so and end at once. Threads of half-loaded libraries would print traces on the way out."""
    # A second Ctrl-C must not interrupt this. `os._exit` flushes nothing by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(INTERRUPTED_LINE, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
