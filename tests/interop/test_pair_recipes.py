"""The recipes on pairs continue an imported encoder, whatever the optimiser moves."""

from __future__ import annotations

import json

import hf_folders
import numpy as np
import pytest
from commands import xalign

WAYS = {
    "Everything": (),
    "Selection": (),
    "LowRank": ("--gin.LowRank.rank=2", '--gin.LowRank.patterns=("attention/query$",)'),
}

RECIPES = {name: () for name in ("new_language", "new_language_tokens", "short_texts", "msimcse_pairs", "dap")}
# Prompts are long in bytes.
RECIPES["prompted_pairs"] = ("--gin.TranslationRanking.level=1", "--gin.sentences/ContrastFeed.side=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder of two blocks, as a model directory `base`, and pairs of English and reversed English."""
    place = tmp_path_factory.mktemp("pairs")
    hf_folders.write_encoder_of_two_blocks(place / "hf", place / "base")
    words = np.random.default_rng(0).choice(list("abcdefgh"), (400, 12))
    lines = {"en": ["".join(row) for row in words], "xx": ["".join(row[::-1]) for row in words]}
    for language, texts in lines.items():
        (place / f"{language}.tsv").write_text("".join(f"{n}\t{text}\n" for n, text in enumerate(texts)))
    return place


@pytest.mark.slow  # a run for each
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_measures_held_out_pairs(folder, recipe, way):
    done = xalign(
        "train", "--gin_file=base/model.gin", f"--gin_file=recipes/{recipe}.gin", f"--model_dir={recipe}-{way}",
        '--gin.PAIRS=("tsv:en=en.tsv,xx=xx.tsv",)', "--gin.STEPS=2", "--gin.sentences/Stream.batch_size=8",
        "--gin.ParallelText.length=64", f"--gin.pairs/Stage.parametrization=@{way}()", *WAYS[way], *RECIPES[recipe],
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = json.loads((folder / f"{recipe}-{way}" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and np.isfinite(last["loss"]) and last["sentences/pairs"] > 0
    rows = json.loads((folder / f"{recipe}-{way}" / "results.json").read_text())
    assert {"en->xx", "xx->en"} <= {row["language"] for row in rows if row["metric"] == "accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ['" means .', '" means [MASK] [MASK] .'])
def test_a_prompt_without_one_mask_token_stops_the_run_before_it_trains(folder, suffix):
    done = xalign(
        "train", "--gin_file=base/model.gin", "--gin_file=recipes/prompted_pairs.gin", "--model_dir=wrong",
        '--gin.PAIRS=("tsv:en=en.tsv,xx=xx.tsv",)', "--gin.sentences/Stream.batch_size=8", f"--gin.SUFFIX='{suffix}'",
        "--gin.ParallelText.length=64", *RECIPES["prompted_pairs"], cwd=folder,
    )  # fmt: skip
    masks = suffix.count("[MASK]")
    said = (
        f"TranslationRanking.pooling = 'mask': a sentence has {masks} mask tokens, and one is needed; write [MASK] once"
    )
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr[-2000:]
    assert not (folder / "wrong" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_static_vectors_of_a_model_are_what_words_move_towards(folder):
    for language in ("en", "xx"):
        lines = (folder / f"{language}.tsv").read_text().splitlines()
        (folder / f"{language}.txt").write_text("".join(line.split("\t")[1] + "\n" for line in lines))
    texts = '--texts={"en": "en.txt", "xx": "xx.txt"}'
    made = xalign("vectors", "--model=base", texts, "--least_count=1", "--output=vectors", cwd=folder)
    assert made.returncode == 0, made.stderr
    done = xalign(
        "train", "--gin_file=base/model.gin", "--gin_file=recipes/towards_static.gin", "--model_dir=static",
        '--gin.TASKS=("lines:en=en.txt,xx=xx.txt",)', '--gin.VECTORS={"en": "vectors/en.vec", "xx": "vectors/xx.vec"}',
        "--gin.VectorFeed.side=30", "--gin.VectorFeed.words_per_row=2", "--gin.LENGTH=64", "--gin.STEPS=20",
        "--gin.bitext/WarmupLinear.peak=3e-3", "--gin.Runtime.log_every=1", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (folder / "static" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/static"] for row in rows if "loss/static" in row]
    assert len(losses) == 20 and np.mean(losses[-5:]) < np.mean(losses[:5])
    assert "VectorFeed.files" in (folder / "static" / "environment.json").read_text()
