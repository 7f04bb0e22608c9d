"""Mutants are programs, each another one than the original, and the same ones each time."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from mutation.mutants import mutants
from mutation.mutate import ROOT, TESTS, belonging, drawn

SOURCE = b'''"""A module."""
NAME = 3


def halves(values: list[int] | None = None, top: int = 9) -> list[int]:
    """Half of each."""
    if values is None:
        raise ValueError(f"{top + 1} values")
    found = sorted(v // 2 for v in values if not v < 1)
    return found[1:] if top else where(found, 0, 1)
'''


def lines(line):
    """What a line may become."""
    return {m.of(SOURCE).decode().split("\n")[line - 1].strip() for m in mutants(SOURCE) if m.line == line}


def test_each_expression_has_its_mutants_and_messages_and_names_have_none():
    assert {m.line for m in mutants(SOURCE)} == {5, 7, 9, 10}
    assert lines(5) == {
        f"def halves(values: list[int] | None = None, top: int = {top}) -> list[int]:" for top in (8, 10)
    }
    assert lines(7) == {"if False:", "if (values is not None):"}
    assert {
        "found = ((v // 2 for v in values if not v < 1))",
        "found = sorted((v * 2) for v in values if not v < 1)",
        "found = sorted(v // 3 for v in values if not v < 1)",
        "found = sorted(v // 2 for v in values if not (v <= 1))",
        "found = sorted(v // 2 for v in values if (v < 1))",
        "found = sorted(v // 2 for v in values if True)",
    } <= lines(9)
    assert {
        "return found[:] if top else where(found, 0, 1)",
        "return (found[1:])",
        "return (where(found, 0, 1))",
        "return found[1:] if top else where(found, 1, 0)",
        "return found[1:] if top else (0)",
    } <= lines(10)


@pytest.mark.parametrize(
    "path",
    ["xalign_jax/objectives/parts/contrast.py", "xalign_jax/data/feeds/codeswitch.py", "tests/mutation/mutants.py"],
)
def test_mutants_are_programs_and_differ_from_the_original(path):
    source = (ROOT / path).read_bytes()
    original, seen = ast.dump(ast.parse(source)), set()
    for mutant in mutants(source)[::9]:
        seen.add(ast.dump(ast.parse(mutant.of(source))))
    assert original not in seen and len(seen) > 9


def test_the_draw_is_a_function_of_the_seed_and_a_line_narrows_it():
    path = "xalign_jax/objectives/parts/queue.py"
    assert drawn([path], 5, 1) == drawn([path], 5, 1) != drawn([path], 5, 2)
    (first, *_) = drawn([path], 99, 0)
    assert {mutant.line for _, mutant in drawn([f"{path}:{first[1].line}"], 99, 0)} == {first[1].line}
    assert len(drawn([path], 10**6, 0)) == len(mutants((ROOT / path).read_bytes()))


def test_the_tests_that_belong_to_modules_exist():
    for name in TESTS:
        assert (ROOT / "xalign_jax" / name).exists() and belonging(f"xalign_jax/{name}")


def test_a_fork_tells_tests_that_fail_pass_and_hang(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_it(): time.sleep(60)\ndef test_no(): assert False\ndef test_yes(): pass\n"
    )
    tried = [("test_no", 60), ("test_yes", 60), ("test_it", 2)]
    calls = ", ".join(f"in_fork(Path.cwd(), ['test_it.py::{name}'], {seconds})" for name, seconds in tried)
    program = (
        f"from pathlib import Path\nfrom mutation.mutate import in_fork\nprint([{calls}])"  # without JAX's threads
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "[1, 0, None]", run.stderr
