"""The house rules: who may import whom, sizes of files and functions, what a wheel contains, every recipe parses."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from xalign_jax import cli, config
from xalign_jax.recipe import Recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "xalign_jax"
GIN_FILES = sorted((ROOT / "gin").rglob("*.gin"))
# Some recipes leave text to the user.
PAIR = [
    'TEXT = "lines:en=en.txt,de=de.txt"',
    'LANGUAGES = ("en", "de")',
    'RATES = {"en": 0.88, "de": 0.10, "facts": 0.02}',
    'DICTIONARY = ("en-de.tsv",)',
]
TEXTS = ['TASKS = ("tsv:en=en.tsv,de=de.tsv",)', 'VOCABULARY = "xlmr/"']
NO_FACTS = [*PAIR, 'RATES = {"en": 0.9, "de": 0.1}']
FROM_USERS = {f"prealign_{size}": PAIR for size in ("pair_tiny", "plus_pair_tiny")}
FROM_USERS |= {f"prealign_{size}": NO_FACTS for size in ("150m", "400m", "1_3b")}
FROM_USERS |= {"joint_pair_tiny": PAIR, "held_pair_tiny": PAIR, "infoxlm_base": TEXTS, "infoxlm_large": TEXTS}
RECIPES = sorted((ROOT / "gin" / "recipes").glob("*.gin"))

FILE_LINES = 400
FUNCTION_LINES = 50

# Room -> the rooms it may import besides itself. Plain values (recipe) and errors are open to all, `config` (gin files
# in, dataclasses out) to those who run recipes; `cli` may import anything.
MAY_IMPORT = {
    "cli": {"training", "evaluation", "data", "models", "objectives", "alignment", "interop", "runtime", "scale"}
    | {"config", "parametrizations", "reports", "catalogue"},
    "config": {"gin_files"},
    "gin_files": set(),
    "scale": {"training", "models", "runtime"},
    "training": {"objectives", "parametrizations", "data", "runtime", "models", "config"},
    "evaluation": {"models", "data", "alignment", "runtime"},
    "reports": {"runtime"},
    "parametrizations": {"data"},
    "interop": {"models", "data", "alignment", "runtime", "gin_files"},
    "objectives": {"alignment"},
    "tasks": {"data"},
    "runtime": set(),
    "models": set(),
    "data": set(),
    "alignment": set(),
    "recipe": set(),
    "interfaces": set(),
    "catalogue": {"gin_files"},
    "errors": set(),
    "__init__": set(),
}
OPEN = {"recipe", "interfaces", "errors", "__init__", "__version__"}

# Third-party package -> the only rooms or files that may import it.
PREPARATION = "xalign_jax/data/store/prepare.py"  # runs in a process of its own
PREPARING = {"tasks", PREPARATION}
ONLY_IN = {
    "tensorflow": PREPARING,
    "tensorflow_datasets": PREPARING,
    "tensorflow_text": PREPARING,
    "seqio": PREPARING,
    "clu": PREPARING,
    "torch": {"interop"},
    "transformers": {"interop"},
    "sentence_transformers": {"interop"},
    "flax": {"models"},
}


class Import(NamedTuple):
    """One import statement of one module; `lazy` if it runs inside a function only."""

    path: str
    line: int
    room: str
    module: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a dotted module: "xalign_jax.data.store.store" -> "data", "xalign_jax" -> "__init__"."""
    return [*module.split("."), "__init__"][1]


def imports_of(path: Path) -> Iterator[Import]:
    name = "xalign_jax." + str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*parts[: -node.level], node.module or ""]) if node.level else node.module or ""
            # `from xalign_jax import data` imports a room, `from xalign_jax.data import store` names one already.
            modules = [f"{base}.{a.name}" for a in node.names] if base.strip(".") == "xalign_jax" else [base]
        else:
            continue
        for module in modules:
            yield Import(str(path.relative_to(ROOT)), node.lineno, parts[1], module, id(node) in lazy)


IMPORTS = [found for path in python_files("xalign_jax", "tasks") for found in imports_of(path)]


def test_rooms_import_only_what_lies_below_them():
    unknown = {found.room for found in IMPORTS} - MAY_IMPORT.keys()
    assert not unknown, f"no rule says what these may import: {sorted(unknown)}"
    wrong = []
    for found in IMPORTS:
        target = room_of(found.module)
        if not found.module.startswith("xalign_jax") or target in {found.room} | OPEN | MAY_IMPORT[found.room]:
            continue
        if found.path == PREPARATION and target == "tasks" and found.lazy:
            continue  # the preparing subprocess registers the tasks
        wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_are_imported_only_where_they_belong():
    wrong = []
    for found in IMPORTS:
        allowed = ONLY_IN.get(found.module.split(".")[0])
        if allowed is not None and not {found.room, found.path} & allowed:
            wrong.append(str(found))
        if found.path == PREPARATION and allowed is not None and not found.lazy:
            wrong.append(f"{found} outside a function")
        if found.module.split(".")[0] == "tasks":
            wrong.append(f"{found}: tasks are imported as xalign_jax.tasks only")
    assert not wrong, "\n".join(wrong)


def test_the_command_line_imports_nothing_heavy_before_it_is_needed():
    for found in IMPORTS:
        if found.path == "xalign_jax/cli.py" and not found.lazy:
            assert found.module.split(".")[0] in {*sys.stdlib_module_names} or found.module == "xalign_jax.errors", (
                found
            )


def code_lines(text: str) -> set[int]:
    """The numbers of lines that hold code: neither blank, nor a comment, nor part of a docstring."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in skipped]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def test_files_and_functions_stay_short():
    """Explanations cost nothing: neither comments nor docstrings count."""
    long = []
    for path in python_files("xalign_jax", "tasks", "tests", "benchmarks", "study"):
        text = path.read_text(encoding="utf-8")
        lines, place = code_lines(text), path.relative_to(ROOT)
        long += [(len(lines), FILE_LINES, f"{place}")] if len(lines) > FILE_LINES else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                long += [(own, FUNCTION_LINES, f"{place}:{node.lineno} {node.name}")] if own > FUNCTION_LINES else []
    worst = "\n".join(f"{where}: {lines} lines, at most {most}" for lines, most, where in sorted(long, reverse=True))
    assert not long, worst


def test_gin_holds_no_python():
    assert not list((ROOT / "gin").rglob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_the_command_what_it_costs_and_what_to_expect(path: Path):
    header = path.read_text(encoding="utf-8").partition("\ninclude ")[0]
    assert f"#   xalign train --gin_file=recipes/{path.name} --model_dir=" in header
    assert "\n# Cost: " in header and "\n# Expect: " in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path: Path):
    cli.register()
    (recipe,) = config.load([str(path.relative_to(ROOT / "gin"))], FROM_USERS.get(path.stem, []), (Recipe,))
    assert all(stage.steps > 0 for stage in recipe.stages)


def test_wheel_holds_gin_files_and_tasks(tmp_path: Path):
    """Built from a copy, so that an old build folder cannot lend its files."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("xalign_jax", "gin", "tasks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--wheel-dir", str(tmp_path), *options]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"xalign_jax/{path.relative_to(ROOT)}" for path in [*GIN_FILES, *python_files("tasks")]}
    expected |= {str(path.relative_to(ROOT)) for path in python_files("xalign_jax")}
    assert expected <= names, sorted(expected - names)
    strangers = {name for name in names - expected if ".dist-info/" not in name}
    assert not strangers, sorted(strangers)
    assert any(name.endswith("LICENSE") for name in names)
