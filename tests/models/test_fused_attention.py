"""The fused kernel, interpreted, has the values and gradients of attention from all scores, also on a mesh."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xalign_jax.models.attention import attend, causal_context, mutual_context
from xalign_jax.models.fused_attention import attend_fused, fits, keys_read


def inputs(rows, heads, kv_heads, length, head_dim=32, causal=True, window=None):
    """(query, key, value), each (B,T,heads,head_dim), the context of packed segments with padding, and weights."""
    draw = np.random.default_rng(0)
    shapes = [(rows, length, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    *arrays, weights = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes)
    segment_ids = jnp.asarray(np.sort(draw.integers(0, 4, (rows, length)))[:, ::-1], jnp.int32)
    nothing = jnp.zeros(())
    context = causal_context(segment_ids, nothing, nothing, window) if causal else mutual_context(segment_ids)
    return arrays, context, weights


def fused(query, key, value, context):
    query, key, value = (a.swapaxes(1, 2) for a in (query * query.shape[-1] ** -0.5, key, value))
    options = {"causal": context.causal, "window": context.window, "interpret": True}
    return attend_fused(query, key, value, context.segment_ids, **options).swapaxes(1, 2)


def with_gradients(function, arrays, context, weights):
    def total(arrays):
        mixed = function(*arrays, context)
        return jnp.sum(mixed * weights), mixed

    (_, mixed), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(arrays)
    return mixed, gradients


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "length", "causal", "window"),
    [(1, 4, 2, 384, True, 100), (2, 2, 2, 128, False, None)],
)
def test_same_values_and_gradients_as_from_all_scores(rows, heads, kv_heads, length, causal, window):
    case = inputs(rows, heads, kv_heads, length, causal=causal, window=window)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4),
        with_gradients(fused, *case),
        with_gradients(attend, *case),
    )


def test_devices_take_their_rows_and_heads():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    arrays, context, weights = inputs(4, 4, 2, 128)
    wanted = with_gradients(attend, arrays, context, weights)
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
        arrays = [jax.device_put(array, place) for array in arrays]
        found = with_gradients(fused, arrays, context, weights)
        query, key = (array.swapaxes(1, 2) for array in arrays[:2])
        assert fits(query, key) and not fits(query[:3], key[:3]) and not fits(query, key[:, :1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), found, wanted)


def test_programs_for_tpus_hold_the_kernel_and_no_scores():
    arrays, context, _ = inputs(2, 2, 2, 256, head_dim=128)

    def lowered(platform, *arrays, context=context):
        mixed = jax.jit(functools.partial(attend, context=context))
        return mixed.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()

    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])):
        assert "tpu_custom_call" in lowered("tpu", *arrays) and "2x2x256x256" not in lowered("tpu", *arrays)
        # A CPU takes blocks of 128 queries.
        assert "tpu_custom_call" not in lowered("cpu", *arrays) and "2x2x1x128x256" in lowered("cpu", *arrays)
        odd = [array[:, :200] for array in arrays]
        shorter = causal_context(context.segment_ids[:, :200], jnp.zeros(()), jnp.zeros(()))
        assert "tpu_custom_call" not in lowered("tpu", *odd, context=shorter)
    assert "tpu_custom_call" not in lowered("tpu", *arrays)  # eight devices, and nothing says how rows lie on them


def test_keys_read_counts_whole_blocks():
    assert keys_read(1024, 512, True, None) == 768
    assert keys_read(1024, 256, True, 256) == (256 + 3 * 512) // 4
    assert keys_read(1024, 256, False, None) == 1024
