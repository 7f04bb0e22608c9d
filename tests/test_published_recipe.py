"""`infoxlm_base` at a small width, with its trained projection: trained, evaluated, exported, a start for another run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import xalign
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WORDS = {
    "en": ["the", "cat", "sleeps", "a", "dog", "opens", "red", "file", "house", "window"],
    "de": ["die", "Katze", "schläft", "ein", "Hund", "öffnet", "rote", "Datei", "Haus", "Fenster"],
}
SMALL = {
    "STEPS": 3,
    "MLM_ROWS": 8,
    "TLM_ROWS": 8,
    "XLCO_ROWS": 8,
    "LENGTH": 64,
    "SIDE": 15,
    "xlco/XlCo.queue": 256,
    "XLMRoberta.width": 16,
    "XLMRoberta.heads": 2,
    "XLMRoberta.mlp_width": 32,
    "XLMRoberta.max_length": 64,
    "SentenceRetrieval.untrained": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parallel sentences, and a unigram tokenizer with the special pieces of XLM-R."""
    folder = tmp_path_factory.mktemp("infoxlm_base")
    chosen = np.random.default_rng(0).integers(0, 10, (400, 6))
    for language, words in WORDS.items():
        lines = [f"{i}\t{' '.join(words[w] for w in row)}\n" for i, row in enumerate(chosen)]
        (folder / f"{language}.tsv").write_text("".join(lines), encoding="utf-8")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False, initial_alphabet=[]
    )
    tokenizer.train_from_iterator((word for words in WORDS.values() for word in words * 30), trainer)
    (folder / "xlmr").mkdir()
    tokenizer.save(str(folder / "xlmr" / "tokenizer.json"))
    roles = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    (folder / "xlmr" / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


def run(folder, *arguments):
    done = xalign(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def train(folder, name, **bindings):
    own = {"TASKS": '("tsv:en=en.tsv,de=de.tsv",)', "VOCABULARY": '"xlmr"', **SMALL, **bindings}
    options = [f"--gin.{key}={value}" for key, value in own.items()]
    return run(folder, "train", "--gin_file=recipes/infoxlm_base.gin", f"--model_dir={name}", *options)


@pytest.mark.slow  # five commands, each of which compiles 12 layers
def test_the_published_recipe_runs_through_every_door(folder):
    train(folder, "first")
    metrics = [json.loads(line) for line in (folder / "first" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss/xlco"]) for row in metrics)
    before = json.loads((folder / "first" / "results.json").read_text())
    run(folder, "evaluate", "--model_dir=first", "--gin_file=probes/catalogs.gin", "--gin.SentenceRetrieval.batch=64")
    after = json.loads((folder / "first" / "results.json").read_text())
    assert len(after) > len(before) > 0
    for params, output in (("model", "hf"), ("momentum:xlco", "hf_momentum")):
        said = run(folder, "export", "--model_dir=first", f"--output={output}", f"--params={params}")
        assert "verified" in said.stdout + said.stderr
    said = train(folder, "second", **{"Recipe.init_from": '"first"', "Recipe.seed": 3, "STEPS": 1})
    assert "head 'xlco' is kept" in said.stderr
