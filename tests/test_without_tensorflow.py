"""Plain text needs no TensorFlow: everything but seqio's and TFDS's tasks works where it cannot be imported."""

from __future__ import annotations

import random
from pathlib import Path

import licences
import pytest
from commands import python
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent

RECIPE = """
include 'recipes/joint_clone_tiny.gin'
Vocabulary.size = 300
Mixture.tasks = ("lines:en=text.txt",)
Lexicon.size = 200
Facts.count = 20
Facts.objects = 10
Facts.relations = 4
Llama.layers = 1
Llama.width = 16
Llama.heads = 2
Llama.kv_heads = 1
Llama.mlp_width = 32
PRETRAIN_STEPS = 2
PROBES = [@Perplexity()]
Perplexity.windows = 8
"""
PROBE = "Evaluation.probes = [@Perplexity()]\nPerplexity.length = 32\nPerplexity.windows = 4\n"
PACKAGES = ("tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text and a recipe for it, and a folder `absent` of packages that cannot be imported."""
    folder = tmp_path_factory.mktemp("plain")
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 7))) for _ in range(300)]
    lines = [" ".join(chance.choices(words, weights=range(300, 0, -1), k=12)) + "." for _ in range(1500)]
    (folder / "text.txt").write_text("\n".join(lines))
    (folder / "small.gin").write_text(RECIPE)
    (folder / "probe.gin").write_text(PROBE)
    (folder / "absent").mkdir()
    for package in PACKAGES:
        said = f"No module named '{package}' in this test"
        (folder / "absent" / f"{package}.py").write_text(f"raise ImportError({said!r})")
    return folder


def _xalign(place, *arguments):
    """The command in processes that find none of PACKAGES."""
    return python("-m", "xalign_jax.cli", *arguments, cwd=place, PYTHONPATH=str(place / "absent"))


def test_a_run_on_plain_text_prepares_trains_and_evaluates(place):
    trained = _xalign(place, "train", "--gin_file=small.gin", "--model_dir=run")
    assert trained.returncode == 0, trained.stderr
    evaluated = _xalign(place, "evaluate", "--gin_file=probe.gin", "--model_dir=run")
    assert evaluated.returncode == 0, evaluated.stderr


def test_the_core_names_no_package_of_tensorflow():
    core = (ROOT / "requirements-core.txt").read_text(encoding="utf-8").splitlines()
    names = {Requirement(line).name for line in core if not line.startswith("#")}
    everything = {Requirement(line).name for line in licences.setup_arguments()["install_requires"]}
    assert everything - names == {"seqio", "tensorflow", "tensorflow-datasets"} and names <= everything


def test_tasks_of_seqio_are_refused_in_one_line(place):
    for arguments in (
        ("list", "tasks"),
        ("data", "prepare", "--gin_file=small.gin", "--gin.Mixture.tasks=('wiki40b.en',)"),
    ):
        done = _xalign(place, *arguments)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "need packages that cannot be imported (No module named 'seqio' in this test)" in line
        assert "pip install" in line
