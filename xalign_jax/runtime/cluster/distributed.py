"""The processes of one run: how they join, agree and wait for each other.

They communicate through the key-value store of JAX's coordination service, which needs no devices.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import itertools
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from xalign_jax.errors import PassingError, UserError, one_line

# Launcher -> the variables with the number of processes, this one's number, and the number of processes on this host.
LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE"),
    "OpenMPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
JOIN_SECONDS = 300
HEARTBEAT_SECONDS = 60  # JAX itself ends a run that lost a process after this time; `failures` is faster and names it
WAIT_SECONDS = 24 * 3600  # longest wait for another process; `failures` notices one that has failed much earlier

_exchanges = itertools.count()  # numbers the exchanges, in the same order in every process


def initialize(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Join the other processes of this run, if there are any.

    With a coordinator ("host:port" of process 0), missing numbers come from SLURM or OpenMPI. Without one, JAX finds
    the other processes if the environment says that there are some (`expects_others`). `processes` = 1 always runs
    alone.

    Raises:
      UserError: an option is missing or wrong, or JAX finds no coordinator.
      PassingError: JAX cannot join. If the others do not come in time, JAX itself ends the process.
    """
    if processes == 1 or (coordinator is None and processes is None and process_id is None and not expects_others()):
        return
    if coordinator is None and (processes, process_id) != (None, None):
        raise UserError("--processes and --process_id need --coordinator=HOST:PORT, the address of process 0")
    # Options win over the launcher's numbers.
    counted = _counted()
    if counted is not None:
        processes, process_id = (b if a is None else a for a, b in zip((processes, process_id), counted, strict=True))
    if coordinator is not None:
        _check(coordinator, processes, process_id)
    who = "this process" if process_id is None else f"process {process_id} of {processes}"
    where = "" if coordinator is None else f" at {coordinator}"
    print(
        f"xalign: {who} joins the others{where} and waits for them for at most {JOIN_SECONDS} s",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            local_device_ids=_all_gpus(),
            cluster_detection_method="deactivate" if coordinator is not None and counted is None else None,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"the environment names several processes, but no coordinator ({one_line(error, 300)}); give "
            "--coordinator=HOST:PORT --processes=N --process_id=I, or --processes=1 to run alone"
        ) from error
    except RuntimeError as error:
        raise PassingError(f"the processes of this run cannot join: {one_line(error, 300)}") from error


def _check(coordinator: str, processes: int | None, process_id: int | None) -> None:
    """Raise UserError if an option is missing or cannot be right."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT")
    if processes is None or process_id is None:
        name = "--processes" if processes is None else "--process_id"
        raise UserError(f"{name} is missing, and neither SLURM nor OpenMPI sets it")
    if not 0 <= process_id < processes:
        raise UserError(f"--process_id={process_id}: the processes are 0 to {processes - 1} (--processes={processes})")


def expects_others() -> bool:
    """True if the environment says that this process is one of several.

    SLURM and OpenMPI count the processes of the step; a batch script or a shell does not count. GKE names the hosts of
    a slice. An indexed Kubernetes job has a completion index. On a TPU virtual machine JAX asks the metadata server.
    """
    # The first source that knows decides, in the order of the text above.
    if counted := _counted():
        return counted[0] > 1
    if hosts := os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES"):
        return len(hosts.split(",")) * _number("MEGASCALE_NUM_SLICES", "1") > 1
    if "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ:
        return True
    # A TPU's host has these devices; whether there are others, only the metadata server knows.
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and "TPU_SKIP_MDS_QUERY" not in os.environ and importlib.util.find_spec("libtpu") is not None


def _counted() -> tuple[int, int] | None:
    """(number of processes, this one's number) by SLURM or OpenMPI; None if neither started this process."""
    for count, own, _ in LAUNCHERS.values():
        if count in os.environ and own in os.environ:
            return _number(count), _number(own)
    return None


def _number(variable: str, default: str = "") -> int:
    """The number in an environment variable. Raises UserError if it is none."""
    value = os.environ.get(variable, default)
    if not re.fullmatch("[0-9]{1,9}", value):
        raise UserError(
            f"the environment has {variable}={value!r}, which is no number; unset it, or give --processes=1 to run "
            "alone"
        )
    return int(value)


def _all_gpus() -> list[int] | None:
    """The GPUs of this process: all, if the launcher started one process on this host; None lets JAX choose.

    JAX gives each of several SLURM processes a GPU of its own. It does not know Open MPI 5, so the local rank is given.
    """
    seen = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = len(seen) or len(glob.glob("/dev/nvidia[0-9]*"))
    for _, _, local in LAUNCHERS.values():
        # SLURM writes "1(x4)" for one process on each of four nodes.
        if re.fullmatch(r"1(\(x\d+\))?", os.environ.get(local, "")):
            return list(range(gpus)) or None
    rank = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", gpus))
    return [rank] if rank < gpus else None


def is_main() -> bool:
    """True for process 0, which writes logs, results and the model directory."""
    return jax.process_index() == 0


def client() -> Any:
    """JAX's client of the coordination service; None if this process runs alone."""
    from jax._src.distributed import global_state  # it has no public name; Orbax uses this one too

    return global_state.client


def wait_for_all(name: str) -> None:
    """Return once every process has called this function with this name."""
    exchange(name, "")


def exchange(name: str, value: str) -> list[str]:
    """The values of all processes under a name, in the order of the processes. Every process must call this."""
    talk = client()
    if talk is None:
        return [value]
    key = f"xalign/{next(_exchanges)}/{name}"
    # Each process writes its value, waits for all others, and reads all values.
    talk.key_value_set(f"{key}/{jax.process_index():06d}", value)
    talk.wait_at_barrier(key, WAIT_SECONDS * 1000)
    return [said for _, said in sorted(talk.key_value_dir_get(f"{key}/"))]


def agree(values: Mapping[str, Any]) -> None:
    """Check that all processes have the same values (plain JSON). Every process must call this function.

    Raises:
      UserError: on every process, naming the values that differ and the processes that have them.
    """
    # Compare hashes first; only if they differ, exchange the values to name the differences.
    mine = dict(_leaves(values, ""))
    if len(set(exchange("digest", hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()))) == 1:
        return
    everyone = [json.loads(said) for said in exchange("values", json.dumps([socket.gethostname(), mine]))]
    differing = []
    for path in sorted({path for _, said in everyone for path in said}):
        # Value -> the processes that have it, for one path.
        found: dict[str, list[str]] = {}
        for number, (host, said) in enumerate(everyone):
            found.setdefault(said.get(path, "absent"), []).append(f"{number} ({host})")
        if len(found) > 1:
            differing.append(f"{path} is " + ", ".join(f"{value} on {_some(who)}" for value, who in found.items()))
    raise UserError("the processes of this run do not agree: " + "; ".join(differing[:5]))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, value as JSON) of all leaves of nested dicts and lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, json.dumps(value)


def _some(names: list[str]) -> str:
    """The first four names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"process {', '.join(names[:4])}{more}"
