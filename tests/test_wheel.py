"""The wheel and the sdist hold the package with its gin files and tasks, and the wheel runs in an empty folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from commands import python

import xalign_jax

ROOT = Path(__file__).parent.parent
FOLDERS = {"xalign_jax": "xalign_jax", "gin": "xalign_jax/gin", "tasks": "xalign_jax/tasks"}  # checkout -> wheel
BUILD = "import setuptools.build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


def _sources():
    """The files of the package by folder of the checkout."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".gin"):
                yield folder, file.relative_to(ROOT / folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, made from a copy of the checkout, where building leaves files."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in (*FOLDERS, "docs", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return copy / "dist"


def test_the_wheel_holds_every_module_and_gin_file_and_the_licence(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"xalign_jax-{xalign_jax.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        rest = {name.partition(".dist-info/")[2] for name in archive.namelist()} - {""}
    assert names == {f"{FOLDERS[folder]}/{file}" for folder, file in _sources()}
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= rest


def test_the_sdist_holds_what_builds_the_wheel_and_what_readers_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"{folder}/{file}" for folder, file in _sources()} <= names
    readers = {
        "LICENSE",
        "CITATION.cff",
        "SECURITY.md",
        "CHANGELOG.md",
        "constraints.txt",
        "requirements-core.txt",
        "docs/licences.md",
    }
    assert readers <= names
    assert not [name for name in names if name.startswith(("tests", "study"))]  # they need a clone


def test_the_wheel_runs_in_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    def xalign(*arguments):
        done = python("-m", "xalign_jax.cli", *arguments, cwd=empty, PYTHONPATH=str(installed))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert xalign("--version").strip() == f"xalign {xalign_jax.__version__}"
    assert "recipes/prealign_clone_tiny.gin" in xalign("list", "recipes")
    assert "Llama.layers" in xalign("show", "--gin_file=recipes/prealign_clone_tiny.gin")
    assert not list(empty.iterdir())
