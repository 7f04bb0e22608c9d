"""The examples of docs/extending.md run as they stand there, on small models and generated text."""

from __future__ import annotations

import importlib
import json
import random
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import python
from models.hugging_face import V, assert_equal_to_sentences_alone, randomise

from xalign_jax import cli
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interop.architectures import table
from xalign_jax.interop.importing import flat
from xalign_jax.models.model import build
from xalign_jax.runtime.restore import restore_model
from xalign_jax.runtime.sharding import make_mesh

DOCUMENT = Path(__file__).parent.parent / "docs" / "extending.md"
SECTIONS = {
    title.split()[-1]: text
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
}
KINDS = ("objective", "probe", "parametrization", "architecture")
# Less of everything, over generated text.
ENCODER = """
Vocabulary.size = 400
Mixture.tasks = ("tsv:en=en.tsv,de=de.tsv",)
LANGUAGES = ("en", "de")
XLMRoberta.layers = 3
XLMRoberta.width = 32
XLMRoberta.heads = 2
XLMRoberta.mlp_width = 64
STEPS = 3
MLM_ROWS = 8
Runtime.log_every = 1
SentenceRetrieval.untrained = False
"""
DECODER = """
Vocabulary.size = 350
Mixture.tasks = ("tsv:en=en.tsv,de=de.tsv",)
Mixture.rates = {"en": 0.8, "en_clone": 0.2}
Lexicon.size = 50
Recipe.facts = None
OLMo2.layers = 2
OLMo2.width = 32
OLMo2.mlp_width = 48
PRETRAIN_STEPS = 2
pretrain_lm/Stream.batch_size = 4
PROBES = [@Perplexity()]
"""
SMALL = {
    "objective": f"{ENCODER}align/Stream.batch_size = 8\n",
    "probe": 'ParallelText.others = ("de",)\n',
    "parametrization": ENCODER,
    "architecture": DECODER,
}


def blocks(kind: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[kind], re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with parallel text and the files of the document, its gin files made small."""
    folder = tmp_path_factory.mktemp("extending")
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=4)) for _ in range(100)]
    lines = [" ".join(chance.choices(words, k=6)) for _ in range(400)]
    for language, change in (("en", str.lower), ("de", str.upper)):
        text = "".join(f"{number}\t{change(line)}\n" for number, line in enumerate(lines))
        (folder / f"{language}.tsv").write_text(text)
    for kind in KINDS:
        (code,), (gin,) = blocks(kind, "python"), blocks(kind, "gin")
        (module,) = re.findall(r"^import (\w+)", gin)
        (folder / f"{module}.py").write_text(code)
        (folder / f"{module}.gin").write_text(gin + SMALL[kind])
    return folder


def run(folder: Path, kind: str, number: int = 0) -> str:
    """What a command of a section prints; it must succeed."""
    commands = re.findall(r"^PYTHONPATH=\. xalign (.+)$", "\n".join(blocks(kind, "sh")), re.MULTILINE)
    done = python("-m", "xalign_jax.cli", *commands[number].split(), cwd=folder, PYTHONPATH=str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def restored(model_dir: Path):
    """(configuration, parameters) of a model directory."""
    about = json.loads((model_dir / "environment.json").read_text())["recipe"]["model"]
    config = table.config_from_json(about)
    model = build(config, Tokenizer.load(model_dir / "vocabulary").size)
    return config, restore_model(model_dir, None, model, make_mesh((1, -1, 1)))[1]


@pytest.fixture(scope="module")
def aligned(folder):
    """The run of the objective, which the next two sections go on with."""
    run(folder, "objective")
    return folder / "runs" / "aligned"


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_has_fewer_than_sixty_lines(kind):
    lines = [line for block in blocks(kind, "python") + blocks(kind, "gin") for line in block.splitlines()]
    assert 20 < len([line for line in lines if line.strip()]) < 60
    assert max(map(len, lines)) <= 120


def test_the_objective_trains(aligned):
    rows = [json.loads(line) for line in (aligned / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["align/alignment"] < 4 for row in rows)
    for row in rows:
        assert -8 < row["align/uniformity"] < 0
        assert row["loss/align"] == pytest.approx(row["align/alignment"] + row["align/uniformity"], abs=1e-5)
    assert "import sentence_alignment" in (aligned / "config.gin").read_text()


def test_the_probe_has_rows_and_a_table(folder, aligned):
    run(folder, "probe")
    assert "## Sentences on the unit sphere, en->de, uniformity" in (aligned / "report.md").read_text()
    rows = [row for row in json.loads((aligned / "results.json").read_text()) if row["probe"] == "alignment_uniformity"]
    found = {(row["metric"], row["level"]): row["value"] for row in rows}
    assert len(found) == len(rows) == 2 * 4
    for level in range(4):
        assert 0 <= found["alignment", level] <= 4
        assert -8 <= found["uniformity", level] <= 0


def test_the_parametrization_scales_matrices_and_resumes(folder, aligned, monkeypatch):
    run(folder, "parametrization")
    config, before = restored(aligned)
    _, after = restored(folder / "runs" / "ia3")
    pairs = {path: (array, flat(after)[path]) for path, array in flat(before).items()}
    moved = {path for path, (old, new) in pairs.items() if not np.array_equal(old, new)}
    assert moved == {"layers/attention/key", "layers/attention/value", "layers/down/weight"}
    key, down = (pairs[name][1] / pairs[name][0] for name in ("layers/attention/key", "layers/down/weight"))
    np.testing.assert_allclose(key, jnp.broadcast_to(key[:, :1], key.shape), rtol=1e-3)  # (layers, width, heads, dim)
    np.testing.assert_allclose(
        down, jnp.broadcast_to(down[:, :, :1], down.shape), rtol=1e-3
    )  # (layers, neurons, width)

    monkeypatch.syspath_prepend(str(folder))
    coordinates = importlib.import_module("ia3").IA3().bind(build(config, flat(before)["embedding"].shape[0]), None)
    params = {"model": before, "heads": {"own": jnp.ones(3)}}
    free, fixed = coordinates.split(params, jax.random.key(0))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, coordinates.params(free, fixed), params))
    free = jax.tree.map(lambda array: array + 0.3, free)
    again = coordinates.resume(coordinates.params(free, fixed), coordinates.hidden(free, fixed))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, (free, fixed)))


def test_the_architecture_computes_what_transformers_does(folder, monkeypatch):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "pad_token_id": 0}
    theirs = randomise(torch, transformers.Olmo2ForCausalLM(transformers.Olmo2Config(vocab_size=V, **shape, **heads)))
    theirs.save_pretrained(folder / "OLMo-2-0425-1B")
    run(folder, "architecture", 2)
    assert "import olmo2\n" in (folder / "runs/imported/model.gin").read_text()
    monkeypatch.setattr(table, "_KNOWN", dict(table._KNOWN))
    monkeypatch.syspath_prepend(str(folder))
    importlib.import_module("olmo2")
    config, params = restored(folder / "runs" / "imported")
    assert type(config).__name__ == "OLMo2" and config.norm_eps == 1e-5
    assert_equal_to_sentences_alone(torch, theirs, config, params)


def test_what_is_said_where_the_module_of_an_architecture_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["import", "--module=gone", f"--source={tmp_path}", f"--model_dir={tmp_path}/run"])
    assert capsys.readouterr().err == "xalign: --module=gone failed: No module named 'gone'\n"
    with pytest.raises(UserError, match=r"Gone: no architecture .* can its module be imported"):
        table.config_from_json({"class": "Gone"})


@pytest.mark.slow
def test_the_architecture_trains_and_is_exported(folder):
    pytest.importorskip("transformers")
    run(folder, "architecture", 0)
    assert "verified" in run(folder, "architecture", 1)
    config = json.loads((folder / "hf" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("olmo2", ["Olmo2ForCausalLM"])
