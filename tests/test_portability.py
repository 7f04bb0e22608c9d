"""A model directory in another place, without the gin file, the text and the dictionary that made it."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from commands import xalign

RECIPE = """
include 'recipes/joint_pair_tiny.gin'
TEXT = "lines:en=text/en.txt,de=text/de.txt"
LANGUAGES = ("en", "de")
RATES = {"en": 0.5, "de": 0.4, "facts": 0.1}
DICTIONARY = ("text/words.tsv",)
SENTENCES = {"en": "text/test.en", "de": "text/test.de"}
PROBES = [@Perplexity(), @WordRetrieval(), @SentenceRetrieval(), @Knowledge()]
SentenceRetrieval.least = 20
SentenceRetrieval.metrics = ("accuracy",)
Perplexity.windows = 16
Perplexity.length = 32
Vocabulary.size = 500
Facts.count = 10
Facts.objects = 5
Facts.relations = 2
Llama.layers = 1
Llama.width = 32
Llama.heads = 2
Llama.kv_heads = 1
Llama.mlp_width = 64
pretrain/Stage.schedule = @WarmupConstant()
PRETRAIN_STEPS = 4
Runtime.log_every = 1
"""
LONGER = "--gin.pretrain/Stage.steps=6"


def _spelled(chance, count):
    return ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 7))) for _ in range(count)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(old place, new place): a run moved from old to new, whose text and recipe are gone from the old one.

    `old/longer` is a copy of the run that was extended where it was made. The texts lie in `new/elsewhere`.
    """
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    (old / "text").mkdir()
    chance = random.Random(1)
    english, german = _spelled(chance, 150), _spelled(chance, 150)
    for language, words in (("en", english), ("de", german)):
        rows = [" ".join(chance.choices(words, weights=range(150, 0, -1), k=12)) + "." for _ in range(600)]
        (old / "text" / f"{language}.txt").write_text("\n".join(rows))
        (old / "text" / f"test.{language}").write_text("\n".join(" ".join(words[i : i + 5]) for i in range(30)))
    pairs = dict(zip(english, german, strict=True))
    (old / "text" / "words.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in pairs.items()))
    (old / "small.gin").write_text(RECIPE)
    for arguments in (["--model_dir=run"], ["--model_dir=longer", "--extend", LONGER]):
        if "--extend" in arguments:
            shutil.copytree(old / "run", old / "longer")
        done = xalign("train", "--gin_file=small.gin", *arguments, cwd=old)
        assert done.returncode == 0, done.stderr
    shutil.move(old / "run", new / "run")
    shutil.move(old / "text", new / "elsewhere")
    (old / "small.gin").unlink()
    return old, new


def _rows(folder, name="metrics.jsonl"):
    lines = (folder / name).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if "perf/" not in key} for line in lines]


def _words(place):
    rows = json.loads((place / "run" / "results.json").read_text())
    return {
        (r["language"], r["level"], r["split"], r["control"]): r["value"]
        for r in rows
        if r["probe"] == "word_retrieval"
    }


def test_words_and_facts_are_carried_and_measure_the_same(places):
    _, new = places
    (new / "words.gin").write_text("Evaluation.probes = [@WordRetrieval(), @Knowledge()]\n")
    before = json.loads((new / "run" / "results.json").read_text())
    done = xalign("evaluate", "--gin_file=words.gin", "--model_dir=run", cwd=new)
    assert done.returncode == 0, done.stderr
    after = json.loads((new / "run" / "results.json").read_text())
    assert sorted(map(json.dumps, after)) == sorted(map(json.dumps, before))


def test_the_moved_run_is_exported_and_its_page_is_written(places):
    _, new = places
    done = xalign("export", "--model_dir=run", "--output=hf", cwd=new)
    assert done.returncode == 0 and "verified" in done.stdout, done.stderr
    done = xalign("compare", "run", "--output=report", cwd=new)
    assert done.returncode == 0, done.stderr


def test_a_text_that_is_gone_is_one_line_with_the_binding(places):
    old, new = places
    (new / "own.gin").write_text("Evaluation.probes = [@Perplexity()]\nPerplexity.length = 32\n")
    gone = f"xalign: {old}/text/en.txt: no such file, and run does not hold this text; say where it is now: "
    for command in (("evaluate", "--gin_file=own.gin"), ("train", "--gin_file=run/config.gin")):
        done = xalign(*command, "--model_dir=run", cwd=new)
        assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(gone), done.stderr
        assert "--gin.pretrain_lm/Mixture.tasks='(\"lines:en=PATH,de=" in done.stderr
    # Text that differs is refused, wherever it lies.
    (new / "other.txt").write_text("another text\n" * 50)
    done = xalign("evaluate", "--gin_file=own.gin", "--model_dir=run", _text("other.txt", "other.txt"), cwd=new)
    assert done.returncode == 2 and "is no longer what its checkpoints were trained on" in done.stderr


def _text(english, german):
    return f'--gin.pretrain_lm/Mixture.tasks=("lines:en={english},de={german}",)'


TEXT = _text("elsewhere/en.txt", "elsewhere/de.txt")


def test_the_moved_run_reads_its_text_in_another_place(places):
    _, new = places
    (new / "own.gin").write_text(
        "Evaluation.probes = [@Perplexity()]\nPerplexity.windows = 16\nPerplexity.length = 32\n"
    )
    before = json.loads((new / "run" / "results.json").read_text())
    done = xalign("evaluate", "--gin_file=own.gin", "--model_dir=run", TEXT, cwd=new)
    assert done.returncode == 0, done.stderr
    assert sorted(map(json.dumps, json.loads((new / "run" / "results.json").read_text()))) == sorted(
        map(json.dumps, before)
    )


def test_the_moved_run_continues_as_it_would_have_where_it_was_made(places):
    old, new = places
    sentences = '--gin.pretrain/SentenceRetrieval.files={"en": "elsewhere/test.en", "de": "elsewhere/test.de"}'
    identity = json.loads((new / "run" / "environment.json").read_text())["identity"]
    again = xalign("train", "--gin_file=run/config.gin", "--model_dir=run", TEXT, sentences, cwd=new)
    assert again.returncode == 0, again.stderr
    assert json.loads((new / "run" / "environment.json").read_text())["identity"] == identity
    longer = xalign(
        "train", "--gin_file=run/config.gin", "--model_dir=run", "--extend", LONGER, TEXT, sentences, cwd=new
    )
    assert longer.returncode == 0, longer.stderr
    assert _rows(new / "run") == _rows(old / "longer")
