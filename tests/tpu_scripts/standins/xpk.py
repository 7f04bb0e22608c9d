"""A stand-in for xpk: clusters are files, workloads are JobSets of local processes."""

from __future__ import annotations

import argparse
import os
import sys
import time

import jobsets
from world import STATE, call, die, expired, read

COMMON = "cluster project zone"
FLAGS = {
    ("cluster", "create"): "tpu-type num-slices reservation",
    ("cluster", "delete"): "",
    ("workload", "create"): "workload tpu-type num-slices docker-image command max-restarts restart-on-exit-codes "
    "termination-grace-period-seconds storage priority env",
    ("workload", "list"): "filter-by-job wait-for-job-completion timeout",
    ("workload", "delete"): "workload",
}
SWITCHES = "force on-demand spot deploy-stacktrace-sidecar enable-workload-identity"


def main():
    call("xpk", sys.argv[1:])
    kind, verb, *rest = sys.argv[1:]
    parser = argparse.ArgumentParser(prog="xpk", allow_abbrev=False)
    for flag in (COMMON + " " + FLAGS[kind, verb]).split():
        parser.add_argument(f"--{flag}")
    for flag in SWITCHES.split():
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.parse_args(rest)
    print("[XPK] Starting xpk")
    expired("gcloud.container.clusters.get-credentials")
    cluster = STATE / f"cluster-{given.cluster}"
    if kind == "cluster":
        if verb == "create":
            cluster.touch()
            return
        for workload in (STATE / "jobsets").glob("*"):
            jobsets.delete(workload.name)
        cluster.unlink()
        return
    if not cluster.exists():
        die(f"[XPK] Unable to find cluster {given.cluster}")
    if verb == "create":
        # XPK puts the command into one line of a YAML file.
        assert "\n" not in given.command
        codes = [(int(code), int(code)) for code in given.restart_on_exit_codes.split(",")]
        pods = int(os.environ.get("STANDIN_WORKERS", "2")) * int(given.num_slices)
        wrapped = f"({given.command}) & PID=$!; trap 'kill -TERM $PID' TERM; wait $PID; code=$?; wait $PID; exit $?"
        jobsets.create(given.workload, wrapped, pods, int(given.max_restarts), [(42, 42), (127, 255), *codes])
    elif verb == "delete":
        jobsets.delete(given.workload)
    else:
        listed(given)


def listed(given):
    print(f"[XPK] Task: `List Jobs with filter-by-job={given.filter_by_job}` is implemented by `kubectl get ...`")
    print("Jobset Name    Created Time    Priority    TPU VMs Needed    Status")
    for workload in sorted((STATE / "jobsets").glob("*")):
        print(f"{workload.name}    2026-11-30T00:00:00Z    medium    2    {read(workload / 'state.json')['state']}")
    if given.wait_for_job_completion:
        until = time.monotonic() + int(given.timeout)
        while (now := read(jobsets.folder(given.wait_for_job_completion) / "state.json")["state"]) == "Running":
            if time.monotonic() > until:
                die("[XPK] Timed out waiting for your workload", 124)
            time.sleep(0.05)
        sys.exit(0 if now == "Completed" else 125)


if __name__ == "__main__":
    main()
