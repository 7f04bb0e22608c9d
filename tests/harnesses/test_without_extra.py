"""Without the extra `eval` each harness says in one line how to install it, and the rest of the package works."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from xalign_jax.errors import UserError


@pytest.mark.parametrize(("name", "called"), [("lm_eval", "lm-evaluation-harness"), ("mteb", "mteb")])
def test_a_missing_harness_is_one_line(monkeypatch, name, called):
    monkeypatch.delitem(sys.modules, f"xalign_jax.harnesses.{name}", raising=False)
    for module in [one for one in sys.modules if one.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{called} is not installed .* pip install -e '\.\[eval\]'"):
        importlib.import_module(f"xalign_jax.harnesses.{name}")


def test_the_command_ends_with_the_same_line():
    script = "import sys; sys.modules['lm_eval'] = None; from xalign_jax.harnesses.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("xalign: lm-evaluation-harness is not installed")
