"""Learning rates of schedules, step by step."""

from __future__ import annotations

import numpy as np

from xalign_jax.training.optimizers import WarmupStableDecay


def test_warmup_stable_decay_rises_stays_and_falls():
    schedule = WarmupStableDecay(peak=2.0, warmup_steps=4, decay=0.4, final=0.1)
    rates = [float(schedule.schedule(10)(step)) for step in range(11)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2], rtol=1e-6)
    longer = [float(schedule.schedule(1000)(step)) for step in range(7)]
    assert longer == rates[:7]  # before the decay the length does not matter


def test_without_warmup_and_decay_the_rate_is_constant():
    schedule = WarmupStableDecay(peak=2.0, warmup_steps=0, decay=0.0).schedule(5)
    assert [float(schedule(step)) for step in range(5)] == [2.0] * 5
