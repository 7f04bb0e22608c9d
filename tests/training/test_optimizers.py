"""Schedules at the steps where they change direction; which arrays AdamW decays, and how it clips."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.training.optimizers import AdamW, WarmupConstant, WarmupCosine, WarmupLinear, WarmupStableDecay


def rates(schedule, steps):
    return [float(schedule.schedule(steps)(step)) for step in range(steps)]


def test_warm_up_then_a_cosine_to_a_share_of_the_peak():
    found = rates(WarmupCosine(peak=2.0, warmup=0.2, final=0.25), 20)
    np.testing.assert_allclose(found[:5], [0.5, 0.875, 1.25, 1.625, 2.0], rtol=1e-6)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(16) / 16))
    np.testing.assert_allclose(found[4:], 0.5 + 1.5 * cosine, rtol=1e-6)


def test_warm_up_then_a_constant():
    np.testing.assert_allclose(rates(WarmupConstant(peak=2.0, warmup=0.4), 5), [1, 2, 2, 2, 2], rtol=1e-6)
    assert rates(WarmupConstant(peak=2.0), 3) == [2, 2, 2]


def test_warm_up_then_a_line_to_zero():
    found = rates(WarmupLinear(peak=2.0, warmup=0.2), 10)
    np.testing.assert_allclose(found, [1, 2, *(2 * np.arange(8, 0, -1) / 8)], rtol=1e-6)
    assert float(WarmupLinear(peak=2.0, warmup=0.2).schedule(10)(10)) == 0


@pytest.mark.parametrize("schedule", [WarmupCosine, WarmupConstant, WarmupLinear])
def test_a_warm_up_is_a_whole_number_of_steps(schedule):
    """0.2 of 12 steps and of 13 are 2.4 and 2.6."""
    for steps, warm in ((12, 2), (13, 3)):
        found = rates(schedule(peak=2.0, warmup=0.2), steps)
        np.testing.assert_allclose(found[0], 2.0 / warm, rtol=1e-6)


@pytest.mark.parametrize("schedule", [WarmupCosine(), WarmupConstant(), WarmupLinear(), WarmupLinear(warmup=1.0)])
def test_a_stage_of_one_step_trains(schedule):
    (rate,) = rates(schedule, 1)
    np.testing.assert_allclose(rate, schedule.peak, rtol=1e-6)


@pytest.mark.parametrize(("clip", "scale"), [(0.0, 1.0), (1.0, 0.2), (10.0, 1.0)])
def test_decay_is_added_where_asked_and_gradients_are_clipped_together(clip, scale):
    """The gradient's norm is 5. Adam's first direction is the clipped gradient over its magnitude plus eps."""
    params, grads = {"w": jnp.array([4.0]), "norm": jnp.array([2.0])}, {"w": jnp.array([3.0]), "norm": jnp.array([4.0])}
    chosen = AdamW(eps=10.0, weight_decay=0.5, clip=clip).direction({"w": True, "norm": False})
    found, _ = chosen.update(grads, chosen.init(params), params)
    np.testing.assert_allclose(found["w"] - 0.5 * 4.0, [3 * scale / (3 * scale + 10)], rtol=1e-4)
    np.testing.assert_allclose(found["norm"], [4 * scale / (4 * scale + 10)], rtol=1e-4)


def test_moments_decay_at_their_own_rates():
    params, chosen = {"w": jnp.zeros(1)}, AdamW(b1=0.5, b2=0.75, eps=1e-12, clip=0.0)
    direction = chosen.direction({"w": True})
    _, moments = direction.update({"w": jnp.array([4.0])}, direction.init(params), params)
    found, _ = direction.update({"w": jnp.array([1.0])}, moments, params)
    first = (0.5 * 2.0 + 0.5 * 1.0) / (1 - 0.5**2)
    second = (0.75 * 4.0 + 0.25 * 1.0) / (1 - 0.75**2)
    np.testing.assert_allclose(found["w"], first / np.sqrt(second), rtol=1e-5)


def test_warmup_stable_decay_rises_stays_and_falls():
    schedule = WarmupStableDecay(peak=2.0, warmup_steps=4, decay=0.4, final=0.1)
    rates = [float(schedule.schedule(10)(step)) for step in range(11)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2], rtol=1e-6)
    longer = [float(schedule.schedule(1000)(step)) for step in range(7)]
    assert longer == rates[:7]  # before the decay the length does not matter


def test_without_warmup_and_decay_the_rate_is_constant():
    schedule = WarmupStableDecay(peak=2.0, warmup_steps=0, decay=0.0).schedule(5)
    assert [float(schedule(step)) for step in range(5)] == [2.0] * 5
