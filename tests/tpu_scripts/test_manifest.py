"""The manifest of jobset.sh against the published models of the JobSet API."""

from __future__ import annotations

import contextlib

import pytest
from tpu_scripts.test_dry_runs import FLAGS, TRAIN, call

yaml = pytest.importorskip("yaml")
jobset = pytest.importorskip(
    "kubeflow_trainer_api.models.jobset_v1alpha2_job_set"
)  # with all that Kubernetes has in it


def manifest(*flags):
    out, err, code = call("jobset", "run", "--dry_run", *FLAGS["jobset"].split(), *flags, *TRAIN)
    assert code == 0, err
    return out.rpartition(" <<EOF\n")[2].partition("\nEOF\n")[0]


def is_known(text):
    """Whether the models know each field, with its type: they drop what they do not know."""
    found = yaml.safe_load(text)
    return jobset.JobsetV1alpha2JobSet.from_dict(found).to_dict() == found


@pytest.mark.parametrize("flags", [(), ("--env=A=b c", "--restarts=3", "--namespace=s")])
def test_every_field_is_one_of_the_api(flags):
    assert is_known(manifest(*flags))


@pytest.mark.parametrize("field", ["maxRestarts", "onJobFailureReasons", "completionMode", "onExitCodes", "mountPath"])
def test_a_field_that_is_misspelt_would_be_seen(field):
    text = manifest()
    assert field in text
    with contextlib.suppress(ValueError):  # a field that must be there
        assert not is_known(text.replace(field, f"{field}x"))


def test_a_value_of_a_wrong_type_would_be_seen():
    with pytest.raises(ValueError):
        is_known(manifest().replace("maxRestarts: 10", "maxRestarts: many"))
