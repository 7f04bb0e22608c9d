"""Processes that need not import JAX and the library first: forks of one that has, and has no devices yet.

A third of a small run's time is imports.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["xalign_jax.training.train", "xalign_jax.models.llama", "xalign_jax.models.xlm_roberta"]
)


class Fork:
    """`main()` in a process of its own whose command line and environment are these; as a subprocess.Popen is used."""

    def __init__(self, main, arguments, environment, cwd=None):
        self._printed = [tempfile.NamedTemporaryFile("r", prefix=f"{name}-") for name in ("stdout", "stderr")]  # noqa: SIM115
        streams = [file.name for file in self._printed]
        self._process = _SERVER.Process(target=_begin, args=(main, arguments, environment, cwd or os.getcwd(), streams))
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill
        atexit.register(self.kill)  # or a test that failed while it waits would not let pytest end

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        """What it wrote to its standard output and error, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.pid, timeout)
        return tuple(file.read() for file in self._printed)


def _begin(main, arguments, environment, cwd, streams):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    sys.argv[1:] = arguments
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out: JAX's says goodbye to the other processes
