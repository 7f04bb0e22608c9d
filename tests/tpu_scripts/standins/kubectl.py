"""A stand-in for kubectl and the JobSet controller. It reads the manifest as the controller does."""

from __future__ import annotations

import itertools
import json
import sys

import jobsets
import yaml
from world import call, die, expired, fault, read

# Fields that the JobSet of v0.12 has where the scripts write: an unknown one is refused, as the server does.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"failurePolicy", "replicatedJobs", "network", "successPolicy", "suspend", "ttlSecondsAfterFinished"},
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "spec.replicatedJobs": {"name", "replicas", "template", "dependsOn", "groupName"},
}


def check(value, path=""):
    """Refuse unknown fields."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        if path in FIELDS and (unknown := item.keys() - FIELDS[path]):
            die(f'Error from server (BadRequest): error when creating "STDIN": unknown field "{path}.{min(unknown)}"')
        for key, inner in item.items():
            check(inner, f"{path}.{key}".lstrip("."))


def apply(manifest):
    check(manifest)
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if jobsets.folder(name).exists():
        print(f"jobset.jobset.x-k8s.io/{name} unchanged")
        return
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy needs it
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    fails = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert any(fails.items() <= each.items() for each in spec["failurePolicy"]["rules"])
    ends = sorted([0, *rule["onExitCodes"]["values"], 256])
    keeps = [(low + 1, high - 1) for low, high in itertools.pairwise(ends)]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c"]
    jobsets.create(name, container["args"][0], job["parallelism"], spec["failurePolicy"]["maxRestarts"], keeps)
    print(f"jobset.jobset.x-k8s.io/{name} created")


def patched(manifest, patch):
    """A JSON patch of `add` and `replace`."""
    for change in patch:
        *where, last = change["path"].strip("/").split("/")
        inner = manifest
        for key in where:
            inner = inner[int(key) if isinstance(inner, list) else key]
        if isinstance(inner, list):
            inner.append(change["value"])
        else:
            inner[last] = change["value"]
    return manifest


def main():
    call("kubectl", sys.argv[1:])
    expired("gke-gcloud-auth-plugin")
    words = [word for word in sys.argv[1:] if not word.startswith(("--context=", "--namespace="))]
    match words:
        case ["get", "crd", crd]:
            if fault("no-controller"):
                die(f'Error from server (NotFound): customresourcedefinitions.apiextensions.k8s.io "{crd}" not found')
            print(f"{crd}   2026-01-01T00:00:00Z")
        case ["apply", "-f", "-"]:
            apply(yaml.safe_load(sys.stdin))
        case ["patch", "--local", "-f", "-", "--type=json", patch, "-o", "yaml"]:
            with open(patch.partition("=")[2]) as file:
                print(yaml.safe_dump(patched(yaml.safe_load(sys.stdin), json.load(file))))
        case ["get", "jobset", name, "-o", _]:
            if not jobsets.folder(name).exists():
                die(f'Error from server (NotFound): jobsets.jobset.x-k8s.io "{name}" not found')
            now = read(jobsets.folder(name) / "state.json")
            print(name, now["restarts"], "" if now["state"] == "Running" else now["state"] + " ")
        case ["delete", "jobset", name, "--ignore-not-found", "--wait"]:
            if jobsets.folder(name).exists():
                jobsets.delete(name)
                print(f'jobset.jobset.x-k8s.io "{name}" deleted')
        case other:
            die(f"error: unknown command {other}")


if __name__ == "__main__":
    main()
