"""xpk.sh, jobset.sh, slurm.sh and gpu_box.sh from create to teardown against stand-ins, fault by fault."""

from __future__ import annotations

import json
import shutil

import pytest
from tpu_scripts.cloud import Cloud

XPK = ["--cluster=c", "--project=p", "--zone=z", "--tpu_type=v5litepod-256", "--name=n", "--image=i", "--poll=0.2"]
JOBSET = ["--context=k", "--name=n", "--image=i", "--hosts=2", "--gpus=8", "--poll=0.2"]
TRAIN = ["--", "--gin_file=recipes/infoxlm_base.gin", "--model_dir=gs://bucket/run", "--gin.TASKS=('a b',)"]
JOB = ["--venv=env", "--name=n", "--hosts=2", "--gpus=8", "--hours=1"]
SHARED = ["--", "--gin_file=recipes/infoxlm_base.gin", "--model_dir=runs/a"]
pytest.importorskip("yaml")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    cloud = Cloud(tmp_path)
    (cloud.home / "env" / "bin").mkdir(parents=True)
    shutil.copy(cloud.environment["STANDIN_XALIGN"], cloud.home / "env" / "bin" / "xalign")
    yield cloud
    cloud.close()


def started(cloud):
    return len(cloud.text("trained").splitlines())


@pytest.mark.parametrize(("script", "flags"), [("xpk", XPK), ("jobset", JOBSET)])
def test_a_workload_restarts_after_passing_causes_until_it_ends(cloud, script, flags):
    (cloud.state / "codes").write_text("3\n4\n134\n")
    cloud.call(script, "create", *flags)
    cloud.call(script, "run", *flags, "--env=A=b c", *TRAIN)
    cloud.until(lambda: started(cloud) == 8)
    assert "n: running" in cloud.call(script, "status", *flags)
    assert "--gin.TASKS=('a b',)" in cloud.text("trained") and "A=b c" in cloud.text("trained")
    cloud.call(script, "run", *flags, *TRAIN)  # what runs stays
    assert started(cloud) == 8
    (cloud.state / "finish").touch()
    cloud.call(script, "watch", *flags, "--autodelete=true", *TRAIN)
    assert not list((cloud.state / "jobsets").glob("*")) and cloud.running() == []
    if script == "jobset":
        assert "n: not there" in cloud.call(script, "teardown", "--context=k", "--name=n")
    else:
        assert not (cloud.state / "cluster-c").exists()
        assert "--gin_file=runtimes/v5e_256.gin" in cloud.text("trained")


@pytest.mark.parametrize(("script", "flags"), [("xpk", XPK), ("jobset", JOBSET)])
@pytest.mark.parametrize("code", ["1", "2"])
def test_a_lasting_cause_ends_a_workload_at_once(cloud, script, flags, code):
    (cloud.state / "codes").write_text(f"{code}\n")
    cloud.call(script, "create", *flags)
    said = cloud.call(script, "watch", *flags, *TRAIN, code=1)
    assert "n: failed" in said and "stays and is billed" in said and started(cloud) == 2
    (cloud.state / "codes").unlink()
    cloud.call(script, "resume", *flags, *TRAIN)
    assert "n: running" in cloud.call(script, "status", *flags)


@pytest.mark.parametrize(("script", "flags"), [("xpk", XPK), ("jobset", JOBSET)])
def test_restarts_have_a_small_limit(cloud, script, flags):
    (cloud.state / "codes").write_text("4\n" * 99)
    cloud.call(script, "create", *flags)
    cloud.call(script, "watch", *flags, "--restarts=2", *TRAIN, code=1)
    assert started(cloud) == 6


@pytest.mark.parametrize(("script", "flags"), [("xpk", XPK), ("jobset", JOBSET)])
def test_an_expired_login_is_never_an_absent_workload(cloud, script, flags):
    cloud.call(script, "create", *flags)
    cloud.call(script, "run", *flags, *TRAIN)
    cloud.fault("login")
    flags = [flag for flag in flags if "image" not in flag]
    for action in ("teardown", "status"):
        said = cloud.call(script, action, *flags, code=2)
        assert "not there" not in said and ("gcloud auth login" in said or "does not say" in said)
    cloud.mend("login")
    assert "n: deleted" in cloud.call(script, "teardown", *flags)
    assert "n: not there" in cloud.call(script, "teardown", *flags)
    assert cloud.running() == []


def test_files_reach_the_pods_and_a_patch_the_manifest(cloud):
    files = cloud.home / "files"
    files.mkdir()
    (files / "mine.gin").write_text("include 'recipes/infoxlm_base.gin'\n")
    place = "/spec/replicatedJobs/0/template/spec/template/spec/serviceAccountName"
    (cloud.home / "patch.json").write_text(json.dumps([{"op": "add", "path": place, "value": "trainer"}]))
    mine = ["--", "--gin_file=mine.gin", "--model_dir=gs://bucket/run"]
    said = cloud.call("jobset", "run", *JOBSET, *mine, code=2)
    assert "--gin_file=mine.gin: no host has this file; give the folder that holds it: --files=DIR" in said
    flags = [*JOBSET, "--hosts=1", "--files=files", "--bucket=gs://bucket/launch", "--patch=patch.json"]
    cloud.call("jobset", "run", *flags, *mine)
    cloud.until(lambda: started(cloud) == 1)
    assert " /tmp/xalign-files train --gin_file=mine.gin" in cloud.text("trained") and " P=." in cloud.text("trained")
    assert "--process_id=0" in cloud.text("trained") and "--coordinator=n-host-0-0.n:8476" in cloud.text("trained")


def test_a_cluster_without_jobset_is_told_how_to_get_it(cloud):
    cloud.fault("no-controller")
    assert "apply --server-side -f https://" in cloud.call("jobset", "create", "--context=k", code=2)


def test_slurm_queues_a_preempted_job_again_although_one_process_is_slow_to_save(cloud):
    """The code of srun is then 143 or 137, not 3."""
    (cloud.state / "slow-1").write_text("30.0")  # SLURM ends it, 60 s after the first
    cloud.call("slurm", "run", *JOB, *SHARED)
    assert "queued or running already" in cloud.call("slurm", "run", *JOB, *SHARED)
    for turn in (1, 2):
        cloud.until(lambda turn=turn: started(cloud) == 2 * turn)
        cloud.control("slurm.preempt('1')")
    cloud.until(lambda: started(cloud) == 6)
    (cloud.state / "finish").touch()
    cloud.until(lambda: "neither queued nor running" in cloud.call("slurm", "status", "--name=n"))
    assert json.loads(cloud.text("jobs/1/job.json"))["code"] == 0 and cloud.running() == []
    assert [path for path in cloud.home.iterdir() if "codes" in path.name] == []


def test_slurm_runs_in_the_folder_of_the_files(cloud):
    """`--venv` stays relative to where the script is called, and modules of recipes are found in the folder."""
    (cloud.home / "files").mkdir()
    (cloud.home / "files" / "mine.gin").write_text("")
    cloud.call("slurm", "run", *JOB, "--files=files", "--", "--gin_file=mine.gin", "--model_dir=runs/a")
    cloud.until(lambda: started(cloud) == 2)
    assert f"{cloud.home}/files train --gin_file=mine.gin" in cloud.text("trained") and " P=." in cloud.text("trained")
    cloud.call("slurm", "teardown", "--name=n")


def test_slurm_keeps_out_of_the_queue_what_would_fail_again(cloud):
    (cloud.state / "codes-0").write_text("1\n")
    (cloud.state / "codes-1").write_text("134\n")
    cloud.call("slurm", "run", *JOB, *SHARED)
    cloud.until(lambda: "neither" in cloud.call("slurm", "status", "--name=n"))
    assert started(cloud) == 2 and "would come again" in (cloud.home / "n.log").read_text()


def test_slurm_stops_at_its_limit_and_at_teardown(cloud):
    (cloud.state / "codes").write_text("4\n" * 3)
    cloud.call("slurm", "run", *JOB, "--restarts=2", *SHARED)
    cloud.until(lambda: "neither" in cloud.call("slurm", "status", "--name=n"))
    assert started(cloud) == 6 and "queued again 2 times" in (cloud.home / "n.log").read_text()
    cloud.call("slurm", "run", *JOB, *SHARED)
    cloud.until(lambda: started(cloud) == 8)
    cloud.call("slurm", "teardown", "--name=n")
    cloud.until(lambda: cloud.running() == [])
    assert json.loads(cloud.text("jobs/2/job.json"))["state"] == "CANCELLED"
    (cloud.state / "faults" / "slurm").touch()
    assert "Unable to contact" in cloud.call("slurm", "run", *JOB, *SHARED, code=1)


def test_a_gpu_box_gets_the_files_and_stops_when_told(cloud):
    (cloud.home / "files").mkdir()
    (cloud.home / "files" / "mine.gin").write_text("")
    cloud.call("gpu_box", "create", "--venv=env", "--package=xalign_jax[cuda] @ git+https://host/x")
    cloud.call(
        "gpu_box", "run", "--venv=env", "--name=n", "--files=files", "--", "--gin_file=mine.gin", "--model_dir=runs/a"
    )
    cloud.until(lambda: started(cloud) == 1)
    assert f"{cloud.home}/n train --gin_file=mine.gin" in cloud.text("trained") and " P=." in cloud.text("trained")
    assert "n runs" in cloud.call("gpu_box", "status", "--name=n")
    cloud.call("gpu_box", "teardown", "--name=n")
    assert "n does not run" in cloud.call("gpu_box", "status", "--name=n") and cloud.running() == []
