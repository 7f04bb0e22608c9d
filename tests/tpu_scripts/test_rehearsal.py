"""A small run on local "hosts" through each launcher: preempted twice, it trains every step once and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from tpu_scripts.cloud import Cloud
from training.runs import STEPS, metrics, steps_logged

TESTS = Path(__file__).parent.parent
TRAIN = ["--", "--gin_file=recipes/infoxlm_base.gin"]
CLOUD_TPU = ["--name=n", "--project=p", "--zone=z", "--accelerator=v5litepod-8", "--package=xalign", "--poll=0.3"]
XPK = ["--cluster=c", "--project=p", "--zone=z", "--tpu_type=v5litepod-8", "--name=n", "--image=i", "--spot=true"]
JOBSET = ["--context=k", "--name=n", "--image=i", "--gpus=1"]
# In place of `xalign train`: the toy of the tests of training, with the launcher's numbers of processes.
XALIGN = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(TESTS)!r})
from training import toy
(folder,) = [word.removeprefix("--model_dir=") for word in sys.argv if word.startswith("--model_dir=")]
own, all = os.environ["STANDIN_NUMBER"], os.environ["STANDIN_HOSTS"]
join = [f"coordinator=127.0.0.1:{{os.environ['STANDIN_PORT']}}", f"processes={{all}}", f"process_id={{own}}"]
sys.argv[1:] = [folder.replace("gs:/", os.environ["STANDIN_STATE"]), "steps={STEPS}", "sleep=0.2", "renew_seconds=1", *join]
toy.main()
"""


@pytest.fixture
def cloud(tmp_path):
    (tmp_path / "xalign").write_text(XALIGN)
    (tmp_path / "xalign").chmod(0o755)
    cloud = Cloud(tmp_path, tmp_path / "xalign")
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    cloud.environment |= {"XLA_FLAGS": flags, "XALIGN_SETTLE": "0.2", "STANDIN_PORT": str(20000 + os.getpid() % 9000)}
    (cloud.home / "env" / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "xalign", cloud.home / "env" / "bin" / "xalign")
    yield cloud
    cloud.close()


def is_trained(cloud, model_dir, preempt):
    """Preempt the run at two moments; then every step must have been trained once."""
    for steps in (3, 12):
        cloud.until(lambda steps=steps: steps_logged(model_dir) >= steps, 180)
        cloud.control(preempt)
    cloud.until(lambda: steps_logged(model_dir) >= STEPS, 180)
    cloud.until(lambda: (model_dir / "results.json").exists(), 60)
    assert [row["step"] for row in metrics(model_dir)] == list(range(1, STEPS + 1))


pytestmark = pytest.mark.slow
hosts = pytest.mark.parametrize("hosts", [2, 4])


@hosts
def test_slurm(cloud, hosts):
    cloud.environment |= {"STANDIN_HOSTS": str(hosts)}
    model_dir = cloud.home / "runs" / "a"
    job = ["--venv=env", "--name=n", f"--hosts={hosts}", "--gpus=1", "--hours=1"]
    cloud.call("slurm", "run", *job, *TRAIN, f"--model_dir={model_dir}")
    is_trained(cloud, model_dir, "slurm.preempt('1')")
    cloud.until(lambda: cloud.running() == [], 60)
    ended = json.loads(cloud.text("jobs/1/job.json"))
    assert (ended["code"], ended["restarts"]) == (0, 2)
    assert (cloud.home / "n.log").read_text().count("joins the others") == 3 * hosts


@hosts
def test_cloud_tpu(cloud, hosts):
    cloud.environment |= {"STANDIN_HOSTS": str(hosts), "STANDIN_WORKERS": "1"}
    slices = f"--slices={hosts}"
    end = [*TRAIN, "--model_dir=gs://bucket/run"]
    watching = cloud.start("cloud_tpu", "watch", *CLOUD_TPU, slices, "--autodelete=true", *end)
    is_trained(cloud, cloud.state / "bucket" / "run", "gcloud.preempt('n')")
    assert watching.wait(120) == 0, cloud.log()
    assert "n: deleted" in cloud.text("background") and not cloud.text("queued/n")
    cloud.until(lambda: cloud.running() == [], 60)


@hosts
def test_jobset(cloud, hosts):
    pytest.importorskip("yaml")
    cloud.environment |= {"STANDIN_HOSTS": str(hosts)}
    end = [*TRAIN, "--model_dir=gs://bucket/run"]
    cloud.call("jobset", "run", *JOBSET, f"--hosts={hosts}", *end)
    is_trained(cloud, cloud.state / "bucket" / "run", "jobsets.preempt('n')")
    cloud.call("jobset", "watch", *JOBSET, f"--hosts={hosts}", "--poll=0.3", "--autodelete=true", *end)
    cloud.until(lambda: cloud.running() == [], 60)


@hosts
def test_xpk(cloud, hosts):
    cloud.environment |= {"STANDIN_HOSTS": str(hosts), "STANDIN_WORKERS": "1"}
    flags, end = [*XPK, f"--slices={hosts}"], [*TRAIN, "--model_dir=gs://bucket/run"]
    cloud.call("xpk", "create", *flags)
    cloud.call("xpk", "run", *flags, *end)
    is_trained(cloud, cloud.state / "bucket" / "run", "jobsets.preempt('n')")
    cloud.call("xpk", "watch", *flags, "--poll=0.3", "--autodelete=true", *end)
    assert not (cloud.state / "cluster-c").exists()
    cloud.until(lambda: cloud.running() == [], 60)
