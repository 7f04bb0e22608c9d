"""All hidden states and logits equal those of random models of transformers, with awkward configurations.

Sentences packed into a row and padded on either side equal transformers on each sentence alone.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from models.hugging_face import (
    TOTAL,
    V,
    Weights,
    assert_equal_to_sentences_alone,
    encoder_params,
    gpt_neox_params,
    llama_params,
    randomise,
    sentences,
)

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.bert import Bert
from xalign_jax.models.gpt_neox import GPTNeoX
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.models.rotary import RopeScaling
from xalign_jax.models.xlm_roberta import XLMRoberta

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

THETA, ORIGINAL = 500.0, 6  # so that short sentences reach beyond the original length

# Our scaling, theirs.
SCALINGS = {
    "default": (None, {}),
    "linear": (RopeScaling("linear", 3.0), {"factor": 3.0}),
    "dynamic": (RopeScaling("dynamic", 3.0, ORIGINAL), {"factor": 3.0}),
    "llama3": (
        RopeScaling("llama3", 4.0, ORIGINAL, low_freq_factor=0.1, high_freq_factor=0.9),
        {"factor": 4.0, "low_freq_factor": 0.1, "high_freq_factor": 0.9, "original_max_position_embeddings": ORIGINAL},
    ),
    "yarn": (
        RopeScaling("yarn", 4.0, ORIGINAL, beta_fast=2.0, beta_slow=0.05),
        {"factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.05, "original_max_position_embeddings": ORIGINAL},
    ),
}


def rope(kind: str, **more) -> dict:
    """The settings that transformers calls rope_parameters."""
    return {"rope_type": kind, "rope_theta": THETA} | SCALINGS[kind][1] | more


def llama_pair(kind: str, ours: dict, theirs: dict, scaling: str = "default"):
    """A network of transformers, and our configuration of the same model. It has 5 heads of 8 for a width of 20."""
    shape = dict(layers=2, width=20, heads=5, kv_heads=1, mlp_width=12, head_dim=8, norm_eps=1e-5)
    config = Llama(
        **(shape | dict(rope_theta=THETA, rope_scaling=SCALINGS[scaling][0], max_length=TOTAL) | ours),
    )
    settings = dict(
        vocab_size=V,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        intermediate_size=config.mlp_width,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied,
        max_position_embeddings=ORIGINAL if scaling == "dynamic" else TOTAL,
        rope_parameters=rope(scaling),
        attn_implementation="eager",
    )
    configuration = getattr(transformers, f"{kind}Config")(**(settings | theirs))
    return randomise(torch, getattr(transformers, f"{kind}ForCausalLM")(configuration)), config


@pytest.mark.parametrize("scaling", SCALINGS)
def test_llama_of_every_rotary_variant(scaling):
    network, config = llama_pair("Llama", {}, {}, scaling)
    assert_equal_to_sentences_alone(torch, network, config, llama_params(network, config))


LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
MIXED = dict(use_sliding_window=True, sliding_window=3, layer_types=LAYER_TYPES)
LLAMAS = {
    "biases": (
        "Llama",
        dict(width=45, heads=9, kv_heads=3, tied=True, qkv_bias=True, output_bias=True, mlp_bias=True),
        dict(attention_bias=True, mlp_bias=True),
    ),
    "mistral": ("Mistral", dict(window=4), dict(sliding_window=4)),
    "mistral without a window": ("Mistral", dict(heads=3, kv_heads=3), dict(sliding_window=None)),
    "qwen2": ("Qwen2", dict(heads=6, kv_heads=2, qkv_bias=True, tied=True), {}),
    "qwen2, mixed windows": (
        "Qwen2",
        dict(layers=3, qkv_bias=True, window=3, full_attention_layers=(1,)),
        MIXED,
    ),
    "qwen3": ("Qwen3", dict(qk_norm=True), {}),
    "qwen3, mixed windows, biases": (
        "Qwen3",
        dict(layers=3, heads=3, qk_norm=True, qkv_bias=True, output_bias=True, window=3, full_attention_layers=(1,)),
        MIXED | dict(attention_bias=True),
    ),
    "nine layers, in a loop": (
        "Qwen2",
        dict(layers=9, qkv_bias=True, window=2, full_attention_layers=(0, 1, 2, 3)),
        dict(use_sliding_window=True, sliding_window=2, max_window_layers=4),
    ),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_llama_and_its_kin(name):
    network, config = llama_pair(*LLAMAS[name])
    assert_equal_to_sentences_alone(torch, network, config, llama_params(network, config))


NEOXES = {
    "pythia": {},
    "sequential": dict(parallel_residual=False, activation="gelu_new"),
    "no biases, tied": dict(attention_bias=False, tied=True, activation="relu", rotary_fraction=1.0),
    "linear": dict(rotary_fraction=0.75, activation="quick_gelu"),
    "dynamic": dict(rotary_fraction=0.5),
    "llama3": dict(rotary_fraction=0.5, activation="silu"),
    "yarn": dict(rotary_fraction=0.5),
}


@pytest.mark.parametrize("name", NEOXES)
def test_gpt_neox(name):
    scaling = name if name in SCALINGS else "default"
    shape = dict(layers=2, width=24, heads=3, mlp_width=20, norm_eps=1e-4, max_length=TOTAL)
    config = GPTNeoX(**(shape | dict(rope_theta=THETA, rope_scaling=SCALINGS[scaling][0]) | NEOXES[name]))
    configuration = transformers.GPTNeoXConfig(
        vocab_size=V,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        hidden_act=config.activation,
        layer_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied,
        use_parallel_residual=config.parallel_residual,
        attention_bias=config.attention_bias,
        max_position_embeddings=ORIGINAL if scaling == "dynamic" else TOTAL,
        rope_parameters=rope(scaling, partial_rotary_factor=config.rotary_fraction),
        attn_implementation="eager",
    )
    network = randomise(torch, transformers.GPTNeoXForCausalLM(configuration))
    assert_equal_to_sentences_alone(torch, network, config, gpt_neox_params(network, config))


def encoder_settings(config) -> dict:
    return dict(
        vocab_size=V,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        hidden_act=config.activation,
        layer_norm_eps=config.norm_eps,
        max_position_embeddings=config.max_length + config.first_position,
        type_vocab_size=config.types,
        attn_implementation="eager",
    )


BERT_HEAD = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder.bias")
XLMR_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.bias")


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_bert(activation):
    config = Bert(2, 24, 3, 20, TOTAL, activation=activation)
    network = transformers.BertForMaskedLM(transformers.BertConfig(**encoder_settings(config)))
    params = encoder_params(randomise(torch, network), config, "bert", BERT_HEAD)
    assert_equal_to_sentences_alone(torch, network, config, params, types=True)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_xlm_roberta(activation):
    """The head has GELU, whatever the activation of the MLP."""
    config = XLMRoberta(2, 24, 3, 20, TOTAL, types=2, activation=activation)
    settings = encoder_settings(config) | dict(pad_token_id=1)
    network = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**settings))
    params = encoder_params(randomise(torch, network), config, "roberta", XLMR_HEAD)
    assert_equal_to_sentences_alone(torch, network, config, params, types=True)


def test_bert_pooler():
    config = Bert(2, 24, 3, 20, TOTAL, pooler=True)
    configuration = transformers.BertConfig(**encoder_settings(config))
    masked_lm = randomise(torch, transformers.BertForMaskedLM(configuration))
    network = randomise(torch, transformers.BertModel(configuration), seed=1)
    network.load_state_dict(masked_lm.bert.state_dict(), strict=False)
    params = encoder_params(masked_lm, config, "bert", BERT_HEAD)
    params["pooler"] = Weights(network, config.layers).dense("pooler.dense")
    model = build(config, V)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, model.shapes)
    (sentence, *_) = sentences()
    n = len(sentence)
    with torch.no_grad():
        expected = network(torch.tensor(sentence[None]).long()).pooler_output.numpy()
    states = model.bind(params).hidden(
        Inputs(sentence[None], np.arange(n)[None], np.ones((1, n), np.int32)), levels=(2,)
    )[2]
    np.testing.assert_allclose(model.bind(params).pooled(states[:, 0]), expected, atol=1e-6)
    with pytest.raises(UserError, match="XLMRoberta without a pooler"):
        build(XLMRoberta(2, 24, 3, 20), V).bind({}).pooled(states[:, 0])
