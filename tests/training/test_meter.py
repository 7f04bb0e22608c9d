"""The speed in metrics.jsonl is that of steps alone."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from xalign_jax.training import meter


def test_what_a_probe_takes_is_no_part_of_a_step(monkeypatch):
    now, rows = [0.0], []
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(meter, "step_flops", lambda stage, model: 1.0)
    planned = SimpleNamespace(stage=SimpleNamespace(name="pretrain", streams=()), feeds={})
    found = meter.Meter(planned, None, SimpleNamespace(write=lambda stage, step, row: rows.append((step, row))))
    for step in (1, 2, 3, 4):
        now[0] += 1.0
        found.add(step, {"finite": np.bool_(True), "loss": jnp.float32(step), "counts": {}})
        if step == 2:
            with found.paused():
                now[0] += 60.0
    found.flush()
    ((step, row),) = rows
    assert (step, row["loss"], row["perf/step_seconds"]) == (4, 2.5, 1.0)
