"""Every cell of the notebooks runs, from the first one to the last: with few steps here, and in full with `-m slow`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
SMALL = '{"XLMRoberta.layers": 1, "XLMRoberta.width": 16, "XLMRoberta.heads": 2, "XLMRoberta.mlp_width": 16}'
# For the cell that is tagged "parameters".
QUICK = {"aligned": f"STEPS, MODEL, SMALLER = 2, None, {SMALL}"}


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
