"""The claims of SECURITY.md, read off the source text: what the library never calls, and which files reach outside."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import licences
import pytest
from packaging.requirements import Requirement

from xalign_jax.errors import UserError
from xalign_jax.interop.importing import fast_tokenizer

ROOT = Path(__file__).parent.parent
SOURCES = {
    str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8"))
    for folder in ("xalign_jax", "tasks")
    for file in sorted((ROOT / folder).rglob("*.py"))
}
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

# Calls that run what a file says, or unpack it anywhere. `pickle.dumps` writes; only `recv` of worker processes reads.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load"),
    *("dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "yaml.load", "torch.load", "torch.hub.load"),
}
FORBIDDEN_METHODS = {"extractall", "unpack_archive"}

# Module -> the files that import it. Each has a sentence or a row in SECURITY.md.
REACH = {
    "pickle": {"xalign_jax/data/store/workers.py"},
    "multiprocessing": {"xalign_jax/data/store/workers.py"},
    "urllib.request": {"xalign_jax/runtime/cluster/preemption.py"},
    "fsspec": {"xalign_jax/remote_files.py"},
    "huggingface_hub": {"xalign_jax/remote_files.py"},
    "tensorstore": {"xalign_jax/data/store/remote.py"},
    **{name: set() for name in ("requests", "http", "ftplib", "httpx", "aiohttp", "marshal", "dill", "cloudpickle")},
}

# Files that import modules whose names are not constants.
IMPORTERS = {
    "xalign_jax/gin_files.py",  # `import` in gin files
    "xalign_jax/data/store/prepare.py",  # Recipe.modules
    "xalign_jax/data/text/compression.py",  # packages of extras
}


def _calls():
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path}:{node.lineno}", node, ast.unparse(node.func)


def _constant(call, name):
    """The constant value of a keyword of a call; None if the keyword is absent or computed."""
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_nothing_runs_or_unpickles_what_a_file_says():
    wrong = [place for place, _, name in _calls() if name in FORBIDDEN or name.split(".")[-1] in FORBIDDEN_METHODS]
    assert not wrong


def test_numpy_reads_no_pickles_and_no_shell_reads_text():
    for place, call, name in _calls():
        assert _constant(call, "allow_pickle") is not True, place
        assert not [word for word in call.keywords if word.arg == "shell"], place
        if name in ("np.load", "numpy.load"):
            assert not [word for word in call.keywords if word.arg in (None, "allow_pickle")], place


def test_transformers_runs_no_code_of_a_folder():
    found = [(place, call) for place, call, name in _calls() if name.endswith(".from_pretrained")]
    assert len(found) == 3
    for place, call in found:
        own = ast.unparse(call.func) == "PreTrainedTokenizerFast.from_pretrained"  # a class, which names no code
        assert own or _constant(call, "trust_remote_code") is False, place
    assert "trust_remote_code" in TEXT


def test_only_the_files_that_the_document_means_reach_outside():
    found = {module: set() for module in REACH}
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                for module in REACH:
                    if name == module or name.startswith(f"{module}."):
                        found[module].add(path)
    assert found == REACH


def test_data_sets_of_the_hub_have_no_scripts():
    (datasets,) = licences.setup_arguments()["extras_require"]["datasets"]
    assert Requirement(datasets).specifier.contains("4.0.0") and not Requirement(datasets).specifier.contains("3.6.0")


def test_modules_are_imported_by_name_where_the_document_says():
    places = {
        place.rpartition(":")[0]
        for place, call, name in _calls()
        if name.endswith("import_module") and not name.startswith("gin_files.")
        if not (call.args and isinstance(call.args[0], ast.Constant)) and "importlib" in name
    }
    assert places == IMPORTERS
    assert "`import module`" in TEXT and "`Recipe.modules`" in TEXT


def test_a_folder_of_a_stranger_runs_no_code_to_convert_its_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    source = tmp_path / "stranger"
    source.mkdir()
    marker = tmp_path / "ran"
    (source / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    (source / "vocab.txt").write_text("[UNK]\n")
    for name in ("config.json", "tokenizer_config.json"):
        (source / name).write_text('{"auto_map": {"AutoTokenizer": ["own.Own", null], "AutoConfig": "own.Own"}}')
    with pytest.raises(UserError, match=r"transformers cannot convert vocab\.txt"):
        fast_tokenizer(source, tmp_path)
    assert not marker.exists()


def test_the_installer_that_launch_scripts_fetch_is_documented():
    scripts = [file.read_text(encoding="utf-8") for file in (ROOT / "tpu_scripts").glob("*.sh")]
    hosts = {host for text in scripts for host in re.findall(r"(?:curl|wget)[^|;]*https?://([\w.-]+)", text)}
    assert hosts == {"astral.sh"} and "astral.sh" in TEXT
