"""Python and the command line in processes of their own, with one device unless they ask for more, as for most users."""

from __future__ import annotations

import os
import subprocess
import sys


def python(*arguments, cwd=None, **environment):
    """What Python did with these arguments: exit status and what it printed."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    own = {**os.environ, "XLA_FLAGS": flags, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=own, timeout=280)


def xalign(*arguments, **options):
    """The same of `xalign`."""
    return python("-m", "xalign_jax.cli", *arguments, **options)
