"""Python and the command line in processes of their own, with one device unless they ask for more, as for most users."""

from __future__ import annotations

import os
import subprocess
import sys

from forks import Fork

from xalign_jax import cli


def python(*arguments, cwd=None, **environment):
    """What Python did with these arguments: exit status and what it printed."""
    own = one_device() | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=own, timeout=280)


def xalign(*arguments, cwd=None):
    """What `xalign` did with these arguments."""
    process = Fork(cli.main, arguments, one_device(), cwd)
    printed = process.communicate(timeout=280)
    return subprocess.CompletedProcess(arguments, process.returncode, *printed)


def one_device():
    """The environment of a process with one device."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    return os.environ | {"XLA_FLAGS": flags}
