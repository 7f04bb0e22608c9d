"""mteb gives a model directory the scores that it gives the exported model under sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.errors import UserError

mteb = pytest.importorskip("mteb", reason="extra eval")
sentence_transformers = pytest.importorskip("sentence_transformers")

from mteb.models import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402
from mteb_tasks import LocalBitext, LocalRetrieval, LocalSTS  # noqa: E402

from xalign_jax.harnesses.mteb import XalignEncoder  # noqa: E402

PROMPTS = {"query": "query: ", "document": "passage: ", "STS": "query: "}
TASKS = (LocalBitext, LocalSTS, LocalRetrieval)


def scores(model, task):
    (found,) = mteb.evaluate(model, task(), cache=None, show_progress_bar=False).task_results
    (split,) = found.scores["test"]
    return {name: value for name, value in split.items() if isinstance(value, float)}


@pytest.mark.parametrize("task", TASKS)
def test_the_scores_are_those_of_the_exported_model(encoder, task):
    run, exported = encoder
    theirs = scores(sentence_transformers.SentenceTransformer(str(exported), device="cpu", prompts=PROMPTS), task)
    ours = scores(XalignEncoder(run, prompts=PROMPTS), task)
    assert len(ours) > 3 and ours == pytest.approx(theirs, abs=1e-4, nan_ok=True)


def encoded(model, texts, task=LocalSTS, **options):
    inputs = [{"text": texts[:2]}, {"text": texts[2:]}]
    return model.encode(inputs, task_metadata=task.metadata, hf_split="test", hf_subset="default", **options)


def test_vectors_are_those_of_the_loaded_model_with_the_prompt_of_the_task(encoder, capfd):
    model = XalignEncoder(str(encoder[0]), level=2, pooling="first", prompts={**PROMPTS, "LocalBitext": ">> "})
    assert "taken as names of tasks: LocalBitext; prompts of all tasks: ['query', 'document']" in capfd.readouterr().err
    assert isinstance(model, EncoderProtocol)
    texts = ["a cat", "eine Katze", "x"]
    for task, kind, prompt in (
        (LocalSTS, None, "query: "),
        (LocalBitext, None, ">> "),
        (LocalRetrieval, PromptType.document, "passage: "),
        (LocalRetrieval, None, ""),
    ):
        found = encoded(model, texts, task, prompt_type=kind)
        np.testing.assert_array_equal(found, model.loaded.encode([prompt + text for text in texts], 2, "first"))
    unit = encoded(XalignEncoder(model.loaded, level=2, pooling="first", normalize=True), texts, LocalRetrieval)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-6)


def test_empty_texts_get_zeros_and_a_line(encoder, capfd):
    model = XalignEncoder(encoder[0])
    found = encoded(model, ["", "a cat", " \n"])
    assert not found[0].any() and found[1].any()
    assert "LocalSTS (default, test): 1 of 3 texts are empty" in capfd.readouterr().err


def test_results_of_other_parameters_and_settings_have_other_names(encoder, decoder):
    metas = [
        XalignEncoder(folder, **options).mteb_model_meta
        for folder, options in ((encoder[0], {}), (encoder[0], {"level": 1}), (decoder[0], {"pooling": "last"}))
    ]
    assert len({meta.revision for meta in metas}) == len({meta.experiment_name for meta in metas}) == 3
    assert XalignEncoder(encoder[1]).mteb_model_meta.revision == metas[0].revision
    assert metas[0].name == "xalign/run" and metas[0].embed_dim == 16 and metas[1].experiment_kwargs["level"] == 1


def test_whatever_mteb_cannot_use_is_one_line(encoder, tmp_path):
    for folder, options, said in (
        (encoder[0], {"level": 4}, r"level 4: the model has levels 0 \(embeddings\) to 3"),
        (encoder[0], {"pooling": "max"}, "pooling 'max': one of mean"),
        (encoder[0], {"prompts": {"query": 3}}, r"prompts\['query'\] is a int, not a text"),
        (tmp_path, {}, "neither a model directory .* nor a Hugging Face folder"),
    ):
        with pytest.raises(UserError, match=said) as raised:
            XalignEncoder(folder, **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="encode_kwargs precision=int8: vectors are float32"):
        encoded(XalignEncoder(encoder[0]), ["a", "b"], precision="int8")
