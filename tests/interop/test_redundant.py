"""Tensors that other tensors or config.json determine are compared before they are left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_import_export import SINGLE, _edit, _rewrite, assert_same_outputs, ours, save, tokens, torch, transformers

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.interop.importing import import_model
from xalign_jax.runtime.sharding import make_mesh

HEADS = {"llama": "lm_head.weight", "qwen2, some windows": "lm_head.weight", "neox": "embed_out.weight"}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_differs_stays_although_a_setting_ties_it(name, tmp_path, capsys):
    theirs = save(name, tmp_path / "hf")  # untied
    _edit(tmp_path / "hf" / "config.json", tie_word_embeddings=True)
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert "a head of its own, although config.json ties them" in capsys.readouterr().out
    assert not ours(tmp_path / "in")[0].config.tied
    assert_same_outputs(theirs, *ours(tmp_path / "in"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["llama tied, biases", "neox sequential, yarn"])
def test_a_head_that_is_a_copy_is_left_out(name, dtype, tmp_path, capsys):
    theirs = save(name, tmp_path / "hf")
    table = theirs.get_input_embeddings().weight.detach().numpy().astype(dtype)
    embedding = "model.embed_tokens.weight" if "llama" in name else "gpt_neox.embed_in.weight"
    head = "lm_head.weight" if "llama" in name else "embed_out.weight"
    _rewrite(tmp_path / "hf" / SINGLE, lambda a: a.update({embedding: table.astype(np.float32), head: table}))
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert f"left out: {head}, which equals {embedding}" in capsys.readouterr().out
    assert ours(tmp_path / "in")[0].config.tied


def tensors(name):
    """(redundant tensors as the library stores them beside parameters, the same tensors with wrong numbers)."""
    random = np.random.default_rng(0)
    count = np.arange(26)[None]
    if name == "bert":
        return {"bert.embeddings.position_ids": (count, count[:, ::-1].copy())}
    if name == "xlm-r":
        return {"roberta.embeddings.position_ids": (count, count + 1)}
    frequencies = (1e4 ** -(np.arange(0, 4, 2) / 4)).astype(np.float32)
    mask = np.tri(24, dtype=bool)[None, None]
    return {
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": (frequencies.astype(np.float16), frequencies / 2),
        "gpt_neox.layers.0.attention.bias": (mask, ~mask),
        "gpt_neox.layers.0.attention.masked_bias": (np.float32(-1e9), random.normal(size=(1,)).astype(np.float32)),
    }


COPIES = {
    "bert": {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "xlm-r": {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
}


@pytest.mark.parametrize("name", ["bert", "xlm-r", "neox"])
def test_buffers_and_copies_are_left_out_only_if_they_are_what_is_said(name, tmp_path, capsys):
    theirs = save(name, tmp_path / "hf")
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    pairs = tensors(name) | {key: (state[of], state[of] + 1) for key, of in COPIES.get(name, {}).items()}
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert name != "neox" or config["rope_parameters"]["partial_rotary_factor"] == 0.5
    _rewrite(tmp_path / "hf" / SINGLE, lambda a: a.update({key: np.array(right) for key, (right, _) in pairs.items()}))
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    said = capsys.readouterr().out
    assert all(key.replace(".0.", ".*.") in said for key in pairs)
    assert_same_outputs(theirs, *ours(tmp_path / "in"))
    for key, (right, wrong) in pairs.items():
        _rewrite(tmp_path / "hf" / SINGLE, lambda a, key=key, wrong=wrong: a.update({key: np.array(wrong)}))
        with pytest.raises(UserError, match=rf"{key} (holds other numbers than follow|is not equal to)"):
            import_model(tmp_path / "hf", tmp_path / "no", make_mesh((1, -1, 1)))
        _rewrite(tmp_path / "hf" / SINGLE, lambda a, key=key, right=right: a.update({key: np.array(right)}))


def test_the_advice_for_a_pickled_checkpoint_works(tmp_path):
    import subprocess
    import sys

    theirs = save("llama", tmp_path / "hf")
    (tmp_path / "hf" / SINGLE).unlink()
    torch.save(theirs.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    with pytest.raises(UserError) as refused:
        import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    code = str(refused.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert_same_outputs(theirs, *ours(tmp_path / "in"))


def test_a_sentence_encoder_without_its_head_comes_in_with_a_fresh_one(tmp_path, capsys):
    theirs = save("bert", tmp_path / "mlm").bert
    body = transformers.BertModel(theirs.config).eval()
    body.save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "in", make_mesh((1, -1, 1)))
    assert "no masked-LM head there; fresh: head/bias" in capsys.readouterr().out
    model, params = ours(tmp_path / "in")
    assert model.config.pooler
    ids = tokens()[1]
    rows = np.stack([ids, np.arange(11, dtype=np.int32), np.ones(11, np.int32)])[:, None]
    with torch.no_grad():
        expected = body(torch.tensor(ids[None].astype(np.int64))).pooler_output.numpy()
    h = model.bind(params).hidden(Inputs(*rows), levels=(2,))[2]
    np.testing.assert_allclose(model.bind(params).pooled(h[:, 0]), expected, atol=1e-5)
    assert np.std(params["head"]["weight"]) == pytest.approx(model.config.init_std, rel=0.2)
