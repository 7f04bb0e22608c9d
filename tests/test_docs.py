"""The examples of the documentation run as they stand there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from xalign_jax import cli, config
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.text.names import parse_name
from xalign_jax.evaluation import probes
from xalign_jax.recipe import Recipe
from xalign_jax.runtime.logs import RESULT_KEYS
from xalign_jax.training import checks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _blocks(document: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / document).read_text(encoding="utf-8"), re.DOTALL)


def test_the_document_of_results_has_every_key_and_probe():
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    names = [name for name in probes.__all__ if hasattr(getattr(probes, name), "rows")]
    assert len(names) == 11
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


def test_the_mixtures_of_the_documentation_load(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)
    found = []
    for number, text in enumerate(_blocks("data.md", "gin")):
        if "Cleaning" in text:
            continue
        if "joint_pair" in text:  # recipes with a text of the user's own
            text += 'TEXT = "docs_en"\nLANGUAGES = ("en", "de")\nRATES = {"en": 1.0}\nDICTIONARY = ("en-de.tsv",)\nSENTENCES = {}\n'
        Path(f"{number}.gin").write_text(text)
        (built,) = config.load([f"{number}.gin"], [], (Recipe,))
        if "Vocabulary.words" in text:
            assert built.vocabulary.words == "icu"
            continue
        mixture = built.stages[0].streams[0].mixture
        if mixture.where:
            assert mixture.where == (("provenance", ("original", "human", "")),)
            continue
        found.append(mixture)
    assert [type(mixture.rates).__name__ for mixture in found] == ["Linear", "tuple", "tuple"]
    assert found[1].alpha.values == (0.7, 0.5, 0.3) and found[2].cap == 4


def test_the_mixtures_and_clones_of_the_page_on_imbalance_load(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)
    found = []
    for number, text in enumerate(_blocks("imbalance.md", "gin")):
        Path(f"{number}.gin").write_text(text)
        (built,) = config.load([f"{number}.gin"], [], (Recipe,))
        checks.check(built)
        found.append(built)
    mixtures = [recipe.stages[0].streams[0].mixture for recipe in found]
    assert len(found) == 6 and mixtures[1].task_of("help") == "docs_en" and mixtures[4].epochs == 4
    assert found[-1].vocabulary.compact and found[-1].vocabulary.anchors == 0.1


def test_every_task_of_the_document_of_texts_is_spelled_right():
    """Each line of the first block names tasks of one kind; tasks that are no files have other names."""
    (block,) = [block for block in _blocks("data.md", "") if "Mixture.tasks" in block]
    tasks = [task for line in block.splitlines() for task in ast.literal_eval(line.partition(" = ")[2])]
    known = {task.partition(":")[0] for task in tasks if parse_name(task)}
    assert known == {"text", "lines", "tsv", "pairs", "jsonl", "csv", "parquet", "hf", "tmx", "po", "zip"}
    assert {task.partition(":")[0] for task in tasks} - known == {
        *("docs_en", "catalogs", "home_assistant", "ted_multi_translate", "tfds", "my_task")
    }


def test_the_recipe_of_the_documentation_cleans_its_text(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)
    (recipe,) = [text for text in _blocks("data.md", "gin") if "Cleaning" in text]
    Path("cleaned.gin").write_text(recipe)
    (built,) = config.load(["cleaned.gin"], [], (Recipe,))
    assert built.cleaning == Cleaning(near=0.45, shortest=5, ratio=3.0)


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
