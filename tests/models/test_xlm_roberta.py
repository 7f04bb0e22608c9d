"""The XLM-R encoder: equality with Hugging Face, segments, types, chunks, sizes of the shipped configurations."""

from __future__ import annotations

import functools
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta

V, LAYERS, WIDTH, LENGTH = 40, 3, 16, 16
GIN = Path(__file__).parents[2] / "gin" / "models"


def config(**changes):
    shape = dict(layers=LAYERS, width=WIDTH, heads=4, mlp_width=24, max_length=LENGTH, init_std=0.2)
    return XLMRoberta(**(shape | changes))


def rows(*lengths: int, count: int = 1, seed: int = 0):
    """tokens, positions, segment_ids (count,LENGTH): rows with segments of these lengths, then padding."""
    positions, segments = np.zeros((2, count, LENGTH), np.int32)
    start = 0
    for i, n in enumerate(lengths):
        positions[:, start : start + n] = np.arange(n)
        segments[:, start : start + n] = i + 1
        start += n
    tokens = np.random.default_rng(seed).integers(1, V, (count, LENGTH)).astype(np.int32)
    return np.where(segments > 0, tokens, 0), positions, segments


@pytest.fixture(scope="module")
def model():
    return build(config(types=2), V)


@pytest.fixture(scope="module")
def params(model):
    """Random parameters: no vector is 0 or 1, so that each of them matters."""
    fresh = jax.jit(model.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [a + 0.1 * rng.standard_normal(a.shape).astype(np.float32) for a in leaves])


@functools.partial(jax.jit, static_argnums=0, static_argnames="levels")
def hidden(model, params, tokens, positions, segment_ids, types=None, levels=(LAYERS,)):
    return model.bind(params).hidden(Inputs(tokens, positions, segment_ids, types=types), levels=levels)


def hugging_face(torch, transformers, params):
    """The same weights in an XLMRobertaForMaskedLM."""
    network = transformers.XLMRobertaForMaskedLM(
        transformers.XLMRobertaConfig(
            vocab_size=V,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=LENGTH + 2,
            type_vocab_size=2,
            layer_norm_eps=1e-5,
            pad_token_id=1,
        )
    ).eval()

    def norm(name, own):
        return {f"{name}.weight": own["scale"], f"{name}.bias": own["bias"]}

    def dense(name, own):
        return {f"{name}.weight": own["weight"].T, f"{name}.bias": own["bias"]}

    found = {
        "roberta.embeddings.word_embeddings.weight": params["embedding"],
        "roberta.embeddings.position_embeddings.weight": params["positions"],
        "roberta.embeddings.token_type_embeddings.weight": params["types"],
        "lm_head.decoder.weight": params["embedding"],
        "lm_head.decoder.bias": params["head_bias"],
        "lm_head.bias": params["head_bias"],
    }
    found |= norm("roberta.embeddings.LayerNorm", params["embedding_norm"])
    found |= dense("lm_head.dense", params["head"]) | norm("lm_head.layer_norm", params["head_norm"])
    for i in range(LAYERS):
        block = jax.tree.map(lambda a, i=i: a[i], params["layers"])
        at, own = f"roberta.encoder.layer.{i}", block["attention"]
        for name in ("query", "key", "value"):
            weight = own[name].reshape(WIDTH, WIDTH)
            found |= dense(f"{at}.attention.self.{name}", {"weight": weight, "bias": own[f"{name}_bias"]})
        output = {"weight": own["output"].reshape(WIDTH, WIDTH), "bias": own["output_bias"]}
        found |= dense(f"{at}.attention.output.dense", output)
        found |= norm(f"{at}.attention.output.LayerNorm", block["attention_norm"])
        found |= dense(f"{at}.intermediate.dense", block["up"]) | dense(f"{at}.output.dense", block["down"])
        found |= norm(f"{at}.output.LayerNorm", block["mlp_norm"])
    weights = {name: torch.tensor(np.asarray(array)) for name, array in found.items()}
    missing = network.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys, missing
    return network


def test_states_and_logits_equal_hugging_face(model, params):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network = hugging_face(torch, transformers, params)
    tokens, positions, segments = rows(11, count=2)
    tokens = np.where((tokens == 1) | (segments == 0), 2 - (segments == 0), tokens)  # id 1 is the other side's padding
    types = ((np.arange(LENGTH) >= 5) & (segments > 0)).astype(np.int32)
    everything = tuple(range(LAYERS + 1))
    states = hidden(model, params, tokens, positions, segments, types=types, levels=everything)
    head = jax.jit(lambda p, h: model.bind(p).head_input(h) @ model.bind(p).head_weight().T + model.bind(p).head_bias())
    logits = head(params, states[LAYERS])
    with torch.no_grad():
        inputs = {"input_ids": tokens, "attention_mask": segments, "token_type_ids": types}
        other = network(**{k: torch.tensor(v).long() for k, v in inputs.items()}, output_hidden_states=True)
    real = segments > 0
    for level in everything:
        np.testing.assert_allclose(states[level][real], other.hidden_states[level].numpy()[real], atol=1e-5)
    np.testing.assert_allclose(logits[real], other.logits.numpy()[real], atol=2e-5)


def test_states_that_are_given_stand_in_place_of_the_first_embeddings(model, params):
    tokens, positions, segments = rows(11, count=2)
    everything = tuple(range(LAYERS + 1))
    whole = hidden(model, params, tokens, positions, segments, levels=everything)
    others = np.where(np.arange(LENGTH) < 4, 1, tokens)  # are not read
    given = Inputs(others, positions, segments, given=whole[0][:, :4])
    run = jax.jit(lambda model, p, inputs: model.bind(p).hidden(inputs, levels=everything), static_argnums=0)
    for one in (model, build(config(types=2), V, chunks=2)):
        found = run(one, params, given)
        for level in everything:
            np.testing.assert_allclose(found[level], whole[level], atol=1e-6)
    assert not np.allclose(run(model, params, given._replace(given=None))[LAYERS], whole[LAYERS], atol=1e-2)


def test_packed_segments_have_the_states_of_separate_rows(model, params):
    packed = rows(5, 7, 3)
    together = hidden(model, params, *packed)[LAYERS]
    start = 0
    for n in (5, 7, 3):
        one = rows(n)
        one[0][:, :n] = packed[0][:, start : start + n]
        np.testing.assert_allclose(
            hidden(model, params, *one)[LAYERS][:, :n], together[:, start : start + n], atol=1e-5
        )
        start += n


def test_every_position_sees_later_ones_and_padding_is_harmless(model, params):
    tokens, positions, segments = rows(10)
    before = hidden(model, params, tokens, positions, segments)[LAYERS]
    later = tokens.copy()
    later[0, 9] = tokens[0, 9] % (V - 1) + 1
    changed = np.abs(hidden(model, params, later, positions, segments)[LAYERS] - before)[0].max(-1)
    assert (changed[:10] > 0).all() and jnp.isfinite(before).all()
    filled = np.where(segments > 0, tokens, 7)
    np.testing.assert_array_equal(hidden(model, params, filled, positions, segments)[LAYERS][:, :10], before[:, :10])


@pytest.mark.parametrize("shape, chunks", [(config(layers=2), 3), (Llama(2, WIDTH, 4, 2, 24, max_length=LENGTH), 2)])
def test_chunks_change_neither_states_nor_gradients(shape, chunks):
    """4 rows in 2 parts and, with empty rows, in 3 parts. The loss couples all rows, as a contrast does."""
    batch = rows(5, 7, count=4)
    whole, parts = build(shape, V), build(shape, V, chunks=chunks)
    params = jax.jit(whole.init)(jax.random.key(1))

    def outputs(model):
        def loss(p):
            states = model.bind(p).hidden(Inputs(*batch), levels=(1, 2))
            first = states[2][:, 0] + states[1][:, 6]
            return jnp.sum(jnp.tanh(first @ first.T)), states

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    for a, b in zip(jax.tree.leaves(outputs(whole)), jax.tree.leaves(outputs(parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_types_are_added_and_refused_where_there_are_none(model, params):
    batch = rows(10)
    types = np.zeros((1, LENGTH), np.int32)
    plain = hidden(model, params, *batch)[LAYERS]
    np.testing.assert_array_equal(hidden(model, params, *batch, types=types)[LAYERS], plain)
    assert not np.allclose(hidden(model, params, *batch, types=types + 1)[LAYERS], plain)
    assert jnp.isnan(hidden(model, params, *batch, types=types + 2)[LAYERS]).all(), "a type that does not exist"
    with pytest.raises(UserError, match=r"XLMRoberta\.types = 1"):
        build(config(), V).bind(params).hidden(Inputs(*batch, types=types), levels=(1,))
    with pytest.raises(UserError, match=r"Llama\.types = 1"):
        build(Llama(1, 8, 2, 2, 8), V).bind({}).hidden(Inputs(*batch, types=types), levels=(1,))


def test_row_map_ties_rows_and_biases(params):
    half = V // 2
    model = build(config(types=2), V, row_map=np.arange(V) % half)
    for array in (model.bind(params).head_weight(), model.bind(params).head_bias()):
        np.testing.assert_array_equal(array[:half], array[half:])
    tokens, positions, segments = rows(LENGTH)
    states = (hidden(model, params, tokens % half + k * half, positions, segments)[LAYERS] for k in (0, 1))
    np.testing.assert_array_equal(*states)


def test_parameters_are_annotated_and_vectors_have_one_axis(model, params):
    axes = model.logical_axes()
    jax.tree.map(lambda a, names: None if len(names) == a.ndim else pytest.fail(str(names)), params, axes)
    assert axes["layers"]["attention"]["query_bias"] == ("layers", "heads")
    assert model.tied and not model.causal
    weights = sum(a.size for k, v in params.items() if k not in ("positions", "types") for a in jax.tree.leaves(v))
    assert model.flops_per_token(10) == 6 * weights + 12 * LAYERS * WIDTH * 10


def test_bfloat16_states_from_float32_parameters(params):
    states = hidden(build(config(types=2), V, dtype=jnp.bfloat16), params, *rows(12), levels=(0, LAYERS))
    assert states[0].dtype == states[LAYERS].dtype == jnp.bfloat16


def test_errors_name_the_binding():
    with pytest.raises(UserError, match=r"XLMRoberta\.heads = 3"):
        config(heads=3)
    with pytest.raises(UserError, match=r"XLMRoberta\.types = 0"):
        config(types=0)


@pytest.mark.parametrize("name, parameters", [("tiny", 826_880), ("base", 86_043_648), ("large", 303_890_432)])
def test_shipped_sizes(name, parameters):
    """The count leaves out the embedding and the head's bias."""
    lines = (GIN / f"xlmr_{name}.gin").read_text().splitlines()
    gin.parse_config([line for line in lines if line.startswith("XLMRoberta.")])
    shape = XLMRoberta()
    abstract = build(shape, 128).shapes
    assert sum(a.size for a in jax.tree.leaves(abstract)) - 128 * (shape.width + 1) == parameters
