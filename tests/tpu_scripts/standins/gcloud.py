"""A stand-in for gcloud: queued resources whose hosts are folders of this machine, and `gcloud storage cp`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import systemctl
from world import STATE, call, die, expired, fault

WORKERS = int(os.environ.get("STANDIN_WORKERS", "2"))  # hosts of a slice
COMING = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
# Flags of the generally available commands, from their reference pages.
FLAGS = {
    "create": "accelerator-type runtime-version node-id node-count node-prefix scopes network subnetwork service-account "
    "labels tags metadata valid-until-duration",
    "describe": "format",
    "delete": "",
    "ssh": "node worker batch-size command strict-host-key-checking ssh-key-file",
}
SWITCHES = {
    "create": "spot reserved internal-ips async",
    "delete": "force async",
    "ssh": "internal-ip tunnel-through-iap",
}


def hosts(name):
    """The home directories of a resource's hosts."""
    return sorted((STATE / "hosts").glob(f"{name}-node*"))


def parse(verb, arguments):
    parser = argparse.ArgumentParser(prog="gcloud", allow_abbrev=False)
    parser.add_argument("name")
    for flag in ["project", "zone", *FLAGS[verb].split()]:
        parser.add_argument(f"--{flag}")
    for flag in ["quiet", *SWITCHES.get(verb, "").split()]:
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args(arguments)


def queued(verb, arguments):
    given = parse(verb, arguments)
    path = STATE / "queued" / given.name
    place = f"projects/{given.project}/locations/{given.zone}/queuedResources/{given.name}"
    tool = f"gcloud.compute.tpus.queued-resources.{verb}"
    expired(tool)
    if verb == "create":
        if path.exists():
            die(f"ERROR: ({tool}) ALREADY_EXISTS: Resource '{place}' already exists.")
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([given.node_count or "1", *COMING]))
        print(f"Create request issued for: [{given.name}]", file=sys.stderr)
        return
    if not path.exists():
        die(f"ERROR: ({tool}) NOT_FOUND: Resource '{place}' was not found.")
    nodes, *states = path.read_text().split()
    if verb == "describe":
        print(states[0])
        if len(states) > 1:
            states.pop(0)
            path.write_text("\n".join([nodes, *states]))
        if states[0] == "ACTIVE":
            for host in range(int(nodes) * WORKERS):
                (STATE / "hosts" / f"{given.name}-node{host // WORKERS}-w{host % WORKERS}").mkdir(
                    parents=True, exist_ok=True
                )
    elif verb == "delete":
        if states[0] == "ACTIVE" and not given.force:
            die(f"ERROR: ({tool}) FAILED_PRECONDITION: The resource is ACTIVE; use --force.")
        lose(given.name)
        path.unlink()
    else:
        if states[0] != "ACTIVE":
            die(f"ERROR: ({tool}) the queued resource is {states[0]}")
        sys.exit(ssh(given.name, given.command, tool))


def lose(name, seconds=1.0):
    """The hosts of a resource end, all at once: processes are told, then killed, then the machines are gone."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda home: systemctl.end(home, seconds), hosts(name)))
    for home in hosts(name):
        shutil.rmtree(home)


def ssh(name, command, tool):
    """Runs a command on all hosts at once. Returns the code of one that failed, as gcloud does."""
    running = []
    for number, home in enumerate(hosts(name)):
        if (home / "dead").exists():
            running.append(subprocess.Popen(["sh", "-c", "echo 'ssh: Connection refused' >&2; exit 255"]))
            continue
        environment = os.environ | {"HOME": str(home), "STANDIN_HOST": home.name, "STANDIN_NUMBER": str(number)}
        running.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=environment, stdin=subprocess.DEVNULL))
    failed = [process.wait() for process in running if process.wait()]
    if failed:
        print(f"ERROR: ({tool}) [/usr/bin/ssh] exited with return code [{failed[0]}].", file=sys.stderr)
    return failed[0] if failed else 0


def copy(arguments):
    """`storage cp FROM TO`; gs://bucket is the server at STORAGE_EMULATOR_HOST (tests/runtime/gcs.py)."""
    import urllib.request
    from urllib.parse import quote

    expired("gcloud.storage.cp")
    source, target = (word for word in arguments if not word.startswith("--"))
    server = os.environ["STORAGE_EMULATOR_HOST"]
    if source.startswith("gs://"):
        if fault("storage"):
            die("ERROR: HTTPError 503: Service Unavailable")
        name = source.removeprefix("gs://bucket/")
        target = Path(target) / Path(name).name if Path(target).is_dir() else Path(target)
        with urllib.request.urlopen(f"{server}/storage/v1/b/bucket/o/{quote(name, '')}?alt=media") as answer:
            target.write_bytes(answer.read())
        return
    if not target.startswith("gs://bucket/"):
        die(f"ERROR: (gcloud.storage.cp) {target} not found: 404.")
    name = target.removeprefix("gs://bucket/")
    url = f"{server}/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name, '')}"
    urllib.request.urlopen(urllib.request.Request(url, Path(source).read_bytes(), method="POST")).read()


def main():
    call("gcloud", sys.argv[1:])
    match sys.argv[1:]:
        case ["compute", "tpus", "queued-resources", verb, *rest] if verb in FLAGS:
            queued(verb, rest)
        case ["storage", "cp", *rest]:
            copy(rest)
        case other:
            die(f"ERROR: (gcloud) Invalid choice: {other}", 2)


def preempt(name):
    """A spot slice is taken back: after the notice the hosts are gone, and the request is suspended."""
    path = STATE / "queued" / name
    lose(name, 50)
    path.write_text("\n".join([path.read_text().split()[0], "SUSPENDED"]))


if __name__ == "__main__":
    main()
