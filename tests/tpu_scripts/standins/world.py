"""State of the stand-ins: a folder, STANDIN_STATE, whose files tests read and write. Nothing here knows the scripts.

called          one line for each command
faults/NAME     exists while the fault lasts: login (of gcloud and kubectl), busy (uv cannot download, the first time)
queued/NAME     a queued resource: its states to come, one a line; the first is the present one
hosts/NAME/     a host's home directory, with its unit in etc/, the unit's state in unit.json, and its journal
jobsets/NAME/   a JobSet or XPK workload: spec.json, state (Running, Completed, Failed), restarts, pids
jobs/NUMBER/    a SLURM job: script, name, state, count of restarts
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["STANDIN_STATE"])
HERE = Path(__file__).parent
SPEED = 100  # times faster than the real waits


def call(tool, arguments):
    """Note a call."""
    with open(STATE / "called", "a") as file:
        file.write(f"{tool} {shlex.join(arguments)}\n")


def fault(name):
    return (STATE / "faults" / name).exists()


def die(message, code=1):
    print(message, file=sys.stderr)
    sys.exit(code)


def expired(tool):
    """What gcloud says once its login has expired."""
    if fault("login"):
        die(
            f"ERROR: ({tool}) There was a problem refreshing your current auth tokens: ('invalid_grant: Bad Request', "
            "{'error': 'invalid_grant', 'error_description': 'Bad Request'})\nPlease run:\n\n  $ gcloud auth login"
        )


def background(script, *arguments):
    """A process that outlives this one."""
    with open(STATE / "supervisors.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-B", str(HERE / script), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


def begin(command, home, log, cwd=None, **variables):
    """`bash -c command` in a session of its own, as on a machine whose home directory is `home`."""
    environment = os.environ | {"HOME": str(home), **{key: str(value) for key, value in variables.items()}}
    with open(log, "a") as file:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=cwd or home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def tell(pid, number):
    """Send a signal to a process and all of its session; False if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
        return True
    return False


def stop(pids, seconds=20.0):
    """End processes as machines do: SIGTERM, and SIGKILL if they are still there."""
    for pid in pids:
        tell(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(map(lives, pids)):
        time.sleep(0.02)
    for pid in pids:
        tell(pid, signal.SIGKILL)


def lives(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read(path, default=None):
    """A JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return default


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)
