"""`xalign export` of a run without its text, of parameters that a run lacks, and of damaged model directories."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from commands import xalign
from safetensors.numpy import load_file, save_file
from test_import_export import save
from vocabularies import unusual

from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.interop.averaging import Average
from xalign_jax.interop.exporting import export_model
from xalign_jax.interop.importing import import_model
from xalign_jax.runtime.sharding import make_mesh

CONFIG = """
Recipe.model = @Llama()
Llama.layers = 1
Llama.width = 8
Llama.heads = 1
Llama.kv_heads = 1
Llama.mlp_width = 8
Recipe.vocabulary = @Vocabulary()
Recipe.stages = [@only/Stage()]
only/Stage.name = "only"
only/Stage.steps = 1
only/Stage.optimizer = @AdamW()
only/Stage.schedule = @WarmupCosine()
WarmupCosine.peak = 0.001
only/Stage.streams = [@lm/Stream()]
lm/Stream.name = "lm"
lm/Stream.feed = @WindowFeed()
WindowFeed.length = 8
lm/Stream.objective = @CausalLM()
lm/Stream.mixture = @Mixture()
lm/Stream.batch_size = 8
Mixture.tasks = ("lines:en=gone.txt",)
Mixture.rates = {"en": 1.0}
"""


@pytest.fixture
def model_dir(tmp_path):
    """A model directory with unusual pieces in its vocabulary, and the configuration of a run whose text is gone."""
    words = unusual("unigram")
    save("llama", tmp_path / "hf", vocab_size=words.size)
    import_model(tmp_path / "hf", tmp_path / "run", make_mesh((1, -1, 1)))
    vocabulary = tmp_path / "run" / "vocabulary"
    words.with_clones(dataclasses.replace(words.vocabulary, clones=0, rows=words.size)).save(vocabulary)
    (tmp_path / "run" / "config.gin").write_text(CONFIG)
    return tmp_path / "run"


def test_a_run_is_exported_and_verified_where_its_text_is_gone(model_dir, tmp_path):
    done = xalign("export", "--model_dir=run", "--output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pieces = Tokenizer.load(model_dir / "vocabulary").base_size
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f"verified: equal ids for {pieces} pieces alone, unusual ones (")
    assert "4 user-defined, 256 byte" in said and "6 sample texts and 0 validation texts" in said
    assert "; not read: validation texts (task 'lines:en=gone.txt' has not been prepared in" in said


def test_a_vocabulary_that_no_fast_tokenizer_reads_is_refused_before_weights(model_dir, tmp_path):
    odd = unusual("unigram", user=("\n", "->"))
    odd.save(model_dir / "vocabulary")
    with pytest.raises(
        UserError, match=r"run/vocabulary cannot be exported: the root tokenizer reads .* \(user-defined\)"
    ):
        export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)))
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "run"}


def test_parameters_that_a_run_does_not_have_are_refused(model_dir, tmp_path):
    for params in ("momentum:none", "momentum:", "optimizer"):
        with pytest.raises(UserError, match=f"--params={params}: this run has model$"):
            export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)), params=params)
    values = json.loads((model_dir / "environment.json").read_text())
    stream = {"name": "lm", "objective": {"class": "XlCo", "momentum": {"class": "ConstantMomentum"}}}
    values["recipe"]["stages"] = [{"streams": [stream]}]
    (model_dir / "environment.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"this run has model, momentum:lm$"):
        export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)), params="momentum:none")
    with pytest.raises(UserError, match=r"state/lm/encoder/model/embedding is absent there"):
        export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)), params="momentum:lm")


def test_the_average_with_the_start_is_exported(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "start")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    shutil.copytree(tmp_path / "hf", tmp_path / "tripled")
    save_file({name: 3 * array for name, array in tensors.items()}, tmp_path / "tripled" / "model.safetensors")
    import_model(tmp_path / "tripled", tmp_path / "other", make_mesh((1, -1, 1)))
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "start" / "checkpoints", dirs_exist_ok=True)
    done = xalign("export", "--model_dir=run", "--average_with=start", "--share=0.25", "--output=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    averaged = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: array.shape for name, array in averaged.items()} == {n: a.shape for n, a in tensors.items()}
    for name, array in averaged.items():
        np.testing.assert_allclose(array, 1.5 * tensors[name], rtol=1e-6, atol=1e-7)


def test_models_that_cannot_be_averaged_are_refused(model_dir, tmp_path):
    save("llama", tmp_path / "wide", vocab_size=300, intermediate_size=64)
    import_model(tmp_path / "wide", tmp_path / "wider", make_mesh((1, -1, 1)))
    # The same shape, and a vocabulary of its own.
    import_model(tmp_path / "hf", tmp_path / "spelled", make_mesh((1, -1, 1)))
    for average, line in (
        (Average(tmp_path / "hf"), "hf: no model directory"),
        (Average(tmp_path / "wider"), "wider: a model with mlp_width = 64, and this one has"),
        (Average(tmp_path / "spelled"), "spelled: its vocabulary is another one"),
        (Average(model_dir, 1.5), "--share=1.5: from 0 to 1"),
    ):
        with pytest.raises(UserError, match=line):
            export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)), average=average)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"recipe_name": "x", "recipe": {"model": 3}}', b"\xff"])
def test_a_damaged_environment_is_named(content, model_dir, tmp_path):
    (model_dir / "environment.json").write_bytes(content)
    with pytest.raises(UserError, match=r"environment\.json.* not (JSON|what)"):
        export_model(model_dir, tmp_path / "out", make_mesh((1, -1, 1)))
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "run"}


def test_a_sentencepiece_file_that_is_empty_is_named(tmp_path):
    for content, said in ((b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS")):
        (tmp_path / "spm.model").write_bytes(content)
        with pytest.raises(UserError, match=rf"spm\.model: .*{said}"):
            Tokenizer.of(Vocabulary(path=str(tmp_path / "spm.model")))
