"""The examples of the documentation run as they stand there."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from commands import python

from xalign_jax import cli, config
from xalign_jax.evaluation import probes
from xalign_jax.recipe import Recipe
from xalign_jax.runtime.logs import RESULT_KEYS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Less of everything, over a text of the reader's own.
SMALL = """
Vocabulary.size = 400
Mixture.tasks = ("tsv:{files}",)
LANGUAGES = ("en", "de")
XLMRoberta.layers = 3
XLMRoberta.width = 32
XLMRoberta.heads = 2
XLMRoberta.mlp_width = 64
STEPS = 3
MLM_ROWS = 8
distance/Stream.batch_size = 8
Runtime.log_every = 1
SentenceRetrieval.untrained = False
"""


def _blocks(document: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / document).read_text(encoding="utf-8"), re.DOTALL)


def test_the_objective_of_the_documentation_trains(tmp_path):
    (code,), (recipe,) = (_blocks("add_an_objective.md", kind) for kind in ("python", "gin"))
    assert len((code + recipe).splitlines()) < 60
    (tmp_path / "sentence_distance.py").write_text(code)
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=4)) for _ in range(100)]
    lines = [chance.choices(words, k=6) for _ in range(400)]
    for language, change in (("en", str.lower), ("de", str.upper)):
        text = "".join(f"{number}\t{change(' '.join(line))}\n" for number, line in enumerate(lines))
        (tmp_path / f"{language}.tsv").write_text(text)
    files = ",".join(f"{language}={tmp_path}/{language}.tsv" for language in ("en", "de"))
    (tmp_path / "distance.gin").write_text(recipe + SMALL.format(files=files))
    command = ("-m", "xalign_jax.cli", "train", "--gin_file=distance.gin", "--model_dir=run")
    done = python(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["loss/distance"] < 4 for row in rows)
    assert all(row["distance/largest"] >= row["loss/distance"] for row in rows)
    assert "import sentence_distance" in (tmp_path / "run" / "config.gin").read_text()


def test_the_document_of_results_has_every_key_and_probe():
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    names = [name for name in probes.__all__ if hasattr(getattr(probes, name), "rows")]
    assert len(names) == 7
    assert [name for name in (*RESULT_KEYS, *names) if f"`{name}`" not in text] == []


def test_the_recipe_of_the_documentation_continues_from_the_imported_model(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)
    (recipe,) = _blocks("interop.md", "gin")
    Path("runs/xlmr").mkdir(parents=True)
    Path("runs/xlmr/model.gin").write_text(
        "Recipe.model = @XLMRoberta()\nXLMRoberta.layers = 3\nRecipe.init_from = 'runs/xlmr'\nVocabulary.rows = 77\n"
    )
    Path("mine.gin").write_text(recipe)
    (built,) = config.load(["mine.gin"], [], (Recipe,))
    assert (built.model.layers, built.vocabulary.rows, built.init_from) == (3, 77, "runs/xlmr")
    assert built.vocabulary.path == "runs/xlmr/vocabulary"


def test_no_command_installs_the_package_from_an_index():
    """It is on none: a command names a clone (`-e '.[tpu]'`) or an address (`xalign_jax[tpu] @ git+https://...`)."""
    files = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    files += [path for folder in ("xalign_jax", "tpu_scripts") for path in (ROOT / folder).rglob("*.*")]
    wrong = []
    for path in files:
        if path.suffix in (".md", ".py", ".sh"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(r"(install|--package=|PACKAGE=)\s*[\"'\\\\]*xalign_jax(?!\[[\w,]+\] @ )", line):
                    wrong.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert not wrong, "\n".join(wrong)
