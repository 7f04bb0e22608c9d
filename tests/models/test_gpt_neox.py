"""GPT-NeoX: its parameters, FLOPs, causality, gin, errors. test_hugging_face.py checks its states."""

from __future__ import annotations

import gin
import jax
import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.gpt_neox import GPTNeoX
from xalign_jax.models.model import build
from xalign_jax.models.rotary import RopeScaling

V, LAYERS, WIDTH, HIDDEN = 40, 2, 24, 20


def config(**changes):
    shape = dict(layers=LAYERS, width=WIDTH, heads=3, mlp_width=HIDDEN, max_length=32, init_std=0.2)
    return GPTNeoX(**(shape | changes))


def shapes(model):
    return jax.tree.map(lambda a: a.shape, model.shapes)


def test_tree_and_axes():
    model = build(config(), V)
    found, vector = shapes(model), (LAYERS, WIDTH)
    norm = {"scale": vector, "bias": vector}
    heads = {name: (LAYERS, WIDTH, 3, 8) for name in ("query", "key", "value")}
    biases = {f"{name}_bias": vector for name in ("query", "key", "value", "output")}
    assert found == {
        "embedding": (V, WIDTH),
        "layers": {
            "attention_norm": norm,
            "attention": heads | {"output": (LAYERS, 3, 8, WIDTH)} | biases,
            "mlp_norm": norm,
            "up": {"weight": (LAYERS, WIDTH, HIDDEN), "bias": (LAYERS, HIDDEN)},
            "down": {"weight": (LAYERS, HIDDEN, WIDTH), "bias": vector},
        },
        "final_norm": {"scale": (WIDTH,), "bias": (WIDTH,)},
        "head": (V, WIDTH),
    }
    axes = model.logical_axes()
    jax.tree.map(lambda names, shape: len(names) == len(shape) or pytest.fail(str(names)), axes, found, is_leaf=is_leaf)
    plain = shapes(build(config(tied=True, attention_bias=False), V))
    assert "head" not in plain and plain["layers"]["attention"].keys() == {*heads, "output"}


def is_leaf(node):
    return isinstance(node, tuple)


def test_flops_count_matrices_and_half_the_attention():
    model = build(config(), V)
    weights = sum(np.prod(s) for s in jax.tree.leaves(shapes(model), is_leaf=is_leaf)) - V * WIDTH
    assert model.flops_per_token(10) == 6 * weights + 6 * LAYERS * WIDTH * 10


def test_no_position_sees_a_later_one():
    model = build(config(parallel_residual=False), V)
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = np.arange(1, 13, dtype=np.int32)[None]
    run = jax.jit(
        lambda t: model.bind(params).hidden(Inputs(t, np.arange(12)[None], np.ones_like(tokens)), levels=(LAYERS,))
    )
    later = tokens.copy()
    later[0, 8:] = 3
    before, after = run(tokens)[LAYERS], run(later)[LAYERS]
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert (np.abs(before - after)[:, 8:].max(-1) > 0).all()


def test_gin_builds_it_with_its_scaling():
    gin.parse_config(
        "GPTNeoX.layers = 1\nGPTNeoX.width = 16\nGPTNeoX.heads = 2\nGPTNeoX.mlp_width = 8\n"
        "GPTNeoX.rope_scaling = @RopeScaling()\nRopeScaling.kind = 'linear'\nRopeScaling.factor = 2.0\n"
    )
    assert GPTNeoX() == GPTNeoX(1, 16, 2, 8, rope_scaling=RopeScaling("linear", 2.0))


def test_errors_name_the_binding():
    with pytest.raises(UserError, match=r"GPTNeoX\.heads = 5"):
        config(heads=5)
    with pytest.raises(UserError, match=r"GPTNeoX\.rotary_fraction = 0\.4 of heads of 8: 3 dimensions"):
        config(rotary_fraction=0.4)
    with pytest.raises(UserError, match=r"GPTNeoX\.activation = 'mish': one of gelu, "):
        config(activation="mish")
