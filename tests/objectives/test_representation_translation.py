"""DAP's representation translation: the formula with a decoder in NumPy, its copies, and what gets a gradient."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of, small_model
from sentence_cases import KEY, SPECIAL, R, S, T, V, sentence_batch

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Everything, Feed, Inputs
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.representation_translation import HEAD, RepresentationTranslation
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime.sharding import make_mesh
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant

OBJECTIVE = RepresentationTranslation(blocks=2)
WIDTH, HEADS, LAYERS = 16, 2, 3


def encoder(chunks=1):
    shape = dict(layers=LAYERS, width=WIDTH, heads=HEADS, mlp_width=32, max_length=T, init_std=0.2)
    return build(XLMRoberta(**shape), V, special=SPECIAL, mask_id=4, chunks=chunks)


@pytest.fixture(scope="module")
def model():
    return encoder()


@pytest.fixture(scope="module")
def params(model):
    """The model, and a decoder that has moved away from it."""
    own = jax.jit(model.init)(KEY)
    heads = OBJECTIVE.copied_heads(model.bind(own))
    leaves, tree = jax.tree.flatten(heads)
    random = np.random.default_rng(1)
    moved = [leaf + 0.1 * random.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return {"model": own, "heads": jax.tree.unflatten(tree, moved)}


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def block(x, visible, p):
    """BERT's block on one row (n,D); `visible` (n,) says which tokens are keys."""
    a = p["attention"]
    q, k, v = (
        np.einsum("nd,dhe->hne", x, a[name]) + a[f"{name}_bias"].reshape(HEADS, 1, -1)
        for name in ("query", "key", "value")
    )
    scores = np.where(visible, q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ v
    x = norm(x + np.einsum("hne,hed->nd", mixed, a["output"]) + a["output_bias"], p["attention_norm"])
    inner = gelu(x @ p["up"]["weight"] + p["up"]["bias"])
    return norm(x + inner @ p["down"]["weight"] + p["down"]["bias"], p["mlp_norm"])


def test_it_is_the_formula_of_a_small_decoder(model, params):
    batch = sentence_batch()
    hidden = jax.jit(lambda p, inputs, level: bound(model, p).hidden(inputs, levels=(level,))[level], static_argnums=2)
    states = np.asarray(hidden(params, Inputs.of(batch), LAYERS), np.float64)
    masks = Inputs.of(batch, "key_")._replace(tokens=jnp.full((R, T), 4))
    slots = np.asarray(hidden(params, masks, 0), np.float64)
    own, table = jax.tree.map(
        lambda a: np.asarray(a, np.float64), (params["heads"][HEAD], params["model"]["embedding"])
    )
    total, right, tokens = 0.0, 0, 0
    for row in range(R):
        for slot in range(S):
            place = slice(4 * slot, 4 * slot + 4)
            if batch["group"][row, slot, 0] < 0:
                continue
            x = np.concatenate([states[row, place], slots[row, place]])
            for layer in range(2):
                x = block(x, np.arange(8) % 4 > 0, jax.tree.map(lambda a, n=layer: a[n], own["layers"]))
            h = norm(gelu(x @ own["head"]["weight"] + own["head"]["bias"]), own["head_norm"])
            logits = (h @ table.T + own["head_bias"])[5:]
            answers = np.asarray(batch["key_tokens"])[row, place][1:]
            total += np.sum(np.log(np.exp(logits).sum(1)) - logits[np.arange(3), answers])
            right += np.sum(logits.argmax(1) == answers)
            tokens += 3
    loss, metrics, _ = loss_of(OBJECTIVE, model, params, {}, batch, KEY)
    assert OBJECTIVE.count(model, batch, KEY) == tokens == 3 * (R * S - 1)
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], right / tokens, rtol=1e-6)


def test_the_decoder_begins_as_the_last_blocks_and_the_head(model):
    own = jax.jit(model.init)(KEY)
    head = OBJECTIVE.copied_heads(model.bind(own))[HEAD]
    assert {*head} == {"layers", "head", "head_norm", "head_bias"}
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[1:]), head["layers"], own["layers"])
    np.testing.assert_array_equal(head["head"]["weight"], own["head"]["weight"])
    drawn = OBJECTIVE.init(KEY, model)[0][HEAD]
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, head)


def test_a_stage_copies_what_it_begins_with_and_leaves_a_head_that_is_known(model, params):
    stream = Stream("words", Feed(), OBJECTIVE, 8)
    stage = Stage("pairs", 1, (stream,), AdamW(), WarmupConstant(peak=0.01))
    coordinates, mesh = Everything().bind(model, None), make_mesh((8, 1, 1))
    own = {"model": params["model"], "heads": {}}
    for given, expected in ((own, OBJECTIVE.copied_heads(model.bind(own["model"]))), (params, params["heads"])):
        copy = jax.tree.map(jnp.array, given)  # which `begin` may overwrite
        begun = state.begin(stage, coordinates, model, 0, mesh, params=copy).free
        jax.tree.map(np.testing.assert_array_equal, begun, {"model": params["model"], "heads": expected})


def test_gradients_reach_the_model_through_the_states_of_queries_alone(model, params):
    batch = sentence_batch()

    def loss(p, keys):
        return OBJECTIVE.loss(bound(model, p), batch | keys, {}, KEY)[0]

    found = jax.jit(jax.grad(loss))(params, {})
    assert not np.any(found["model"]["head"]["weight"]) and not np.any(found["model"]["head_bias"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found["heads"][HEAD]["layers"]["up"]))
    # Rows of the table: only those that queries read.
    moved = np.flatnonzero(np.any(found["model"]["embedding"], axis=1))
    assert {*moved.tolist()} <= {*np.asarray(batch["tokens"]).ravel().tolist()} and len(moved) > 5


def test_rows_in_parts_give_the_same_gradient(model, params):
    batch = sentence_batch()
    whole, parts = (
        jax.jit(jax.grad(lambda p, m=m: OBJECTIVE.loss(bound(m, p), batch, {}, KEY)[0]))(params)
        for m in (model, encoder(chunks=2))
    )
    size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(whole)))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * size


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    rows = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(OBJECTIVE, model, params, batch)


def test_bad_settings_are_refused(model):
    with pytest.raises(UserError, match=r"RepresentationTranslation\.blocks = 4: the model has 3 blocks"):
        RepresentationTranslation(blocks=4).init(KEY, model)
    with pytest.raises(UserError, match="needs a model that sees both sides"):
        OBJECTIVE.init(KEY, small_model())
    with pytest.raises(UserError, match="no mask piece"):
        OBJECTIVE.init(KEY, build(model.config, V))
    with pytest.raises(UserError, match="bind a ContrastFeed"):
        OBJECTIVE.check(model, {"tokens": jnp.zeros((2, 4))})
