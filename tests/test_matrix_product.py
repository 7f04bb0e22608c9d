"""Matrix products: their results and gradients in each form, and the kernel that XLA takes for bfloat16 on CPUs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax import matrix_product
from xalign_jax.matrix_product import product

SHAPES = {"nn": ((6, 4), (4, 8)), "nt": ((6, 4), (8, 4)), "tn": ((4, 6), (4, 8))}
ODD = {"nn": ((5, 3), (3, 7)), "nt": ((5, 3), (7, 3)), "tn": ((3, 5), (3, 7))}


def operands(shapes, batch, dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(*batch, *shape)), dtype) for shape in shapes]


def exact(form, a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a.swapaxes(-1, -2) if form == "tn" else a) @ (b.swapaxes(-1, -2) if form == "nt" else b)


@pytest.fixture(params=[1, 8], ids=["one device", "eight devices"])
def devices(request, monkeypatch):
    monkeypatch.setattr(matrix_product, "device_count", lambda: request.param)


@pytest.mark.parametrize("shapes", [SHAPES, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["one", "batch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["nn", "nt", "tn"])
def test_equals_the_exact_product_with_its_gradients(form, dtype, batch, shapes, devices):
    a, b = operands(shapes[form], batch, dtype)
    expected = exact(form, a, b)
    g = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), dtype)
    out, back = jax.vjp(lambda a, b: product(a, b, form), a, b)
    assert out.dtype == jnp.float32
    # The operands are the same numbers on both sides. So bfloat16 has float32's error.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    d_a, d_b = back(g.astype(jnp.float32))
    assert d_a.dtype == d_b.dtype == a.dtype
    rounded = dict(rtol=1e-5, atol=1e-5) if dtype == "float32" else dict(rtol=2**-8, atol=1e-2)
    own = {"nn": (("nt", g, b), ("tn", a, g)), "nt": (("nn", g, b), ("tn", g, a)), "tn": (("nt", b, g), ("nn", a, g))}
    for found, terms in zip((d_a, d_b), own[form], strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float32), exact(*terms), **rounded)


def test_the_result_has_the_dtype_that_is_asked_for():
    a, b = operands(SHAPES["nn"], (), jnp.bfloat16)
    assert product(a, b, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(product(a, b, dtype=jnp.bfloat16), product(a, b).astype(jnp.bfloat16))


def has_bfloat16_products():
    """Whether this machine's processor multiplies bfloat16 (AMX)."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "amx_bf16" in facts.read_text()


@pytest.mark.skipif(not has_bfloat16_products(), reason="the processor has no products of bfloat16 (AMX)")
@pytest.mark.parametrize("form", ["nn", "nt", "tn"])
def test_xla_multiplies_bfloat16_on_a_cpu_without_float32_operands(form, monkeypatch):
    # The speed stands on this: if XLA converted the operands, its products would be as slow as float32's.
    monkeypatch.setattr(matrix_product, "device_count", lambda: 1)
    shapes = {"nn": ((256, 64), (64, 128)), "nt": ((256, 64), (128, 64)), "tn": ((64, 256), (64, 128))}[form]
    compiled = jax.jit(lambda a, b: product(a, b, form)).lower(*operands(shapes, (), jnp.bfloat16)).compile()
    # Such a program would have a float32 array of an operand's size: 256 x 64 or 64 x 128.
    assert not [
        size for size in ("f32[256,64]", "f32[64,256]", "f32[64,128]", "f32[128,64]") if size in compiled.as_text()
    ]
