"""A model directory recognises its own run, and refuses another one with the differences."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from training import toy

import xalign_jax
from xalign_jax import cli, config
from xalign_jax.data.lexicon.lexicon import Lexicon
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.evaluation.probes.sentence_retrieval import SentenceRetrieval
from xalign_jax.recipe import Recipe, Runtime, identity, located
from xalign_jax.training import inputs, run_directory
from xalign_jax.training.optimizers import WarmupConstant, WarmupCosine, WarmupLinear, WarmupStableDecay

PREPARED = SimpleNamespace(tokenizer=toy.ids(), stores={}, lexicon=None, facts=None)
MESH = SimpleNamespace(shape={})


def with_paths(prefix=""):
    """A recipe with paths in every place that may hold one."""
    (stage,) = toy.recipe(3).stages[1:]
    mixture = Mixture((f"text:en={prefix}en.txt,de={prefix}de.txt", "docs_en"))
    probes = (SentenceRetrieval((("en", f"{prefix}a.txt"), ("de", f"{prefix}b.txt"))),)
    stream = dataclasses.replace(stage.streams[0], mixture=mixture)
    paths = (f"{prefix}en-de.tsv", (f"{prefix}de-fr.tsv", ("de", "fr")))
    return dataclasses.replace(
        toy.recipe(3),
        vocabulary=Vocabulary(path=f"{prefix}spm.model"),
        lexicon=Lexicon("file", paths, ("en", "de", "fr")),
        stages=(dataclasses.replace(stage, streams=(stream,), probes=probes),),
        init_from=f"{prefix}runs/a",
    )


def describe(model_dir, recipe):
    run_directory.describe(model_dir, recipe, Runtime(), "toy", MESH, PREPARED, {})


def test_paths_are_absolute_in_what_a_run_writes_and_its_identity_is_as_written(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)
    recipe, model_dir = with_paths(), tmp_path / "run"
    assert located(recipe) == with_paths(f"{tmp_path}/")
    describe(model_dir, recipe)
    environment = json.loads((model_dir / "environment.json").read_text())
    assert environment["identity"] == identity(recipe) and environment["folder"] == str(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (read,) = config.load([str(model_dir / "config.gin")], [], (Recipe,))
    assert dataclasses.replace(read, modules=()) == with_paths(f"{tmp_path}/")
    run_directory.claim(model_dir, with_paths(f"{tmp_path}/"), extend=False)  # the same files, spelled otherwise
    run_directory.claim(model_dir, with_paths(), extend=False)  # the same words: a folder that was moved
    with pytest.raises(UserError, match=r"Recipe\.init_from is .*runs/a' there, .*elsewhere"):
        run_directory.claim(model_dir, with_paths("./"), extend=False)
    describe(model_dir, with_paths(f"{tmp_path}/"))
    assert json.loads((model_dir / "environment.json").read_text())["identity"] == identity(recipe)


def test_an_object_store_stays_what_it_is():
    recipe = dataclasses.replace(toy.recipe(3), init_from="gs://bucket/runs/a")
    assert located(recipe) == recipe


@pytest.mark.parametrize(
    ("schedule", "done", "jumps"),
    [
        (WarmupCosine(1e-3), 100, True),
        (WarmupLinear(1e-3), 100, True),
        (WarmupConstant(1e-3, warmup=0.1), 100, False),
        (WarmupConstant(1e-3, warmup=0.1), 8, True),  # the longer warm-up would be under way
        (WarmupStableDecay(1e-3, warmup_steps=10, decay=0.2), 80, False),
        (WarmupStableDecay(1e-3, warmup_steps=10, decay=0.2), 5, False),
        (WarmupStableDecay(1e-3, warmup_steps=10, decay=0.2), 82, True),
        (WarmupCosine(1e-3), 0, False),
    ],
)
def test_a_stage_is_extended_only_where_its_learning_rate_goes_on(tmp_path, monkeypatch, schedule, done, jumps):
    align, pretrain = toy.recipe(3).stages

    def recipe(steps):
        last = dataclasses.replace(pretrain, steps=steps, schedule=schedule)
        return dataclasses.replace(toy.recipe(3), stages=(align, last))

    describe(tmp_path, recipe(100))
    known = json.loads((tmp_path / "environment.json").read_text())
    monkeypatch.setattr(run_directory, "_known", lambda model_dir: (known, align.steps + done))
    if jumps:
        with pytest.raises(UserError, match=rf"^--extend: {type(schedule).__name__} depends on .*WarmupStableDecay"):
            run_directory.claim(tmp_path, recipe(200), extend=True)
    else:
        run_directory.claim(tmp_path, recipe(200), extend=True)


def test_a_commit_is_recorded_only_where_the_package_is_tracked(tmp_path):
    """An environment inside a user's repository is not part of the user's source."""
    source = tmp_path / "venv" / "xalign_jax"
    shutil.copytree(Path(xalign_jax.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__"))

    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *arguments], check=True, capture_output=True)

    def recorded():
        code = "from xalign_jax.training import run_directory; print(run_directory.git())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=source.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    (tmp_path / "mine.txt").write_text("mine")
    git("init")
    git("add", "mine.txt")
    git("commit", "-m", "mine")
    assert recorded() == "None"
    git("add", "venv")
    git("commit", "-m", "the package")
    assert recorded() not in ("None", "")


def claims(tmp_path, monkeypatch, then, now):
    """Continue a run that read `then`."""
    (tmp_path / "environment.json").write_text(json.dumps({"inputs": then}))
    monkeypatch.setattr(run_directory, "_known", lambda model_dir: ({}, 4))
    return run_directory.claim_inputs(tmp_path, now)


def test_a_dictionary_that_changed_is_named(tmp_path, monkeypatch):
    file = tmp_path / "en-de.tsv"
    recipe = SimpleNamespace(lexicon=Lexicon("file", (str(file),), ("en", "de")))
    table = SimpleNamespace(**dict.fromkeys(("ids", "starts", "concept", "language"), toy.np.arange(3)))
    lexicon = SimpleNamespace(train=table, dictionary=table, heldout=table)
    corpus = SimpleNamespace(lexicon=lexicon, facts=None)
    file.write_text("cat\tKatze\n")
    then = inputs.of_data(recipe, corpus)
    assert claims(tmp_path, monkeypatch, then, inputs.of_data(recipe, corpus)) == then
    file.write_text("cat\tKater\n")
    changed = inputs.of_data(recipe, corpus)
    with pytest.raises(UserError, match=rf"Lexicon\.paths\[0\] \({file}\) is \w+, was \w+ when its checkpoints"):
        claims(tmp_path, monkeypatch, then, changed)
    assert claims(tmp_path, monkeypatch, {}, changed) == changed  # a directory of before this was recorded
    table.ids[0] = 7
    with pytest.raises(UserError, match=r"Recipe\.lexicon \(its words\) is"):
        claims(tmp_path, monkeypatch, changed, inputs.of_data(recipe, corpus))


def test_a_module_that_changed_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks.py").write_text("a = 1\n")
    recipe = dataclasses.replace(toy.recipe(3), modules=("my_tasks", "a_module.that_is_not"))
    then = inputs.of_start(recipe)
    (tmp_path / "my_tasks.py").write_text("a = 2\n")
    with pytest.raises(UserError, match=rf"module my_tasks \({tmp_path}/my_tasks\.py\) is"):
        claims(tmp_path, monkeypatch, then, inputs.of_start(recipe))


def test_other_parameters_to_start_from_are_named_and_a_source_that_trains_on_is_none(tmp_path, monkeypatch):
    recipe = dataclasses.replace(toy.recipe(3), init_from=str(tmp_path / "a"))

    def save(step, content):
        monkeypatch.setattr(inputs, "newest_params", lambda model_dir: (step, content))

    save(3, "old")
    then = inputs.of_start(recipe)
    assert {"Recipe.init_from, step 3", "module training.toy"} == then.keys()
    save(3, "another")
    with pytest.raises(UserError, match=r"Recipe\.init_from, step 3 \(.*/a\) is another, was old"):
        claims(tmp_path, monkeypatch, then, inputs.of_start(recipe))
    save(5, "later")
    assert claims(tmp_path, monkeypatch, then, inputs.of_start(recipe)).keys() > then.keys()
