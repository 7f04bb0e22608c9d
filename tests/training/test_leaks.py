"""Leaks: planted sentences of probes and of validation text are found in training text, in all their forms."""

from __future__ import annotations

import json
import random

import pytest
from commands import xalign

from xalign_jax import cli, config
from xalign_jax.data.cleaning.comparable import comparable
from xalign_jax.data.cleaning.leaks import Finder
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.evaluation.probes import GradientCosine, HiddenCosine, Perplexity, SentenceRetrieval
from xalign_jax.models.llama import Llama
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream, identity
from xalign_jax.records.gin_text import as_gin
from xalign_jax.training import leaks, stages
from xalign_jax.training.optimizers import AdamW, WarmupCosine

PLANTED = "The quick brown fox jumps over the lazy dog of the neighbours."
FORMS = {
    "equal": "the QUICK brown  fox jumps -- over the lazy dog of the neighbours",
    "inside": "It was late. The quick, brown fox jumps over the lazy dog of the neighbours! Nobody saw it.",
    "near": "The quick brown fox jumps over the lazy cat of the neighbours.",
}


def lines(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(9)) for _ in range(count)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recipe(tmp_path):
    """Makes a recipe of training texts, one task for each, and of a probe of two files with a planted sentence."""

    def make(*texts: list[str], probes=None, **settings) -> Recipe:
        tasks = []
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_text("\n".join(text))
            tasks.append(f"lines:en={tmp_path}/{number}.txt")
        (tmp_path / "probe.en").write_text("\n".join([*lines(2, 5), PLANTED, *lines(7, 6)]))
        (tmp_path / "probe.de.tsv").write_text("\n".join(f"{k}\t{line}" for k, line in enumerate(lines(10, 7))))
        files = {"en": f"{tmp_path}/probe.en", "de": f"{tmp_path}/probe.de.tsv"}
        probes = (SentenceRetrieval(files=files, least=1),) if probes is None else probes
        stream = Stream("lm", WindowFeed(32), CausalLM(), 8, Mixture(tuple(tasks), {"en": 1}))
        stage = Stage("pretrain", 1, (stream,), AdamW(), WarmupCosine(1e-3), probes=probes)
        model = Llama(layers=1, width=8, heads=2, kv_heads=2, mlp_width=8, max_length=32)
        return Recipe(model, Vocabulary("bytes"), (stage,), **settings)

    return make


def opened(recipe: Recipe):
    stages.prepare_data(recipe)
    return stages.load_data(recipe)


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_sentence_is_found(recipe, form, tmp_path, capsys):
    near = Cleaning(exact=False, near=0.45) if form == "near" else None
    made = recipe([*lines(300), *[FORMS[form]] * 5], cleaning=near)
    corpus = opened(made)
    leaks.check(made, corpus, "report")
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith(
        f"leak: {tmp_path}/probe.en:3: 1 of 10 texts stand in training text, for example {PLANTED!r}"
    )
    assert line.endswith(f"({form} in the training text of lines:en={tmp_path}/0.txt in en)")
    with pytest.raises(UserError, match=r"probe\.en:3: 1 of 10 .* bind Runtime\.leaks = 'report'$"):
        leaks.check(made, corpus, "refuse")
    leaks.check(made, corpus, "ignore")


def test_nothing_is_reported_without_a_leak(recipe, capsys):
    made = recipe([*lines(300), FORMS["near"]])  # near duplicates count only if the texts are cleaned of them
    leaks.check(made, opened(made), "refuse")
    assert not capsys.readouterr().err


def test_a_tsv_file_is_named_with_its_line(recipe, tmp_path):
    made = recipe([*lines(300), *lines(10, 7)[4:6]])
    (line,) = leaks.leaks(made, opened(made))
    assert line.startswith(f"{tmp_path}/probe.de.tsv:5: 2 of 10 texts")


def test_results_are_kept_for_a_restart_until_a_file_changes(recipe, tmp_path, monkeypatch):
    made = recipe([*lines(300), PLANTED])
    corpus = opened(made)
    found = leaks.leaks(made, corpus)
    monkeypatch.setattr(leaks, "_look", lambda *_: pytest.fail("looked again"))
    assert leaks.leaks(made, corpus) == found
    (file,) = (tmp_path / "cache" / "leaks").iterdir()
    assert json.loads(file.read_text()) == found
    file.write_text("[")
    with pytest.raises(pytest.fail.Exception):
        leaks.leaks(made, corpus)
    (tmp_path / "probe.en").write_text("\n".join([PLANTED, *lines(9, 6)]))
    with pytest.raises(pytest.fail.Exception):
        leaks.leaks(made, corpus)


def test_a_cache_that_cannot_be_written_stops_no_run(recipe, tmp_path):
    made = recipe([*lines(300), PLANTED])
    corpus = opened(made)
    (tmp_path / "cache" / "leaks").write_text("no folder")
    assert leaks.leaks(made, corpus)


def test_validation_text_is_looked_for_in_other_tasks(recipe, capsys):
    """The store drops equal texts itself, up to case and spacing. Other punctuation is a leak that it does not see."""
    texts = lines(300)
    made = recipe(texts, [f"«{text}»!" for text in texts], probes=())
    found = leaks.leaks(made, opened(made))
    assert len(found) == 2 and all("validation text: " in line and "(equal in" in line for line in found)
    alone = recipe(texts + [f"«{text}»!" for text in texts], probes=())
    assert not leaks.leaks(alone, opened(alone))


def test_a_report_looks_at_a_part_of_large_texts(recipe):
    made = recipe([*lines(300), *[PLANTED] * 3])
    corpus = opened(made)
    assert leaks.leaks(made, corpus) and not leaks.leaks(made, corpus, looked=100)


def test_every_probe_with_files_is_asked(tmp_path):
    files = {"en": f"{tmp_path}/a.en", "de": f"{tmp_path}/a.de"}
    probes = (
        SentenceRetrieval(files=files),
        HiddenCosine(files=files, length=8),
        GradientCosine(files=files, length=8),
    )
    for probe in probes:
        assert probe.text_files() == (("en", f"{tmp_path}/a.en"), ("de", f"{tmp_path}/a.de"))
    assert Perplexity(length=8).text_files() == ()


def test_identities_stay_without_cleaning(recipe):
    made = recipe(lines(3))
    assert identity(made) != identity(recipe(lines(3), cleaning=Cleaning()))
    assert identity(recipe(lines(3), cleaning=None)) == identity(made)


def test_short_texts_are_found_only_as_whole_texts():
    hits = list(Finder(["short", "x" * 24]).search(["short", "notshort", "y" + "x" * 24, "x" * 23]))
    assert [tuple(hit) for hit in hits] == [(0, 0, "equal"), (1, 2, "inside")]
    assert not list(Finder([]).search(["a"]))


def test_texts_inside_long_ones_are_found_wherever_they_stand():
    rng = random.Random(1)
    wanted = [comparable(text) for text in lines(50, 2)]
    batch = [comparable(" ".join(lines(200, 3 + k))) for k in range(8)]
    planted = {}
    for number, text in enumerate(wanted):
        place = rng.randrange(len(batch))
        at = rng.randrange(len(batch[place]))
        if not any(other[0] == place for other in planted.values()):
            batch[place] = batch[place][:at] + text + batch[place][at:]
            planted[number] = (place, at)
    found = {hit.number: hit.place for hit in Finder(wanted).search(batch)}
    assert found == {number: place for number, (place, _) in planted.items()} and len(planted) > 3


GIN = """
include 'models/llama_1m.gin'
Recipe.vocabulary = @Vocabulary()
Vocabulary.kind = "bytes"
Recipe.stages = [@pretrain/Stage()]
pretrain/Stage.name = "pretrain"
pretrain/Stage.steps = 1
pretrain/Stage.streams = [@lm/Stream()]
pretrain/Stage.optimizer = @AdamW()
pretrain/Stage.schedule = @WarmupCosine()
WarmupCosine.peak = 1e-3
lm/Stream.name = "lm"
lm/Stream.objective = @CausalLM()
lm/Stream.feed = @WindowFeed()
WindowFeed.length = 32
lm/Stream.batch_size = 8
lm/Stream.mixture = @Mixture()
Mixture.tasks = ("lines:en={text}",)
Recipe.cleaning = @Cleaning()
Cleaning.near = 0.45
pretrain/Stage.probes = [@SentenceRetrieval()]
SentenceRetrieval.files = {{"en": "{text}", "de": "{text}"}}
SentenceRetrieval.least = 1
"""


def test_the_commands_report_leaks_and_duplicates(tmp_path):
    texts = lines(300)
    (tmp_path / "en.txt").write_text("\n".join([*texts, *texts[:60]]))
    (tmp_path / "a.gin").write_text(GIN.format(text=tmp_path / "en.txt"))
    gin = f"--gin_file={tmp_path}/a.gin"
    done = xalign("data", "prepare", gin)
    assert done.returncode == 0, done.stderr
    assert "/en.txt: en: 60 of 360 texts dropped (60 exact)" in done.stderr
    assert f"leak: {tmp_path}/en.txt:1: 3" in done.stderr
    done = xalign("data", "prepare", gin, "--gin.Runtime.leaks='refuse'")
    assert done.returncode == 2 and "take them out of the text" in done.stderr
    done = xalign("train", gin, "--gin.Runtime.leaks='refuse'", f"--model_dir={tmp_path}/run")
    assert done.returncode == 2 and "take them out of the text" in done.stderr
    assert not (tmp_path / "run" / "config.gin").exists()
    done = xalign("data", "stats", gin, "--gin.Cleaning.near=None", "--gin.Cleaning.exact=False")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.split("\n") if line.startswith("en "))
    assert 15 < float(row[2].rstrip("%")) < 18 and row[3:] == ["0.00%"] * 3


def test_a_saved_recipe_keeps_its_cleaning(recipe, tmp_path):
    """`config.gin` of a model directory, from which a run is continued and evaluated."""
    cli.register()
    made = recipe(lines(3), probes=(), cleaning=Cleaning(near=0.45, whole_groups=True))
    runtime = Runtime(leaks="refuse")
    (tmp_path / "config.gin").write_text(as_gin(made, runtime))
    assert config.load([str(tmp_path / "config.gin")], [], (Recipe, Runtime)) == [made, runtime]
