"""Canonical correlations with gradients: those of CCA, of SVCCA's directions and of deep CCA; finite where values tie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.alignment.correlations import canonical_correlations
from xalign_jax.alignment.linear_maps import canonical

N, D, E = 60, 12, 9


@pytest.fixture(scope="module")
def sides():
    """x (N,D) and y (N,E), which share some directions; their variances differ."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((N, E)) * np.linspace(1, 3, E)
    noise = rng.standard_normal((N, D)) * np.linspace(0.1, 3, D)
    return np.float32(y @ rng.standard_normal((E, D)) + 2 * noise), np.float32(y)


def of(x, y, directions, present=None, **settings):
    present = jnp.ones(len(x), bool) if present is None else present
    return canonical_correlations(jnp.asarray(x), jnp.asarray(y), present, directions=directions, **settings)


def gradient(x, y, directions, present=None):
    return jax.grad(lambda x: jnp.sum(of(x, y, directions, present)))(jnp.asarray(x))


def test_all_directions_without_a_ridge_are_cca(sides):
    x, y = (side[:, :E] for side in sides)
    np.testing.assert_allclose(of(x, y, E, ridge=0.0), canonical(x - x.mean(0), y - y.mean(0))[2], atol=1e-5)


def test_it_is_the_regularised_formula_of_deep_cca(sides):
    x, y = (np.float64(side - side.mean(0))[:, :E] for side in sides)

    def root(side):
        own = side.T @ side / (N - 1)
        values, axes = np.linalg.eigh(own + 0.01 * np.trace(own) / E * np.eye(E))
        return axes / np.sqrt(values) @ axes.T

    expected = np.linalg.svd(root(x) @ x.T @ y @ root(y) / (N - 1), compute_uv=False)
    np.testing.assert_allclose(of(x.astype(np.float32), sides[1], E, ridge=0.01), expected, atol=1e-5)


@pytest.mark.parametrize("directions", [3, E])
def test_values_and_gradient_as_pytorch_has_them_from_principal_directions(sides, directions):
    torch = pytest.importorskip("torch")
    x = torch.tensor(sides[0], dtype=torch.float64, requires_grad=True)
    parts = []
    for side in (x, torch.tensor(sides[1], dtype=torch.float64)):
        left, values, _ = torch.linalg.svd(side - side.mean(0), full_matrices=False)
        ridge = 1e-4 * (values**2).sum() / side.shape[1]
        parts.append(left[:, :directions] * values[:directions] / torch.sqrt(values[:directions] ** 2 + ridge))
    expected = torch.linalg.svdvals(parts[0].T @ parts[1])
    expected.sum().backward()
    np.testing.assert_allclose(of(*sides, directions), expected.detach(), atol=1e-5)
    apart = np.linalg.norm(gradient(*sides, directions) - x.grad.numpy())
    assert apart < 1e-4 * np.linalg.norm(x.grad)


def test_rows_that_do_not_count_change_nothing_and_get_no_gradient(sides):
    present = np.random.default_rng(1).random(N) < 0.7
    x, y = (np.where(present[:, None], side, 50.0).astype(np.float32) for side in sides)
    alone = [side[present] for side in sides]
    np.testing.assert_allclose(of(x, y, 3, present), of(*alone, 3), atol=1e-5)
    found = np.asarray(gradient(x, y, 3, present))
    np.testing.assert_allclose(found[present], gradient(*alone, 3), atol=1e-5)
    assert not found[~present].any()
    assert not np.asarray(of(x, y, 3, present & False)).any()
    assert not np.asarray(gradient(x, y, 3, present & False)).any()


def test_size_and_place_of_a_side_do_not_matter(sides):
    x, y = sides
    np.testing.assert_allclose(of(100 * x + 7, y / 100 - 3, 4), of(x, y, 4), atol=1e-4)


@pytest.mark.parametrize("directions", [3, E])
def test_the_gradient_is_finite_where_all_values_are_equal(directions):
    centred = np.random.default_rng(2).standard_normal((N, E))
    x = np.float32(np.linalg.qr(centred - centred.mean(0))[0])  # all variances are equal
    for y in (x, x[:, ::-1], x[::-1]):  # and all correlations, in the first two
        assert np.isfinite(gradient(x, y, directions)).all()
    np.testing.assert_allclose(of(x, x, E), 1, atol=1e-3)
    assert np.abs(gradient(x, x, E)).max() < 1e-3  # nothing can rise


def test_steps_along_the_gradient_raise_the_sum(sides):
    x, y = sides
    before = of(x, y, 4).sum()
    for _ in range(20):
        x = x + 0.5 * gradient(x, y, 4)
    assert of(x, y, 4).sum() > before + 0.05
