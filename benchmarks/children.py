"""Runs a child process and says what it cost."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Child(NamedTuple):
    """A process that has ended: exit code, what it printed and what it said on stderr, seconds of the wall and of CPUs."""

    code: int
    printed: str
    said: str
    wall: float
    cpu: float


def run(
    command: Sequence[str | Path], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Child:
    """Run a command in a folder; None = this one. CPU seconds are those of its own children too."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Child(done.returncode, done.stdout, done.stderr, wall, cpu)


def fresh_environment(home: Path) -> dict[str, str]:
    """The variables of a shell with a home of its own: of this shell's, those of pip, certificates and language alone."""
    keep = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "LANG"))}
    return keep | {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
