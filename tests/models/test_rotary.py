"""Rotary positions: frequencies of published models, scaling by the length of a segment, partial rotation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.models.rotary import RopeScaling, frequencies, rotate, tables

LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
# name: (theta, our scaling, the fields of transformers)
PUBLISHED = {
    "llama3.1": (5e5, RopeScaling("llama3", 8.0, 8192, 1.0, 4.0), LLAMA3 | dict(original_max_position_embeddings=8192)),
    "linear": (1e4, RopeScaling("linear", 4.0), dict(factor=4.0)),
    "dynamic": (1e4, RopeScaling("dynamic", 4.0, 4096), dict(factor=4.0)),
    "qwen yarn": (1e6, RopeScaling("yarn", 4.0, 32768), dict(factor=4.0, original_max_position_embeddings=32768)),
    "yarn, attention_factor": (
        1e4,
        RopeScaling("yarn", 16.0, 4096, attention_factor=0.8, beta_fast=16.0, beta_slow=2.0),
        dict(factor=16.0, original_max_position_embeddings=4096, attention_factor=0.8, beta_fast=16.0, beta_slow=2.0),
    ),
    "yarn, mscale": (
        1e4,
        RopeScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=0.707),
        dict(factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=0.707),
    ),
    "yarn, not truncated": (
        150000.0,
        RopeScaling("yarn", 32.0, 4096, truncate=False),
        dict(factor=32.0, original_max_position_embeddings=4096, truncate=False),
    ),
    "yarn that shrinks": (
        1e4,
        RopeScaling("yarn", 1.0, 4096),
        dict(factor=1.0, original_max_position_embeddings=4096),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_frequencies_equal_hugging_face(name):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theta, scaling, theirs = PUBLISHED[name]
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": scaling.kind, "rope_theta": theta} | theirs,
    )
    expected, scale = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[scaling.kind](config)
    found = frequencies(128, theta, scaling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert scaling.attention_scale == pytest.approx(scale, rel=1e-12)


def test_plain_frequencies_are_the_powers_of_theta():
    exact = 5e5 ** -(np.arange(32) / 32)
    np.testing.assert_allclose(frequencies(64, 5e5), exact, rtol=1e-6)


def test_dynamic_scaling_knows_each_segment_s_length():
    """Within the original length nothing changes. Beyond it, theta grows with the segment's length, not its place."""
    original, factor, dims, theta = 8, 3.0, 6, 100.0
    scaling = RopeScaling("dynamic", factor, original)
    positions = np.array([[*range(5), *range(20), *range(8), 0, 0], [0, 0, 0, *range(32)]], np.int32)
    segments = np.array([[1] * 5 + [2] * 20 + [3] * 8 + [0] * 2, [0] * 3 + [1] * 32], np.int32)
    cos, sin = tables(jnp.asarray(positions), jnp.asarray(segments), dims, theta, scaling)
    for row, first, n in ((0, 0, 5), (0, 5, 20), (0, 25, 8), (1, 3, 32)):
        grown = theta * (factor * max(n, original) / original - (factor - 1)) ** (dims / (dims - 2))
        angles = np.arange(n)[:, None] * grown ** -(np.arange(0, dims, 2) / dims)
        here = row, slice(first, first + n), 0
        np.testing.assert_allclose(cos[here], np.cos(angles), atol=1e-5)
        np.testing.assert_allclose(sin[here], np.sin(angles), atol=1e-5)


def test_only_the_first_dimensions_turn():
    x = np.random.default_rng(0).standard_normal((1, 6, 2, 10)).astype(np.float32)
    positions = np.arange(6, dtype=np.int32)[None]
    cos, sin = tables(jnp.asarray(positions), jnp.ones((1, 6), jnp.int32), 4, 100.0)
    turned = rotate(jnp.asarray(x), cos, sin)
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    angles = positions[0, :, None, None] * np.array([1.0, 0.1])
    pairs = (x[0, ..., :2] + 1j * x[0, ..., 2:4]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned[0, ..., :4], np.concatenate([pairs.real, pairs.imag], -1), atol=1e-6)
    assert rotate(jnp.asarray(x, jnp.bfloat16), cos, sin).dtype == jnp.bfloat16


def test_errors_name_the_binding():
    with pytest.raises(UserError, match=r"RopeScaling\.kind = 'longrope': must be one of linear, dynamic"):
        RopeScaling("longrope", 2.0)
    with pytest.raises(UserError, match=r"RopeScaling\.original_max_length: kind = 'yarn'"):
        RopeScaling("yarn", 2.0)
