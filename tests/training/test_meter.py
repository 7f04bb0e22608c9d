"""Rows of metrics.jsonl: speeds cover the steps only, and no stream's name can collide with another column."""

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


def test_columns_are_right_whatever_a_stream_is_called(monkeypatch):
    rows = []
    monkeypatch.setattr(meter, "step_flops", lambda stage, model: 1.0)
    feed = SimpleNamespace(count=1, feed=SimpleNamespace(length=1, languages=("en", "de")), drawn=lambda steps: {})
    planned = SimpleNamespace(stage=SimpleNamespace(name="all"), feeds={"key_tokens": feed, "count_x": feed})
    found = meter.Meter(planned, None, SimpleNamespace(write=lambda stage, step, row: rows.append(row)))
    counts = {
        "key_tokens": {"tokens": np.array([3, 1]), "key_tokens": np.array([2, 2]), "count_words": np.array(5)},
        "count_x": {"tokens": np.array([1, 0])},
    }
    for step, loss in ((1, 1.0), (2, 3.0)):
        metrics = {"loss": loss, "loss/key_tokens": loss, "loss/count_x": loss, "count_x/tokens": loss}
        found.add(step, {"finite": np.bool_(True), **metrics, "counts": counts})
    found.flush()
    (row,) = rows
    shown = {name: value for name, value in row.items() if not name.startswith("perf/")}
    assert shown == {
        **{"loss": 2.0, "loss/key_tokens": 2.0, "loss/count_x": 2.0, "count_x/tokens": 2.0},
        **{"tokens/en": 8, "tokens/de": 2, "key_tokens/key_tokens": 8, "key_tokens/words": 10},
    }


def test_a_stream_that_takes_turns_has_means_over_its_own_steps(monkeypatch):
    rows = []
    monkeypatch.setattr(meter, "step_flops", lambda stage, model: 1.0)
    planned = SimpleNamespace(stage=SimpleNamespace(name="all"), feeds={})
    found = meter.Meter(planned, None, SimpleNamespace(write=lambda stage, step, row: rows.append(row)))
    for step in range(3):
        counts = {"a": {"steps": np.array(step == 1)}, "b": {"steps": np.array(0)}}
        metrics = {"loss": 1.0, "loss/a": 6.0 * (step == 1), "a/accuracy": 0.5 * (step == 1), "loss/b": 0.0}
        found.add(step, {"finite": np.bool_(True), **metrics, "counts": counts})
    found.flush()
    shown = {name: value for name, value in rows[0].items() if not name.startswith("perf/")}
    assert shown == {"loss": 1.0, "loss/a": 6.0, "a/accuracy": 0.5, "a/steps": 1, "b/steps": 0}
