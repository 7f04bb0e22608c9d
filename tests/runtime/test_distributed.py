"""Who joins others, and who runs alone."""

from __future__ import annotations

import jax
import pytest

from xalign_jax.errors import UserError
from xalign_jax.runtime.cluster import distributed

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "gpu[03-06]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """What `jax.distributed` is asked to do once JAX has looked at the environment; an empty environment at first."""
    for name in {*SLURM, *OPEN_MPI, "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "KUBERNETES_SERVICE_HOST"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed.glob, "glob", lambda pattern: [])
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **options: calls.append((given, options)))
    return calls


def start(monkeypatch, environment, *given):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.initialize(*(given or (None, None, None)))


def test_nothing_happens_on_a_laptop_or_in_a_job_of_one(monkeypatch, joined):
    start(monkeypatch, {})
    start(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": "1"})
    start(monkeypatch, SLURM, None, 1, None)  # told to run alone
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")  # a batch script, outside srun
    start(monkeypatch, {"TPU_WORKER_HOSTNAMES": "localhost"})
    assert not joined


def test_slurm_with_a_process_per_host_gives_it_every_gpu(monkeypatch, joined):
    start(monkeypatch, SLURM)
    ((given, options),) = joined
    assert given == (None, 4, 2)
    assert options["local_device_ids"] == [0, 1, 2, 3] and options["cluster_detection_method"] is None


def test_open_mpi_with_a_process_per_gpu_leaves_the_choice_to_jax(monkeypatch, joined):
    start(monkeypatch, OPEN_MPI)
    ((given, options),) = joined
    assert given == (None, 8, 5) and options["local_device_ids"] is None


def test_open_mpi_5_gives_each_process_the_gpu_of_its_local_rank(monkeypatch, joined):
    five = OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    del five["OMPI_MCA_orte_hnp_uri"]
    start(monkeypatch, five, "host:1234", None, None)
    ((given, options),) = joined
    assert given == ("host:1234", 8, 5) and options["local_device_ids"] == [1]


@pytest.mark.parametrize(
    "environment",
    [
        {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1"},
        {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
    ],
)
def test_hosts_of_tpus_and_kubernetes_are_left_to_jax(monkeypatch, joined, environment):
    start(monkeypatch, environment)
    assert joined[0][0] == (None, None, None)


def test_flags_are_completed_by_the_launcher(monkeypatch, joined):
    start(monkeypatch, SLURM, "gpu03:1234", None, None)
    start(monkeypatch, {}, "gpu03:1234", 9, 0)
    assert [given for given, _ in joined] == [("gpu03:1234", 4, 2), ("gpu03:1234", 9, 0)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, 2, 0), "need --coordinator"),
        (("host:1", 2, None), "--process_id is missing"),
        (("host:1", None, 0), "--processes is missing"),
        (("host", 2, 0), "expected HOST:PORT"),
        (("host:1", 2, 2), "the processes are 0 to 1"),
    ],
)
def test_flags_that_do_not_say_enough(given, said):
    with pytest.raises(UserError, match=said):
        distributed.initialize(*given)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (SLURM | {"SLURM_PROCID": ""}, "SLURM_PROCID=''"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "four"}, "SLURM_STEP_NUM_TASKS='four'"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "-1"}, "OMPI_COMM_WORLD_RANK='-1'"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": ""}, "MEGASCALE_NUM_SLICES=''"),
    ],
)
def test_numbers_of_a_launcher_that_are_none(monkeypatch, environment, said):
    with pytest.raises(UserError, match=f"the environment has {said}, which is no number"):
        start(monkeypatch, environment)


def test_an_environment_without_a_coordinator(monkeypatch):
    def no_coordinator(*given, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", no_coordinator)
    with pytest.raises(UserError, match="--processes=1 to run alone"):
        start(monkeypatch, OPEN_MPI)


def test_alone_everybody_agrees():
    distributed.agree({"Recipe": {"seed": 0}})
    assert distributed.exchange("anything", "mine") == ["mine"]
