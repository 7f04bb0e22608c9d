"""Every cell of the notebooks runs, from the first one to the last: with few steps here, and in full with `-m slow`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jax
import pytest

from xalign_jax.runtime import sharding

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
# For the cells that are tagged "parameters".
ENCODER = """
STEPS, MODEL = 2, None
SMALLER = {"XLMRoberta.layers": 1, "XLMRoberta.width": 16, "XLMRoberta.heads": 2, "XLMRoberta.mlp_width": 16}
"""
DECODER = """
ALIGN_STEPS, STEPS = 2, 4
SMALLER = {"Llama.layers": 1, "Llama.width": 16, "Llama.heads": 2, "Llama.kv_heads": 2, "Llama.mlp_width": 16}
SMALLER |= {"Mixture.tasks": ("lines:en=text.txt",), "Vocabulary.size": 800, "Facts.count": 8, "Perplexity.windows": 8}
SMALLER |= {"WordRetrieval.candidates": 50, "Runtime.log_every": 1}
"""
QUICK = {"aligned": ENCODER, "prealign": DECODER}


@pytest.fixture
def runner():
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def _pictures(notebook: dict) -> int:
    return sum("image/png" in one.get("data", {}) for cell in notebook["cells"] for one in cell.get("outputs", ()))


def test_every_notebook_is_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == QUICK.keys()


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_notebook_runs_with_few_steps(name, runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # For one device, programs compile faster than for eight.
    monkeypatch.setattr(sharding, "present_slices", lambda: [jax.devices()[:1]])
    Path("text.txt").write_text((ROOT / "docs" / "data.md").read_text(encoding="utf-8") * 3, encoding="utf-8")
    notebook = _read(name)
    runner.run(notebook, QUICK[name])
    assert _pictures(notebook) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_notebook_runs_in_full(name, runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = _read(name)
    runner.run(notebook)
    assert _pictures(notebook) == _pictures(_read(name))
