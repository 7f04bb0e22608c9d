"""Several processes of one run: starting, agreeing, waiting."""

from __future__ import annotations

import jax
from jax.experimental import multihost_utils


def initialize(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Join the other processes of this run when a coordinator ("host:port") is given; else run alone."""
    if coordinator is not None:
        jax.distributed.initialize(coordinator, processes, process_id)


def is_main() -> bool:
    """Whether this process writes logs, results and the model directory."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return once every process has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; every process must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(flag).any())
