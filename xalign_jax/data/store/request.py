"""Work for another process, so that this one does not load TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from xalign_jax.errors import RunError, UserError

USER_ERROR, CACHE_ERROR = 2, 3  # exit codes of the preparing process
# When Ctrl-C interrupts the preparing process, it ends without a message: the waiting process prints one.
_PREPARE = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
from xalign_jax.preparing import main
main(sys.argv[1])
"""


def ask(request: Mapping[str, Any], what: str) -> list[str]:
    """Let another process serve a request of `preparing.main`; returns the lines of its stdout.

    Args:
      what: the work in words, for the message if the process stops without one of its own.
    Raises:
      UserError, RunError: the process said so.
    """
    # The process needs no accelerator, and TensorFlow's messages would hide its own.
    command = [sys.executable, "-c", _PREPARE, json.dumps(request)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet})
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        # Its last line is the error, which is raised here as if nothing had run elsewhere.
        if done.returncode in (USER_ERROR, CACHE_ERROR) and lines:
            raise (UserError if done.returncode == USER_ERROR else RunError)(json.loads(lines[-1])["error"])
        raise RunError(f"{what} stopped with exit code {done.returncode}")
    return lines
