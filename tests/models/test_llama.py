"""The Llama decoder: levels, packing, padding, grouped heads, ties, remat, sizes of the shipped configurations."""

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
from xalign_jax.models import attention
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build

V, LAYERS = 40, 3
GIN = Path(__file__).parents[2] / "gin" / "models"


def config(**changes):
    shape = dict(layers=LAYERS, width=16, heads=4, kv_heads=2, mlp_width=24, max_length=32, init_std=0.2)
    return Llama(**(shape | changes))


def row(*lengths: int, total: int = 16, seed: int = 0):
    """tokens, positions, segment_ids (1,total): one row with segments of these lengths, then padding."""
    tokens, positions, segments = (np.zeros((1, total), np.int32) for _ in range(3))
    start = 0
    for i, n in enumerate(lengths):
        tokens[0, start : start + n] = np.random.default_rng([seed, i]).integers(1, V, n)
        positions[0, start : start + n] = np.arange(n)
        segments[0, start : start + n] = i + 1
        start += n
    return tokens, positions, segments


@functools.partial(jax.jit, static_argnums=0, static_argnames="levels")
def hidden(model, params, *batch, levels):
    return model.bind(params).hidden(Inputs(*batch), levels=levels)


@pytest.fixture(scope="module")
def model():
    return build(config(), V)


@pytest.fixture(scope="module")
def params(model):
    return jax.jit(model.init)(jax.random.key(0))


def reference(params, tokens, c):
    """Level L of one unpadded sequence (T,), computed head by head in numpy float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def norm(x, scale):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + c.norm_eps) * scale

    def turn(x):
        half = c.head_size // 2
        angles = np.arange(len(x))[:, None] * c.rope_theta ** (-np.arange(half) / half)
        first, second = x[:, :half], x[:, half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], 1)

    x, levels = p["embedding"][tokens], []
    for i in range(c.layers):
        levels.append(x)
        w = jax.tree.map(lambda a, i=i: a[i], p["layers"])
        h = norm(x, w["attention_norm"]["scale"])
        for head in range(c.heads):
            k = head // (c.heads // c.kv_heads)
            q = turn(h @ w["attention"]["query"][:, head])
            scores = q @ turn(h @ w["attention"]["key"][:, k]).T / np.sqrt(c.head_size)
            weights = np.exp(np.where(np.tri(len(x), dtype=bool), scores, -np.inf))
            weights /= weights.sum(1, keepdims=True)
            x = x + weights @ (h @ w["attention"]["value"][:, k]) @ w["attention"]["output"][head]
        h = norm(x, w["mlp_norm"]["scale"])
        gate = h @ w["mlp"]["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp"]["up"])) @ w["mlp"]["down"]
    return [*levels, norm(x, p["final_norm"]["scale"])]


def test_every_level_equals_a_reference_written_head_by_head(model, params):
    tokens, positions, segments = row(12, total=12)
    levels = tuple(range(LAYERS + 1))
    found = hidden(model, params, tokens, positions, segments, levels=levels)
    for level, expected in enumerate(reference(params, tokens[0], config())):
        np.testing.assert_allclose(found[level][0], expected, atol=2e-5, err_msg=f"level {level}")


@pytest.mark.parametrize("levels", [(0,), (1, 2), (1, 3), (0, 1, 3)])
def test_any_choice_of_levels_gives_the_same_states(model, params, levels):
    batch = row(5, 7)
    everything = hidden(model, params, *batch, levels=(0, 1, 2, 3))
    found = hidden(model, params, *batch, levels=levels)
    assert tuple(found.levels) == levels and found.sites == {}
    for level in levels:
        np.testing.assert_allclose(found[level], everything[level], atol=1e-6)


def test_stopping_early_leaves_later_blocks_without_gradient(model, params):
    batch = row(5, 7)
    grads = jax.jit(jax.grad(lambda p: model.bind(p).hidden(Inputs(*batch), levels=(1,))[1].sum()))(params)
    norms = jnp.sqrt(jnp.sum(grads["layers"]["mlp"]["down"] ** 2, axis=(1, 2)))
    assert norms[0] > 0 and not norms[1:].any() and not grads["final_norm"]["scale"].any()


def test_a_model_without_its_upper_blocks_has_the_same_lower_levels(model, params):
    batch = Inputs(*row(5, 7))
    whole = model.bind(params).hidden(batch, levels=(0, 2))
    cut = model.bind(params).up_to(2)
    assert cut.params["layers"]["mlp"]["down"].shape[0] == 2 and model.bind(params).up_to(LAYERS).params is params
    states = cut.hidden(batch, levels=(0, 2))
    for level in (0, 2):
        np.testing.assert_array_equal(states[level], whole[level])


def test_packed_segments_have_the_states_of_separate_rows(model, params):
    packed = row(5, 7, 3)
    top = hidden(model, params, *packed, levels=(1, 3))
    start = 0
    for n in (5, 7, 3):
        tokens = packed[0][:, start : start + n]
        alone = hidden(model, params, tokens, np.arange(n)[None], np.ones((1, n), np.int32), levels=(1, 3))
        for level in (1, 3):
            np.testing.assert_allclose(top[level][:, start : start + n], alone[level], atol=1e-5)
        start += n


def test_padding_is_finite_and_harmless(model, params):
    tokens, positions, segments = row(5, total=16)
    states = hidden(model, params, tokens, positions, segments, levels=(3,))[3]
    assert jnp.isfinite(states).all()
    other = np.where(segments == 0, 9, tokens)
    np.testing.assert_array_equal(
        hidden(model, params, other, positions, segments, levels=(3,))[3][:, :5], states[:, :5]
    )
    grads = jax.jit(
        jax.grad(lambda p: model.bind(p).hidden(Inputs(tokens, positions, 0 * segments), levels=(3,))[3].sum())
    )(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_no_position_sees_a_later_one(model, params):
    tokens, positions, segments = row(12, total=12)
    later = tokens.copy()
    later[0, 8:] = 3
    before, after = (hidden(model, params, t, positions, segments, levels=(3,))[3] for t in (tokens, later))
    np.testing.assert_array_equal(before[:, :8], after[:, :8])


@pytest.mark.parametrize("window", [None, 6])
def test_blocks_of_queries_on_a_cpu_change_nothing(window, monkeypatch):
    batch = row(5, 7, 2)

    def gradient(queries):
        monkeypatch.setattr(attention, "QUERIES_CPU", queries)
        model = build(config(window=window), V)
        params = jax.jit(model.init)(jax.random.key(1))
        program = jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(model.bind(p).hidden(Inputs(*batch), levels=(3,))[3] ** 2))
        )
        return program(params), program.lower(params).as_text()

    (whole, text), (blocks, text_of_blocks) = gradient(16), gradient(5)
    # Blocks of 5 queries of 16: the last one has a single query, and the first one sees 5 keys.
    assert "x5x5xf32" in text_of_blocks and "x5x5xf32" not in text
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [3, 9])
def test_remat_and_loops_change_nothing(layers):
    """On a CPU, 3 layers are unrolled and 9 run as a loop."""
    batch = row(5, 7)
    plain, remat = (build(config(layers=layers), V, remat=flag) for flag in (False, True))
    params = jax.jit(plain.init)(jax.random.key(1))

    def gradient(model):
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(model.bind(p).hidden(Inputs(*batch), levels=(2, layers))[2] ** 2))
        )(params)

    for a, b in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_states_from_float32_parameters(params):
    model = build(config(), V, dtype=jnp.bfloat16)
    states = hidden(model, params, *row(12, total=12), levels=(0, 3))
    assert states[0].dtype == states[3].dtype == jnp.bfloat16
    exact = hidden(build(config(), V), params, *row(12, total=12), levels=(3,))[3]
    np.testing.assert_allclose(states[3].astype(np.float32), exact, atol=0.15)


def test_row_map_ties_rows_of_input_and_head(params):
    rows = np.arange(V, dtype=np.int32)
    rows[V // 2 :] -= V // 2
    model = build(config(), V, row_map=rows)
    tokens, positions, segments = row(12, total=12)
    base = tokens % (V // 2)
    np.testing.assert_array_equal(
        hidden(model, params, base + V // 2, positions, segments, levels=(3,))[3],
        hidden(model, params, base, positions, segments, levels=(3,))[3],
    )
    weight = model.bind(params).head_weight()
    assert weight.shape == (V, 16)
    np.testing.assert_array_equal(weight[: V // 2], weight[V // 2 :])


def test_tied_head_is_the_embedding(model, params):
    tied = build(config(tied=True), V)
    own = jax.jit(tied.init)(jax.random.key(0))
    assert tied.tied and "head" not in own
    assert tied.bind(own).head_weight() is own["embedding"]
    assert model.bind(params).head_weight() is params["head"] and not model.tied


def test_init_is_abstract_and_annotated(model, params):
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    assert abstract == model.shapes
    axes = model.logical_axes()
    is_names = lambda node: isinstance(node, tuple)  # noqa: E731
    assert jax.tree.structure(abstract) == jax.tree.structure(axes, is_leaf=is_names)
    names = jax.tree.leaves(axes, is_leaf=is_names)
    assert [len(n) for n in names] == [a.ndim for a in jax.tree.leaves(abstract)]
    assert axes["layers"]["attention"]["key"] == ("layers", "embed", "kv_heads", "head_dim")
    down = params["layers"]["mlp"]["down"]
    assert not jnp.allclose(down[0], down[1]), "blocks must start from different draws"


def test_flops_count_matrices_and_half_the_attention(model):
    per_layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24
    norms = LAYERS * 2 * 16 + 16
    expected = 6 * (LAYERS * per_layer + norms + V * 16) + 6 * LAYERS * 16 * 10
    assert model.flops_per_token(10) == expected


def test_flops_count_the_keys_that_windows_show():
    per_layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24
    matrices = 6 * (LAYERS * per_layer + LAYERS * 2 * 16 + 16 + V * 16)

    def keys(**changes):
        return (build(config(**changes), V).flops_per_token(10) - matrices) / (12 * 16)

    assert keys() == keys(window=10) == keys(window=99) == LAYERS * 5
    assert keys(window=4) == pytest.approx(LAYERS * (4 - 4 * 4 / 20))
    assert keys(window=4, full_attention_layers=(0, 2)) == pytest.approx(2 * 5 + 3.2)


def test_a_window_limits_what_a_block_sees(params):
    """One block with a window of 3 sees two tokens before. A full one sees all of them."""
    tokens, positions, segments = row(12, total=12)
    earlier = tokens.copy()
    earlier[0, 4] = tokens[0, 4] % (V - 1) + 1

    def changed(**options):
        model = build(config(**options), V)
        states = [hidden(model, params, t, positions, segments, levels=(1,))[1] for t in (tokens, earlier)]
        return np.flatnonzero(np.abs(states[0] - states[1])[0].max(-1))

    assert changed(window=3).tolist() == [4, 5, 6]
    assert changed(window=3, full_attention_layers=(1,)).tolist() == [4, 5, 6]
    assert changed(window=3, full_attention_layers=(0,)).tolist() == changed().tolist() == [*range(4, 12)]


def test_mixed_windows_under_remat_and_chunks():
    """With 9 layers, which run as a loop."""
    shape = config(layers=9, window=3, full_attention_layers=(0, 4, 5))
    batch = [np.concatenate([a, a[:, ::-1]]) if i == 0 else np.tile(a, (2, 1)) for i, a in enumerate(row(5, 7))]
    plain = build(shape, V)
    params = jax.jit(plain.init)(jax.random.key(1))

    def gradient(model):
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(model.bind(p).hidden(Inputs(*batch), levels=(9,))[9] ** 2))
        )(params)

    other = build(shape, V, remat=True, chunks=2)
    for a, b in zip(*(jax.tree.leaves(gradient(model)) for model in (plain, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_errors_name_the_binding(model, params):
    with pytest.raises(UserError, match=r"Llama\.max_length = 32"):
        model.bind(params).hidden(Inputs(*row(12, total=33)), levels=(3,))
    with pytest.raises(UserError, match=r"Llama\.kv_heads"):
        config(kv_heads=3)
    with pytest.raises(UserError, match=r"Llama\.heads"):
        config(heads=5, kv_heads=5)
    with pytest.raises(UserError, match=r"Llama\.window = 0"):
        config(window=0)
    with pytest.raises(UserError, match=r"Llama\.full_attention_layers = \(3,\): layers 0 to 2"):
        config(window=2, full_attention_layers=(3,))


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("1m", 656_512),
        ("4m", 4_016_896),
        ("20m", 19_274_240),
        ("150m", 149_447_680),
        ("400m", 298_894_336),
        ("1_3b", 1_214_351_360),
    ],
)
def test_shipped_sizes(name, parameters):
    lines = (GIN / f"llama_{name}.gin").read_text().splitlines()
    bindings = [line for line in lines if line.startswith("Llama.")]
    with gin.unlock_config():
        gin.parse_config(bindings)
    try:
        shape = Llama()
    finally:
        gin.clear_config()
    abstract = build(shape, 128).shapes
    assert sum(a.size for a in jax.tree.leaves(abstract)) - 2 * 128 * shape.width == parameters


@pytest.mark.parametrize(("std", "expected"), [(None, 0.2), (1.0, 1.0)])
def test_rows_of_the_tables_have_a_spread_of_their_own(std, expected):
    fresh = jax.jit(build(config(table_std=std), 1000).init)(jax.random.key(0))
    for name, values in (("embedding", fresh["embedding"]), ("head", fresh["head"])):
        assert np.std(values) == pytest.approx(expected, rel=0.05), name
    assert np.std(fresh["layers"]["attention"]["query"]) == pytest.approx(0.2, rel=0.1)


def test_captured_sites_add_up_to_the_residual_stream(model, params):
    batch, bound = Inputs(*row(5, 7)), model.bind(params)
    found = bound.hidden(batch, levels=(1, 2), capture=("attention", "mlp"))
    plain = bound.hidden(batch, levels=(1, 2))
    np.testing.assert_array_equal(found[2], plain[2])
    assert {site: [*levels] for site, levels in found.sites.items()} == {"attention": [1, 2], "mlp": [1, 2]}
    down = params["layers"]["mlp"]["down"][1]  # of the block that leads from level 1 to level 2
    expected = found[1] + found["attention", 2] + found["mlp", 2] @ down
    np.testing.assert_allclose(found[2], expected, atol=1e-5)


def test_an_edit_at_a_level_is_what_later_levels_read(model, params):
    batch, bound = Inputs(*row(5, 7)), model.bind(params)
    states = bound.hidden(batch, levels=(0, 1, 2, 3))
    replaced = bound.hidden(batch, levels=(1, 2, 3), edit={1: lambda x: states[0]})
    np.testing.assert_array_equal(replaced[1], states[0])
    shifted = bound.hidden(batch, levels=(0, 1, 2, 3), edit={level: lambda x: x for level in range(4)})
    for level in range(4):
        np.testing.assert_allclose(shifted[level], states[level], atol=1e-6)
    last = bound.hidden(batch, levels=(3,), edit={2: lambda x: x + 1.0})[3]
    assert np.abs(np.asarray(last - states[3])).max() > 1e-2
