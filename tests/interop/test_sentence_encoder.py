"""sentence-transformers gives the same vectors that our probes compare."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import text_vectors
from xalign_jax.interfaces import Inputs
from xalign_jax.interop.exporting import export_model
from xalign_jax.interop.sentence_encoder import SentenceEncoder
from xalign_jax.models.bert import Bert
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.recipe import as_json
from xalign_jax.runtime.checkpoints import Checkpoints
from xalign_jax.runtime.sharding import make_mesh

TEXTS = ["the cat sees the dog", "a house", "", "a dog and a cat and a dog and a cat and a dog and a cat in a house"]
SHAPE = dict(layers=3, width=16, heads=2, mlp_width=24, init_std=0.3)


def run(folder, config):
    """A model directory with random parameters."""
    corpus = ["the cat sees the dog", "the dog sees a house", "a cat and a dog in the house"] * 5
    tokenizer = Tokenizer(SentencePieces(train_sentencepiece(corpus, 275, "unigram", False)), Vocabulary())
    model = build(config, tokenizer.size)
    params = jax.jit(model.init)(jax.random.key(0))
    tokenizer.save(folder / "vocabulary")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(7, {"model": params, "heads": {}}, {}, {})
    checkpoints.close()
    about = {"recipe_name": "tiny", "recipe": {"model": as_json(config)}}
    (folder / "environment.json").write_text(json.dumps(about))
    return model, params, tokenizer


@pytest.fixture(scope="module")
def sentence_transformers():
    """Imported in a fixture, because it takes ten seconds and every process collects this file."""
    return pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize(
    ("pooling", "level", "normalize"), [("mean", 2, True), ("first", None, False), ("mean", None, False)]
)
def test_vectors_are_those_of_the_probes(pooling, level, normalize, tmp_path, sentence_transformers):
    model, params, tokenizer = run(tmp_path / "run", XLMRoberta(**SHAPE, max_length=12))
    encoder = SentenceEncoder(pooling, level, normalize)
    export_model(tmp_path / "run", tmp_path / "out", make_mesh((1, -1, 1)), encoder=encoder)
    found = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    with jax.set_mesh(make_mesh((1, -1, 1))):
        expected = text_vectors(model.bind(params), tokenizer, tokenizer.encode(TEXTS), 12, 4, "x")[pooling][level or 3]
    if normalize:
        expected = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_pooler_of_bert_goes_along(tmp_path, sentence_transformers):
    model, params, tokenizer = run(tmp_path / "run", Bert(**SHAPE, max_length=24, pooler=True))
    encoder = SentenceEncoder("pooler", normalize=True)
    export_model(tmp_path / "run", tmp_path / "out", make_mesh((1, -1, 1)), encoder=encoder)
    found = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS[:1])
    ids = [tokenizer.bos, *tokenizer.encode(TEXTS[:1])[0].tolist(), tokenizer.eos]
    rows = np.stack([ids, np.arange(len(ids)), np.ones(len(ids))]).astype(np.int32)[:, None]
    pooled = np.asarray(model.bind(params).pooled(model.bind(params).hidden(Inputs(*rows), levels=(3,))[3][:, 0]))
    np.testing.assert_allclose(found, pooled / np.linalg.norm(pooled), atol=1e-5)


def test_encoders_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="--sentence_encoder=pooler: this model has none"):
        SentenceEncoder("pooler").shortened(XLMRoberta(**SHAPE), {})
    with pytest.raises(UserError, match="--sentence_encoder=first: a decoder's first token"):
        SentenceEncoder("first").shortened(Llama(**SHAPE, kv_heads=2, max_length=24), {})
    with pytest.raises(UserError, match="--level=4: 1 to 3"):
        SentenceEncoder("mean", 4).shortened(XLMRoberta(**SHAPE), {})
    with pytest.raises(UserError, match="--level=1: transformers would add the final norm"):
        SentenceEncoder("mean", 1).shortened(Llama(**SHAPE, kv_heads=1), {})
