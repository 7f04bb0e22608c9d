"""Every command and every block of Python in README.md and docs/ is tried.

Commands are parsed and their gin files loaded, but nothing is trained. `tests/tpu_scripts/test_documents.py` runs the
commands of the pages on clusters. Python runs on tiny models; `tests/test_extending.py` runs that of docs/extending.md.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path

import doc_blocks
import hf_folders
import jax
import numpy as np
import pytest
from doc_blocks import PAGES, ROOT, blocks, spelt_out

import xalign_jax as xa
from xalign_jax import cli, config, gin_files
from xalign_jax.alignment.maps import LinearMap
from xalign_jax.evaluation.language_maps import Fit, LanguageMaps, identified
from xalign_jax.recipe import Evaluation, Recipe, Runtime
from xalign_jax.runtime import sharding
from xalign_jax.runtime.logs import RESULT_KEYS

COMMANDS = [(block.page, command) for page in PAGES for block in blocks(page) for command in block.commands]
# Pages whose commands and Python other tests run, beside those that `xalign` and Python take.
ON_CLUSTERS = ("docs/clusters.md", "docs/first_pod.md")
OUTSIDE = r"(export|cd|grep|head) |python3(\.11)? -m venv |\.\./beam/bin/(pip|pytest) "
# Blocks that need a network. tests/harnesses/ runs such calls.
NEEDS_NETWORK = ("lm_eval.simple_evaluate", "mteb.evaluate")
IMPORTED = """
Recipe.model = @Llama()
Recipe.vocabulary = @Vocabulary()
Llama.layers = 1
Llama.width = 8
Llama.heads = 1
Llama.kv_heads = 1
Llama.mlp_width = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds gin files which commands name: those that pages show, and that of an import."""
    cli.register()
    folder = tmp_path_factory.mktemp("commands")
    for name in ("base", "smollm2"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "model.gin").write_text(IMPORTED)
    for page in [page for page in PAGES if page.stem != "extending"]:
        for name, text in doc_blocks.gin_files(page).items():
            (folder / page.stem).mkdir(exist_ok=True)
            (folder / page.stem / name).write_text(text)
    return folder


def test_there_are_commands_on_most_pages():
    assert len(COMMANDS) > 120 and len({page for page, _ in COMMANDS}) > 17


@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_the_commands_of_a_page_can_be_run(page, place, monkeypatch):
    monkeypatch.chdir(place)
    wrong = []
    for command in [command for name, command in COMMANDS if name == page]:
        for one in spelt_out(command):
            said = _wrong(page, one)
            wrong += [f"{one}: {said}"] if said else []
    assert not wrong, "\n".join(wrong)


def _wrong(page: str, command: str) -> str:
    """What is wrong with a command; "" = nothing."""
    words = shlex.split(command)
    while re.match(r"\w+=", words[0]):
        words.pop(0)
    program = Path(words[0]).name
    if program == "xalign":
        return _wrong_xalign(page, words[1:])
    if program == "make":
        return _wrong_make(words[1:])
    if program == "pip" and words[0] == "pip":
        return _wrong_extras(words)
    if program in ("pytest", "python", "taskset") and not words[0].startswith(".."):
        return _wrong_python(words)
    known = re.match(OUTSIDE, command) or page in ON_CLUSTERS
    return "" if known else "no test knows this program"


def _wrong_xalign(page: str, words: list[str]) -> str:
    try:
        options, bindings = cli._parse([re.sub("=N$", "=1", word) for word in words])
    except SystemExit:
        return "bad usage"
    files = getattr(options, "gin_file", None)
    if words[0] not in ("train", "show", "compile", "data", "evaluate"):
        return ""
    shown = Path(page).stem
    files = [f"{shown}/{file}" if Path(shown, file).is_file() else file for file in files or ["probes/files.gin"]]
    missing = [file for file in files if not Path(file).is_file() and not (gin_files.gin_root() / file).is_file()]
    if missing:  # a file of the reader's own, such as mine.gin
        return "" if all(re.fullmatch(r"\w+(\.gin)?|recipes/ARM\.gin", file) for file in missing) else f"no {missing}"
    try:
        if words[0] != "evaluate":
            config.load(files, bindings, (Recipe, Runtime))
        elif any(word.startswith("--model_dir") for word in words):
            config.load(files, bindings, (Evaluation, Runtime, Recipe), base=["recipes/prealign_clone_tiny.gin"])
        else:
            config.load(files, bindings, (Evaluation, Runtime))
    except cli.UserError as error:
        return str(error)
    return ""


def _wrong_make(words: list[str]) -> str:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, _ = word.partition("=")
        if assigned and not re.search(rf"^{name} \??:?=|\$\((if \$\()?{name}\)", makefile, re.MULTILINE):
            return f"the Makefile has no variable {name}"
        if not assigned and not re.search(rf"^{name}:", makefile, re.MULTILINE):
            return f"the Makefile has no target {name}"
    return ""


def _wrong_extras(words: list[str]) -> str:
    asked = {name for word in words for found in re.findall(r"\.\[(.+)\]", word) for name in found.split(",")}
    known = set(re.findall(r'^        "(\w+)": ', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE))
    return f"setup.py has no extra {asked - known}" if asked - known else ""


def _wrong_python(words: list[str]) -> str:
    if "-m" in words[:2] and "pytest" not in words[0]:
        module = words[2]
        there = module == "venv" or importlib.util.find_spec(module) or (ROOT / module / "__main__.py").is_file()
        return "" if there else f"no module {module}"
    files = [word for word in words[1:] if word.endswith(".py")]
    missing = [file for file in files if not (ROOT / file).is_file()]
    return f"no file {missing}" if missing or not files else ""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny models, results and maps in the places that blocks of Python read."""
    folder = tmp_path_factory.mktemp("python")
    hf_folders.write("xlm-r", folder / "e5-small", num_hidden_layers=8)
    hf_folders.write("llama", folder / "hf")
    (folder / "runs").mkdir()
    (folder / "runs" / "prealign").symlink_to("../hf")
    for name in ("encoder", "runs/a"):
        (folder / name).symlink_to(folder / "e5-small")
    rows = [
        dict.fromkeys(RESULT_KEYS)
        | {"stage": "import", "step": 0, "probe": "mexa", "metric": "mexa", "level": 8, "n": 100}
        | {"language": f"en->{language}", "value": 0.1 * i}
        for i, language in enumerate(("de", "fr", "hi", "sw"))
    ]
    (folder / "report" / "e5").mkdir(parents=True)
    (folder / "report" / "e5" / "results.json").write_text(json.dumps(rows))
    (folder / "belebele.tsv").write_text("de\t0.7\nfr\t0.8\nhi\t0.4\nsw\t0.2\n")
    same = LinearMap(np.eye(16), np.zeros(16))
    fit = Fit(8, 8, identified(xa.load(folder / "e5-small").model), space="pivot")
    maps = LanguageMaps({"en": same, "de": same}, {"en": np.zeros(16), "de": np.zeros(16)}, fit)
    maps.save(folder / "maps")
    return folder


load = xa.load  # while a page runs, `xa.load` is `loaded`


@functools.cache
def loaded(folder):
    """Pages share models, and with them compiled programs. For one device they compile faster than for eight."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sharding, "present_slices", lambda: [jax.devices()[:1]])
        return load(folder)


# tests/test_extending.py and tests/test_tasks.py run these pages' blocks.
PYTHON = {block.page for page in PAGES for block in blocks(page) if block.kind == "python"}
PYTHON -= {"docs/extending.md", "docs/data.md"}


@pytest.mark.parametrize("page", sorted(PYTHON))
def test_the_python_of_a_page_runs(page, models, monkeypatch):
    """All blocks of a page in turn. Names that they do not make themselves are given."""
    monkeypatch.chdir(models)
    monkeypatch.setattr(xa, "load", lambda folder, step=None: loaded(folder), raising=False)  # folders have one step
    names = {"xa": xa, "texts": [f"text {i}" for i in range(12)]}
    for block in [block for block in blocks(ROOT / page) if block.kind == "python"]:
        tree = ast.parse(block.text)
        if not any(call in block.text for call in NEEDS_NETWORK):
            exec(compile(tree, page, "exec"), names)
