"""The three-stream step with momentum encoder and queue gives equal results when resumed, sharded or accumulated.

Momentum is 0.5, so that a key encoder that moved wrongly shows within 24 steps.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal

import jax
import numpy as np
import pytest
from training import toy
from training.runs import (
    STEPS,
    assert_equal_up_to_rounding,
    assert_identical,
    finish,
    go_on,
    metrics,
    saved_params,
    spawn,
    steps_logged,
)
from waiting import wait_until

from xalign_jax.errors import UserError
from xalign_jax.recipe import Runtime
from xalign_jax.training import evaluate, state, train
from xalign_jax.training.enter import batches, enter
from xalign_jax.training.step import make_step


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    monkeypatch.setattr(train.stages, "prepare_data", train.stages.prepare_data)
    monkeypatch.setattr(train.stages, "load_data", train.stages.load_data)
    monkeypatch.setattr(train.stages, "blank_data", train.stages.blank_data)
    toy.use_toy_data()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("infoxlm") / "run"
    finish(spawn(model_dir, recipe="infoxlm"))
    return model_dir


def test_all_three_losses_fall_and_are_counted(undisturbed):
    rows = metrics(undisturbed)
    for stream in ("mlm", "tlm", "xlco"):
        assert np.mean([row[f"loss/{stream}"] for row in rows[-4:]]) < rows[0][f"loss/{stream}"]
    assert rows[0]["xlco/key_tokens"] == 8 * 16 - 4 * 4
    assert rows[0]["tokens/a"] + rows[0]["tokens/b"] == 3 * rows[0]["xlco/key_tokens"]
    assert rows[0]["xlco/queue_norm"] > 0  # filled before the first step


def test_sigterm_and_restart_are_bit_identical(undisturbed, tmp_path):
    model_dir = tmp_path / "run"
    process = spawn(model_dir, recipe="infoxlm", pause=3 * 11)  # three streams take turns
    wait_until(lambda: steps_logged(model_dir) >= 3, [process])
    process.send_signal(signal.SIGTERM)
    go_on(model_dir)
    process.communicate(timeout=280)
    assert process.returncode == 3 and len(metrics(model_dir)) < STEPS
    finish(spawn(model_dir, recipe="infoxlm"))
    assert_identical(model_dir, undisturbed)


def test_a_run_with_trained_heads_is_evaluated_and_a_start_for_others(tmp_path, capsys):
    recipe, runtime, model_dir = toy.infoxlm(1), Runtime(mesh=(8, 1, 1)), tmp_path / "run"
    train.train(recipe, runtime, model_dir, "toy")
    saved = saved_params(model_dir, 1)
    assert saved["heads"]["xlco"]["projection"].shape == (32, 32)
    (before,) = json.loads((model_dir / "results.json").read_text())
    evaluate.evaluate(recipe, runtime, model_dir, (toy.ToyProbe(),), None)
    after = json.loads((model_dir / "results.json").read_text())
    np.testing.assert_allclose([row["value"] for row in after], before["value"], rtol=1e-6)
    start = dataclasses.replace(recipe, init_from=str(model_dir), seed=5)
    fresh = enter(toy.built(start, runtime), 0)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(fresh.free), saved)
    assert "head 'xlco' is kept" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"mesh": "2,2,2", "accumulate": 2}, {"mesh": "8,1,1"}, {"mesh": "1,2,1", "accumulate": 4}],
)
def test_meshes_and_accumulation_equal_one_device(undisturbed, tmp_path, options):
    devices = int(np.prod([int(size) for size in options["mesh"].split(",")]))
    finish(spawn(tmp_path / "run", recipe="infoxlm", devices=devices, **options))
    assert_equal_up_to_rounding(tmp_path / "run", undisturbed, toy.infoxlm(STEPS))


def test_the_compiled_step_gathers_neither_the_queue_nor_logits_against_it():
    keys, width = 16_384, 32
    recipe = toy.infoxlm(3)
    mlm, tlm, xlco = recipe.stages[0].streams
    xlco = dataclasses.replace(xlco, objective=dataclasses.replace(xlco.objective, queue=keys))
    stage = dataclasses.replace(recipe.stages[0], streams=(mlm, tlm, xlco))
    recipe = dataclasses.replace(recipe, stages=(stage,))
    run = toy.built(recipe, Runtime(mesh=(4, 2, 1)))
    coordinates = run.coordinates[stage.name]
    shapes, where, *_ = state.layout(stage, coordinates, run.model, 0, run.mesh)
    state_in = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
    (planned,) = run.stages
    with jax.set_mesh(run.mesh):
        batch = next(batches(run, planned, 0, 1, planned.feeds))
        languages = {name: feed.feed.languages for name, feed in planned.feeds.items()}
        step = jax.jit(
            make_step(stage, coordinates, run.model, 0, 0, languages), donate_argnums=0, out_shardings=(where, None)
        )
        compiled = step.lower(state_in, batch).compile().as_text()
    sizes = [
        np.prod([int(n) for n in shape.split(",")])
        for shape in re.findall(r"(?:f32|f64|bf16|pred|s32)\[([\d,]+)\]", compiled)
    ]
    assert max(sizes) < keys * width  # a device holds its eighth of the queue; 8 x 4 x 16384 logits would be as large
    gathered = [line for line in compiled.splitlines() if "all-gather(" in line]
    assert gathered and not any(str(keys) in line for line in gathered)


def test_a_queue_smaller_than_a_step_is_refused(tmp_path):
    recipe = toy.infoxlm(3)
    mlm, tlm, xlco = recipe.stages[0].streams
    xlco = dataclasses.replace(xlco, objective=dataclasses.replace(xlco.objective, queue=16))
    stage = dataclasses.replace(recipe.stages[0], streams=(mlm, tlm, xlco))
    with pytest.raises(UserError, match=r"XlCo.queue = 16: smaller than the 32 keys"):
        train.train(dataclasses.replace(recipe, stages=(stage,)), Runtime(), tmp_path, "toy")
