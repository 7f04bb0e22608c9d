"""What one process of several does that meet and go wrong together: SCENARIO COORDINATOR PROCESSES ID DIRECTORY."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import jax
from etils import epath

from xalign_jax.errors import RunError, UserError
from xalign_jax.runtime.cluster import distributed, failures, lock
from xalign_jax.runtime.cluster.preemption import StopNotice
from xalign_jax.runtime.cluster.watchdog import Watchdog


def agree(own: int, directory: Path) -> None:
    """Process 1 has another learning rate and no warmup."""
    recipe = {"stages": [{"peak": 0.1, "warmup": 5}, {"peak": 0.2}], "seed": 0}
    distributed.agree({"Recipe": recipe})
    if own == 1:
        recipe["stages"][0] = {"peak": 0.3}
    distributed.agree({"Recipe": recipe})


def user_error(own: int, directory: Path) -> None:
    """Process 1 finds something wrong while the others wait for it."""
    if own == 1:
        time.sleep(0.5)
        raise UserError("Stream.batch_size = 7: no")
    distributed.wait_for_all("never")


def zero_division(own: int, directory: Path) -> None:
    """Process 0, which holds the store, raises what nobody foresaw."""
    if own == 0:
        print(1 / 0)
    distributed.wait_for_all("never")


def hang(own: int, directory: Path) -> None:
    """Process 0 stops making steps."""
    if own != 0:
        distributed.wait_for_all("never")
    with Watchdog(1.0) as watchdog:
        watchdog.pause()
        time.sleep(2)
        watchdog.beat()
        where_it_hangs()


def where_it_hangs() -> None:
    time.sleep(600)


def stop(own: int, directory: Path) -> None:
    """Steps with a barrier each; process 1 is told to stop."""
    with StopNotice() as notice:
        for step in range(1, 10_000):
            distributed.wait_for_all("step")
            if own == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            if notice.reached():
                (directory / f"stopped-{own}").write_text(str(step))
                sys.exit(3)
        time.sleep(0.01)


def blind(own: int, directory: Path) -> None:
    """Each process has a directory of its own."""
    lock.APPEAR_SECONDS = 0.5
    with lock.hold(epath.Path(directory / str(own)), print):
        raise RunError("the lock was had")


def killed(own: int, directory: Path) -> None:
    """Process 1 dies without a word."""
    if own == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.wait_for_all("never")


def main() -> None:
    """The scenario of the command line, as `xalign` runs a command."""
    scenario, coordinator, processes, own, directory = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    failures.LOST_SECONDS = 3.0
    distributed.initialize(coordinator, int(processes), int(own))
    with failures.together():
        globals()[scenario](int(own), Path(directory))
