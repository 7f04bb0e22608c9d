"""Waiting for an event, however slow the machine is."""

from __future__ import annotations

import time

SECONDS = 180


def wait_until(ready, running=()):
    """Return once `ready()`. It is a failure if one of the processes `running` ends before, or if it never comes."""
    until = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < until, "what the test waits for did not come"
        ended = [process for process in running if process.poll() is not None]
        assert not ended or ready(), [process.communicate()[1] for process in ended]
        time.sleep(0.02)
