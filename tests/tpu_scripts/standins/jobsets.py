"""JobSets, for the stand-ins of kubectl and xpk: pods are local processes that restart together."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

from world import SPEED, STATE, background, begin, read, stop, tell, write


def folder(name):
    return STATE / "jobsets" / name


def create(name, command, pods, restarts, keeps):
    """Start one. `keeps(code)` is given as a list of (first, last) exit codes after which all pods start again."""
    (folder(name) / "home").mkdir(parents=True)
    write(folder(name) / "spec.json", {"command": command, "pods": pods, "restarts": restarts, "keeps": keeps})
    write(folder(name) / "state.json", {"state": "Running", "restarts": 0, "pids": []})
    background("jobsets.py", name)


def delete(name):
    now = read(folder(name) / "state.json")
    tell(now.get("supervisor", 2**22), signal.SIGKILL)
    stop(now["pids"])
    shutil.rmtree(folder(name))


def supervise(name):
    """Runs the pods until the JobSet has ended."""
    spec, restarts = read(folder(name) / "spec.json"), 0
    while True:
        pods = [
            begin(
                spec["command"],
                folder(name) / "home",
                folder(name) / f"log-{number}",
                JOB_COMPLETION_INDEX=number,
                STANDIN_NUMBER=number,
                STANDIN_HOST=f"pod-{number}",
            )
            for number in range(spec["pods"])
        ]
        now = {"state": "Running", "restarts": restarts, "pids": [pod.pid for pod in pods], "supervisor": os.getpid()}
        write(folder(name) / "state.json", now)
        while not any(pod.poll() for pod in pods) and any(pod.poll() is None for pod in pods):
            time.sleep(0.02)
        codes = [code if code >= 0 else 128 - code for code in (pod.poll() for pod in pods) if code]
        if codes:  # the pods of a failed job are deleted
            time.sleep(60 / SPEED)
            stop([pod.pid for pod in pods])
        for pod in pods:
            pod.wait()
        kept = all(any(low <= code <= high for low, high in spec["keeps"]) for code in codes)
        if not codes or not kept or restarts >= spec["restarts"]:
            write(folder(name) / "state.json", now | {"state": "Failed" if codes else "Completed", "codes": codes})
            return
        restarts += 1


def preempt(name):
    """The nodes of a workload are taken back: its pods are told to end."""
    for pid in read(folder(name) / "state.json")["pids"]:
        tell(pid, signal.SIGTERM)


if __name__ == "__main__":
    supervise(sys.argv[1])
