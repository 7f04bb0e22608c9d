"""Ctrl-C at any moment of any command: one line and exit code 3, whatever was being imported, prepared or compiled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from commands import one_device
from waiting import wait_until

from xalign_jax.cli import INTERRUPTED, INTERRUPTED_LINE

# `xalign` that is interrupted when it first imports a module; SIGINT may be ignored where tests run in the background.
AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from xalign_jax import cli
cli.main(sys.argv[2:])
"""
TRAIN = ("train", "--gin_file=recipes/prealign_clone_tiny.gin", "--model_dir=run")


def start(cwd, *arguments, **environment):
    own = {**one_device(), "XALIGN_CACHE": str(cwd / "cache"), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=own, text=True, start_new_session=True, **pipes)


def assert_interrupted(process, before=""):
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (INTERRUPTED, f"{before}{INTERRUPTED_LINE}\n")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("jax", TRAIN),
        ("orbax.checkpoint", TRAIN),
        ("gin", ("data", "stats", "--gin_file=recipes/prealign_clone_tiny.gin")),
        ("numpy", ("evaluate", "--gin_file=recipes/prealign_clone_tiny.gin", "--model_dir=run")),
        ("xalign_jax.interop.weights", ("export", "--model_dir=run", "--output=out")),
        ("xalign_jax.reports.report", ("compare", "run", "--output=out")),
        ("xalign_jax.scale.topology", ("compile", "--gin_file=recipes/prealign_clone_tiny.gin", "--topology=cpu:1")),
    ],
)
def test_while_modules_are_imported(tmp_path, module, command):
    assert_interrupted(start(tmp_path, "-c", AT_IMPORT, module, *command))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("whole_terminal", [True, False])
def test_while_text_is_prepared_in_another_process(tmp_path, whole_terminal):
    """The preparing process is in the middle of a text that never ends."""
    os.mkfifo(tmp_path / "text.txt")
    task = f'--gin.Mixture.tasks=("lines:en={tmp_path}/text.txt",)'
    arguments = ("data", "prepare", "--gin_file=recipes/prealign_clone_tiny.gin", task)
    process = start(tmp_path, "-c", AT_IMPORT, "", *arguments)
    writer = os.open(tmp_path / "text.txt", os.O_RDWR)
    os.write(writer, b"a line\n")
    wait_until((tmp_path / "cache" / "lock").exists, [process])
    (os.killpg if whole_terminal else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    os.close(writer)
    assert process.returncode == INTERRUPTED and errors.endswith(f"{INTERRUPTED_LINE}\n")
    assert "Traceback" not in errors
    wait_until(lambda: not _lives_on(process.pid))


def _lives_on(session):
    """Whether a process of the session is left."""
    found = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout.split()
    return any(not state.startswith("Z") for state in found)


def test_an_interruption_that_is_ignored_from_the_start_stays_ignored(tmp_path):
    code = AT_IMPORT.replace("signal.default_int_handler", "signal.SIG_IGN", 1)
    process = start(tmp_path, "-c", code, "argparse", "compare", "nowhere", "--output=out")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "environment.json" in errors, json.dumps(errors)
