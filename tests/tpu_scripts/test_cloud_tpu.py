"""cloud_tpu.sh from create to teardown against stand-ins, fault by fault."""

from __future__ import annotations

import re
import threading

import pytest
from tpu_scripts.cloud import Cloud

NAME = ["--name=n", "--project=p", "--zone=z"]
QUICK = ["--poll=0.1", "--settle=0.5"]
FLAGS = [*NAME, *QUICK, "--accelerator=v5litepod-8", "--slices=2", "--package=xalign_jax[tpu,gcs] @ git+https://host/x"]
TRAIN = ["--", "--gin_file=mine.gin", "--model_dir=gs://bucket/run", "--gin.TASKS=('a b',)"]


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_WORKERS", "1")
    cloud = Cloud(tmp_path)
    files = cloud.home / "files"
    files.mkdir()
    (files / "mine.gin").write_text("include 'recipes/infoxlm_base.gin'\n")
    (files / "en.tsv").write_text("a\n")
    cloud.environment |= {"STANDIN_WORKERS": "1", "XALIGN_FILES": "files", "XALIGN_BUCKET": "gs://bucket/launch"}
    yield cloud
    cloud.close()


def test_from_nothing_to_the_end(cloud):
    """create, run, status, stop, teardown; each may be repeated."""
    assert "n: not there" in cloud.call("cloud_tpu", "teardown", *NAME)
    cloud.fault("busy")  # one host cannot download at once
    said = cloud.call("cloud_tpu", "create", *FLAGS)
    assert "n: ACTIVE" in said and "installed on all hosts" in said
    said = cloud.call("cloud_tpu", "run", *FLAGS, *TRAIN, "--gin.A=$HOME\"'")
    assert "n: running: 2 hosts" in said and "no preset for 2 slices" in said
    home = cloud.state / "hosts" / "n-node1-w0"
    trained = cloud.text("trained").splitlines()
    assert len(trained) == 2 and f" {home}/xalign-files train --gin_file=mine.gin" in trained[0] + trained[1]
    assert "--gin.TASKS=('a b',) --gin.A=$HOME\"' A=" in trained[0]
    assert " P=." in trained[0] and (home / "xalign-files" / "en.tsv").read_text() == "a\n"
    unit = (home / "etc/systemd/system/xalign.service").read_text()
    for line in ("LimitMEMLOCK=infinity", "LimitNOFILE=1048576", "EnvironmentFile=-/etc/environment"):
        assert f"\n{line}\n" in unit
    assert f"\nExecStart=/bin/bash {home}/xalign-start.sh" in unit
    cloud.call("cloud_tpu", "run", *FLAGS, *TRAIN)
    assert len(cloud.text("trained").splitlines()) == 2
    assert "n: running" in cloud.call("cloud_tpu", "status", *FLAGS)
    assert "n: deleted" in cloud.call("cloud_tpu", "teardown", *NAME)
    assert not list((cloud.state / "hosts").glob("*")) and cloud.running() == []
    assert "nothing to delete" in cloud.call("cloud_tpu", "teardown", *NAME)


def test_an_expired_login_is_never_an_absent_machine(cloud):
    cloud.call("cloud_tpu", "create", *FLAGS)
    cloud.fault("login")
    said = cloud.call("cloud_tpu", "teardown", *NAME, code=2)
    assert "gcloud auth login" in said and "machines may still be billed" in said
    before = len(cloud.called("queued-resources create"))
    assert "gcloud auth login" in cloud.call("cloud_tpu", "create", *FLAGS, code=2)
    assert len(cloud.called("queued-resources create")) == before
    said = cloud.call("cloud_tpu", "watch", *FLAGS, "--poll=0", *TRAIN, code=2)
    assert "could not ask 10 times; the machine may still be billed" in said
    cloud.mend("login")
    assert "n: deleted" in cloud.call("cloud_tpu", "teardown", *NAME)


def test_files_that_no_host_has_are_named_before_anything_starts(cloud):
    del cloud.environment["XALIGN_FILES"]
    said = cloud.call("cloud_tpu", "run", *FLAGS, *TRAIN, code=2)
    assert (
        said == "cloud_tpu.sh: --gin_file=mine.gin: no host has this file; give the folder that holds it: --files=DIR\n"
    )
    said = cloud.call("cloud_tpu", "run", *FLAGS, "--files=files", "--", "--gin_file=no.gin", *TRAIN[2:], code=2)
    assert "--gin_file=no.gin: not in --files=files" in said
    assert not cloud.called("gcloud")


def test_a_run_that_fails_at_once_is_said_and_not_started_again(cloud):
    (cloud.state / "codes").write_text("2\n")
    cloud.call("cloud_tpu", "create", *FLAGS)
    said = cloud.call("cloud_tpu", "run", *FLAGS, *TRAIN, code=1)
    assert "n: failed: exit code 2 on" in said and "2 of 2 hosts" in said
    assert len(cloud.text("trained").splitlines()) == 2


def test_hosts_start_the_run_again_after_a_lost_process_and_a_reboot(cloud):
    (cloud.state / "codes").write_text("4\n134\n")
    cloud.call("cloud_tpu", "create", *FLAGS)
    assert "n: running" in cloud.call("cloud_tpu", "run", *FLAGS, *TRAIN)
    cloud.until(lambda: len(cloud.text("trained").splitlines()) == 6)
    cloud.control(f"systemctl.reboot(Path('{cloud.state}/hosts/n-node0-w0'))")
    cloud.until(lambda: len(cloud.text("trained").splitlines()) == 7)
    assert "n: running: 2 hosts" in cloud.call("cloud_tpu", "status", *FLAGS)


def test_a_host_stops_restarting_at_the_limit(cloud):
    (cloud.state / "codes").write_text("4\n" * 9)
    cloud.call("cloud_tpu", "create", *FLAGS)
    cloud.call("cloud_tpu", "run", *FLAGS, "--restarts=3", "--settle=3.0", *TRAIN, code=1)
    assert len(cloud.text("trained").splitlines()) == 6


def test_watch_resumes_what_is_preempted_and_ends_with_the_run(cloud):
    watching = cloud.start("cloud_tpu", "watch", *FLAGS, "--autodelete=true", *TRAIN)
    for turn in (1, 2):
        cloud.until(lambda turn=turn: len(cloud.text("trained").splitlines()) == 2 * turn)
        cloud.until(lambda turn=turn: cloud.text("background").count("running: 2 hosts") >= 2 * turn - 1)
        cloud.control("gcloud.preempt('n')")
    cloud.until(lambda: len(cloud.text("trained").splitlines()) == 6)
    (cloud.state / "finish").touch()
    assert watching.wait(120) == 0, cloud.log()
    said = cloud.text("background")
    assert "n: done: all 2 hosts" in said and "resume 3 of 10" in said and "n: deleted" in said
    assert not cloud.text("queued/n") and cloud.running() == []


def test_watch_waits_while_a_preemption_stops_hosts_one_after_another(cloud):
    """One host has saved and stopped; the other is still saving when `watch` looks."""
    (cloud.state / "hold-1").touch()
    watching = cloud.start("cloud_tpu", "watch", *FLAGS, "--autodelete=true", *TRAIN)
    cloud.until(lambda: re.search(r":\d\d n: running", cloud.text("background")))  # with the time, as `watch` says it
    preempted = threading.Thread(target=cloud.control, args=("gcloud.preempt('n')",))
    preempted.start()
    cloud.until(lambda: re.search(r":\d\d n: halted: exit code 3 on", cloud.text("background")), 40)
    (cloud.state / "hold-1").unlink()
    preempted.join()
    cloud.until(lambda: len(cloud.text("trained").splitlines()) == 4)
    (cloud.state / "finish").touch()
    assert watching.wait(120) == 0, cloud.log()


def test_watch_ends_a_run_that_failed_or_costs_too_much(cloud):
    (cloud.state / "codes").write_text("1\n")
    said = cloud.call("cloud_tpu", "watch", *FLAGS, "--autodelete=true", *TRAIN, code=1)
    assert "n: failed: exit code 1" in said and "n: deleted" in said
    (cloud.state / "codes").unlink()
    said = cloud.call("cloud_tpu", "watch", *FLAGS, "--budget_hours=0.0003", *TRAIN, code=1)
    assert "the budget of 0.0003 hours is used up" in said and "n: deleted" in said
    assert cloud.running() == []


@pytest.mark.slow
def test_watch_makes_a_slice_again_whose_host_is_dead_and_leaves_alone_what_somebody_deleted(cloud):
    watching = cloud.start("cloud_tpu", "watch", *FLAGS, "--poll=0", *TRAIN)
    cloud.until(lambda: "running: 2 hosts\n" in cloud.text("background").partition("resume 1")[2])
    (cloud.state / "hosts" / "n-node1-w0" / "dead").touch()
    cloud.until(lambda: len(cloud.text("trained").splitlines()) == 4)
    said = cloud.text("background")
    assert "n: silent: 1 hosts answer, not 2" in said and "the run could not be told to save" in said
    cloud.until(lambda: cloud.text("background").rstrip().endswith("running: 2 hosts"))
    cloud.call("cloud_tpu", "teardown", *NAME)
    assert watching.wait(120) in (1, 2)  # it has seen that the run was told to stop, or that the slices are gone
    assert "somebody has removed it" in cloud.text("background") or "n: stopped" in cloud.text("background")
    assert not cloud.text("queued/n")


def test_a_wheel_and_its_pins_reach_every_host(cloud):
    (cloud.home / "xalign_jax-0.1.0-py3-none-any.whl").write_text("wheel")
    (cloud.home / "pins.txt").write_text("jax==0.10.2\n")
    wheel = ["--package=xalign_jax-0.1.0-py3-none-any.whl[tpu,gcs]", "--constraints=pins.txt"]
    cloud.call("cloud_tpu", "create", *FLAGS, *wheel, "--create_flags=--network=mine --internal-ips", "--slices=1")
    (request,) = cloud.called("queued-resources create")
    assert "--network=mine --internal-ips" in request and "--node-id=n" in request
    assert "--runtime-version=v2-alpha-tpuv5-lite" in request
    assert [
        line for line in cloud.called("pip install") if "/pins.txt" in line and "xalign_jax[tpu,gcs] @ file://" in line
    ]
