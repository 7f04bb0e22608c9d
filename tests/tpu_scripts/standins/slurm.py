"""Stand-ins for sbatch, srun, squeue, scancel and scontrol: `slurm.py TOOL ARGUMENTS`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import time
from pathlib import Path

from world import SPEED, STATE, background, begin, call, die, lives, read, stop, tell, write

JOBS = STATE / "jobs"


@contextlib.contextmanager
def changing(path):
    """Change a job's file. One process at a time does, so `scancel` finds every process that was started here."""
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = read(path)
        yield job
        write(path, job)


def sbatch(_):
    script = sys.stdin.read()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))
    number = str(len(list(JOBS.glob("*"))) + 1)
    (JOBS / number).mkdir(parents=True)
    (JOBS / number / "script").write_text(script)
    start = {"name": options["job-name"], "nodes": int(options["nodes"]), "output": options["output"]}
    write(
        JOBS / number / "job.json",
        start | {"state": "PENDING", "restarts": 0, "shell": None, "tasks": [], "folder": os.getcwd()},
    )
    background("slurm.py", "--supervise", number)
    print(f"Submitted batch job {number}")


def supervise(arguments):
    """Runs the batch script, again after each requeue."""
    path = JOBS / arguments[0] / "job.json"
    while True:
        with changing(path) as job:
            if job["state"] == "CANCELLED":
                return
            variables = {"SLURM_JOB_ID": arguments[0], "SLURM_NNODES": job["nodes"]}
            if job["restarts"]:  # SLURM sets it from the first restart on
                variables["SLURM_RESTART_COUNT"] = job["restarts"]
            folder = Path(job["folder"])
            shell = begin(
                f"exec bash {JOBS / arguments[0] / 'script'}",
                folder,
                folder / job["output"],
                HOME=os.environ["HOME"],
                **variables,
            )
            job |= {"state": "RUNNING", "shell": shell.pid, "requeue": False}
        code = shell.wait()
        with changing(path) as job:
            if job["state"] == "CANCELLED" or not job["requeue"]:
                job |= {"state": "CANCELLED" if job["state"] == "CANCELLED" else "ENDED", "code": code}
                return
            job |= {"state": "PENDING", "restarts": job["restarts"] + 1, "shell": None, "tasks": []}
        time.sleep(30 / SPEED)


def srun(arguments):
    """One task a node. The code is the highest of its tasks; a signal counts as 128 + its number."""
    options = dict(
        word.removeprefix("--").split("=") for word in arguments if word.startswith("--") and "=" in word[:20]
    )
    command = arguments[next(i for i, word in enumerate(arguments) if not word.startswith("--")) :]
    path = JOBS / os.environ["SLURM_JOB_ID"] / "job.json"
    with changing(path) as job:
        if job["state"] == "CANCELLED":  # `scancel` would not see tasks that start now
            die("srun: error: Job has been cancelled")
        tasks = begin_tasks(command, job["nodes"])
        job["tasks"] = [task.pid for task in tasks]
    wait(tasks, options)


def begin_tasks(command, nodes):
    """One process a node."""
    steps = {"SLURM_STEP_NUM_TASKS": nodes, "SLURM_STEP_TASKS_PER_NODE": f"1(x{nodes})", "SLURM_NTASKS": nodes}
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    return [
        begin(
            f"exec {quoted}",
            os.getcwd(),
            "/dev/stdout",
            HOME=os.environ["HOME"],
            SLURM_PROCID=number,
            SLURM_LOCALID=0,
            SLURM_STEP_NODELIST="localhost",
            STANDIN_NUMBER=number,
            STANDIN_HOST=f"node-{number}",
            **steps,
        )
        for number in range(nodes)
    ]


def wait(tasks, options):
    """End as srun does once they have ended."""
    ended = None
    while any(task.poll() is None for task in tasks):
        codes = [task.poll() for task in tasks if task.poll() is not None]
        ended = ended or (time.monotonic() if codes else None)
        if options.get("kill-on-bad-exit") == "1" and any(codes):
            stop([task.pid for task in tasks], 0.5)
        if ended and time.monotonic() > ended + 3 * float(options.get("wait", 1e9)) / SPEED:
            stop([task.pid for task in tasks], 0.5)
        time.sleep(0.02)
    sys.exit(max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks)))


def named(arguments):
    """(path, job) of the unfinished jobs of --name."""
    name = next(word.partition("=")[2] for word in arguments if word.startswith("--name="))
    jobs = [(path, read(path)) for path in sorted(JOBS.glob("*/job.json"))]
    return [(path, job) for path, job in jobs if job["name"] == name and job["state"] in ("PENDING", "RUNNING")]


def squeue(arguments):
    if (STATE / "faults" / "slurm").exists():
        die("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for path, job in named(arguments):
        print(f"{path.parent.name} gpu {job['name']} me {job['state']} {job['nodes']}")


def scancel(arguments):
    for path, _ in named(arguments):
        with changing(path) as job:
            job["state"] = "CANCELLED"
        started = [pid for pid in (job["shell"], *job["tasks"]) if pid]  # the shell too: it must not queue itself again
        stop(started)
        while any(map(lives, started)):
            time.sleep(0.02)


def scontrol(arguments):
    assert arguments[0] == "requeue"
    path = JOBS / arguments[1] / "job.json"
    with changing(path) as job:
        job["requeue"] = True


def preempt(number):
    """`--signal=TERM`: the tasks of the job's step are told, not its batch shell."""
    for pid in read(JOBS / number / "job.json")["tasks"]:
        tell(pid, signal.SIGTERM)


if __name__ == "__main__":
    tool, *rest = sys.argv[1:]
    call(tool, rest)
    {
        "sbatch": sbatch,
        "srun": srun,
        "squeue": squeue,
        "scancel": scancel,
        "scontrol": scontrol,
        "--supervise": supervise,
    }[tool](rest)
