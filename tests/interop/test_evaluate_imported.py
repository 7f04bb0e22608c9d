"""`xalign evaluate` on an imported model: probes of files run, and probes that need a run are refused."""

from __future__ import annotations

import json
import random
import shutil

import hf_folders
import pytest
from commands import xalign

FILES = "--gin.SENTENCES={'en': 'en.txt', 'de': 'de.txt'}"


def probes(*names: str) -> str:
    return f"--gin.PROBES=[{', '.join(f'@{name}()' for name in names)}]"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported encoder and two files of 20 parallel lines."""
    folder = tmp_path_factory.mktemp("imported")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "first")
    shutil.move(folder / "first", folder / "run")  # a model directory may be handed on
    chance = random.Random(0)
    for language in ("en", "de"):
        lines = ["".join(chance.choices("abcdefgh ", k=12)).strip() + "x" for _ in range(20)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_probes_that_read_files_measure_it_and_a_report_is_written(place):
    done = xalign(
        "evaluate",
        "--model_dir=run",
        "--gin_file=probes/alignment.gin",
        FILES,
        probes("HiddenCosine", "SentenceRetrieval"),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((place / "run" / "results.json").read_text())
    assert {(row["stage"], row["step"]) for row in rows} == {("import", 0)}
    assert {row["probe"] for row in rows} == {"cosine", "sentence_retrieval"}
    assert {row["n"] for row in rows} == {20}
    assert "## Sentence retrieval, en->de" in (place / "run" / "report.md").read_text()
    assert "page with all figures: run/report.html" in done.stdout.splitlines()[-1]
    assert "Share of sentences whose nearest sentence" in (place / "run" / "report.html").read_text()
    (place / "run" / "pictures.json").write_text("[1]")
    damaged = xalign("evaluate", "--model_dir=run", FILES, cwd=place)
    assert damaged.returncode == 2 and damaged.stderr.count("\n") == 1 and "pictures.json is not what" in damaged.stderr
    (place / "run" / "pictures.json").unlink()
    assert xalign("compare", "run", "--output=report", cwd=place).returncode == 0


def test_a_hugging_face_folder_needs_neither_recipe_nor_import(place):
    """The probes of files run by default and give the figures of the imported model. Its results go elsewhere."""
    names = {path.name for path in (place / "hf").iterdir()}
    done = xalign("evaluate", "--model=hf", "--output=apart", FILES, "--gin.PROBE_LENGTH=64", cwd=place)
    assert done.returncode == 0, done.stderr
    assert names == {path.name for path in (place / "hf").iterdir()}
    assert xalign("evaluate", "--model=run", FILES, "--gin.PROBE_LENGTH=64", cwd=place).returncode == 0
    rows = json.loads((place / "apart" / "results.json").read_text())
    assert rows and all(row in json.loads((place / "run" / "results.json").read_text()) for row in rows)
    assert "## Sentence retrieval, en->de" in (place / "apart" / "report.md").read_text()
    assert xalign("compare", "apart", "run", "--output=both", cwd=place).returncode == 0
    # A second model's results do not mix with them.
    shutil.copytree(place / "hf", place / "other")
    mixed = xalign("evaluate", "--model=other", "--output=apart", FILES, cwd=place)
    assert mixed.returncode == 2 and "holds the results of" in mixed.stderr


@pytest.mark.slow
def test_a_hugging_face_folder_is_exported(place):
    """In another dtype here. The vocabulary is left out, because no fast tokenizer reads our bytes twice."""
    shutil.copytree(place / "hf", place / "ids", ignore=shutil.ignore_patterns("*token*"))
    done = xalign("export", "--model=ids", "--output=half", "--dtype=bfloat16", cwd=place)
    assert done.returncode == 0 and "verified" in done.stdout, done.stderr
    assert json.loads((place / "half" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model=hf"], "bind --gin.SENTENCES"),
        (["--model=hf", "--step=3"], "has no steps"),
        (["--model=run", "--output=x", FILES], "keeps its own results"),
        (["--model=hf", "--gin_file=probes/alignment.gin", probes("WordRetrieval")], "WordRetrieval: no dictionary"),
        (["--model=hf", "--gin_file=probes/alignment.gin", probes("Perplexity")], "needs a causal model"),
        (["--model=hf", FILES, "--gin.Recipe.seed=3"], "no Recipe"),
        (["--model=gone"], "no such folder"),
        (["--model=."], "neither a model directory"),
    ],
)
def test_bad_options_for_a_folder_give_one_line(place, options, said):
    done = xalign("evaluate", *options, cwd=place)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([probes("HiddenCosine")], "probes that read files"),
        ([probes("WordRetrieval")], "WordRetrieval: no dictionary"),
        ([FILES, probes("SentenceRetrieval"), "--gin.Recipe.seed=3"], "Recipe.seed is 0 there, 3 here"),
    ],
)
def test_what_it_lacks_is_named_in_one_line(place, options, said):
    done = xalign("evaluate", "--model_dir=run", "--gin_file=probes/alignment.gin", *options, cwd=place)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xalign") and said in last and "Traceback" not in done.stderr
