"""Runs stop, die, restart, and change their mesh and number of processes; the result stays equal (`runs.py`)."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import shutil
import signal
import time
from types import SimpleNamespace

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
    pair,
    saved_params,
    spawn,
    steps_logged,
)
from waiting import wait_until

from xalign_jax import config
from xalign_jax.data.token_ties import TokenTies
from xalign_jax.errors import RunError, UserError
from xalign_jax.evaluation.probes.perplexity import Perplexity
from xalign_jax.evaluation.probes.word_retrieval import WordRetrieval
from xalign_jax.objectives.translation_ranking import TranslationRanking
from xalign_jax.objectives.word_contrast import WordContrast
from xalign_jax.objectives.xlco import XlCo
from xalign_jax.parametrizations import tied_rows
from xalign_jax.parametrizations.selection import Selection
from xalign_jax.parametrizations.tied_rows import TiedRows
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.training import probing, train
from xalign_jax.training.enter import enter
from xalign_jax.training.optimizers import AdamW, WarmupConstant


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    monkeypatch.setattr(train.stages, "prepare_data", train.stages.prepare_data)
    monkeypatch.setattr(train.stages, "load_data", train.stages.load_data)
    monkeypatch.setattr(train.stages, "blank_data", train.stages.blank_data)
    toy.use_toy_data()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An undisturbed run on one device, and its initial parameters."""
    model_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(spawn(model_dir))
    return model_dir


def test_a_run_leaves_what_explains_it(undisturbed):
    assert {"config.gin", "environment.json", "metrics.jsonl", "results.json", "checkpoints"} <= {
        path.name for path in undisturbed.iterdir()
    }
    rows = metrics(undisturbed, timing=True)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {row["stage"] for row in rows} == {"align", "pretrain"}
    assert rows[0]["tokens/a"] == rows[0]["tokens/b"] == 4 * 16
    assert rows[0]["perf/tokens_per_second"] > 0
    assert "loss/align_words" in rows[0] and "loss/pretrain_lm" in rows[-1]
    results = json.loads((undisturbed / "results.json").read_text())
    assert [(row["stage"], row["step"]) for row in results] == [("align", STEPS // 3), ("pretrain", STEPS)]
    recipe, _ = config.load([str(undisturbed / "config.gin")], [], (Recipe, Runtime))
    assert recipe == dataclasses.replace(toy.recipe(STEPS), modules=recipe.modules)


def test_sigterm_saves_and_the_same_command_continues(undisturbed, tmp_path):
    model_dir = tmp_path / "run"
    process = spawn(model_dir, pause=11)
    wait_until(lambda: steps_logged(model_dir) >= 5, [process])
    process.send_signal(signal.SIGTERM)
    go_on(model_dir)
    process.communicate(timeout=280)
    assert process.returncode == 3 and len(metrics(model_dir)) < STEPS
    finish(spawn(model_dir))
    assert_identical(model_dir, undisturbed)


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_sigkill_at_any_moment_costs_only_the_steps_since_the_last_checkpoint(undisturbed, tmp_path, rounds):
    model_dir, chance = tmp_path / "run", random.Random(rounds)
    for number in range(rounds):
        before = steps_logged(model_dir)
        process = spawn(model_dir, sleep=0.05, checkpoint_every=2)
        if number % 4 < 3:  # amid the steps and saves; else before the first one
            target = min(before + chance.randint(1, 6), STEPS)
            wait_until(lambda: steps_logged(model_dir) >= target or process.poll() is not None)  # noqa: B023
        time.sleep(chance.uniform(0, 0.7))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors  # 0: it was at its end
    finish(spawn(model_dir, checkpoint_every=2))
    assert [row["loss"] for row in metrics(model_dir)] == [row["loss"] for row in metrics(undisturbed)]
    assert_identical(model_dir, undisturbed)


@pytest.mark.parametrize(
    "mesh", ["2,2,2", *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("8,1,1", "1,8,1", "1,2,4"))]
)
def test_any_mesh_of_eight_devices_equals_one_device(undisturbed, tmp_path, mesh):
    finish(spawn(tmp_path / "run", devices=8, mesh=mesh))
    assert_equal_up_to_rounding(tmp_path / "run", undisturbed, toy.recipe(STEPS))


def test_two_processes_of_four_devices_equal_one_device_and_can_be_resumed_by_one(undisturbed, tmp_path):
    model_dir = tmp_path / "run"
    both = pair(model_dir, pause=11)
    wait_until(lambda: (model_dir / "checkpoints" / "8").exists(), both)
    for process in both:
        process.kill()
        process.communicate()
    assert [process.returncode for process in both] == [-signal.SIGKILL] * 2
    finish(spawn(model_dir, devices=1))
    assert_equal_up_to_rounding(model_dir, undisturbed, toy.recipe(STEPS))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    recipe = toy.recipe(STEPS, bad_row=8 * 13 + 3)  # in the 14th batch of the shared LM cursor
    runtime = Runtime(mesh=(8, 1, 1), log_every=5, checkpoint_every=4)
    with pytest.raises(RunError, match=r"step 14: the loss of stream pretrain_lm"):
        train.train(recipe, runtime, tmp_path, "toy")
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["stage"], failure["step"], failure["stream"]) == ("pretrain", 14, "pretrain_lm")
    assert np.isinf(failure["batch"]["pretrain_lm"]["weights"][3][0])
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 12
    assert all(np.isfinite(row["loss"]) for row in metrics(tmp_path))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"texts": {"docs": {"train": {"en": "before"}}}}, "the text of 'docs' is no longer"),
        ({"vocabulary_fingerprint": "before"}, "its vocabulary is not the one"),
    ],
)
def test_a_run_does_not_go_on_with_other_texts_or_another_vocabulary(undisturbed, tmp_path, changed, said):
    shutil.copytree(undisturbed, tmp_path / "run")
    train.train(toy.recipe(STEPS), Runtime(), tmp_path / "run", "toy")
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match=said):
        train.train(toy.recipe(STEPS), Runtime(), tmp_path / "run", "toy")
    assert json.loads(path.read_text()).items() >= changed.items()


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (WordRetrieval(), "WordRetrieval: no dictionary"),
        (Perplexity(length=1000), r"Perplexity\.length = 1000: longer than"),
        (Perplexity(length=8), "no text in the validation split"),
    ],
)
def test_a_probe_that_lacks_something_is_refused_before_anything_is_trained(tmp_path, probe, said):
    recipe = toy.recipe(STEPS)
    last = dataclasses.replace(recipe.stages[-1], probes=(probe,))
    with pytest.raises(UserError, match=said):
        train.train(dataclasses.replace(recipe, stages=(*recipe.stages[:-1], last)), Runtime(), tmp_path, "toy")


def test_an_objective_that_cannot_work_is_refused_before_anything_is_trained(tmp_path):
    recipe = toy.recipe(STEPS)
    stream = dataclasses.replace(recipe.stages[1].streams[0], objective=TranslationRanking())
    second = dataclasses.replace(recipe.stages[1], streams=(stream,))
    with pytest.raises(UserError, match=r"TranslationRanking\.pooling = 'first': a causal model"):
        train.train(dataclasses.replace(recipe, stages=(recipe.stages[0], second)), Runtime(), tmp_path / "run", "toy")
    assert not (tmp_path / "run").exists()


def test_another_recipe_is_refused_with_the_difference_and_extend_adds_steps(tmp_path):
    runtime = Runtime(mesh=(1, 8, 1), checkpoint_every=4)
    align, pretrain = toy.recipe(3).stages
    pretrain = dataclasses.replace(pretrain, schedule=WarmupConstant(1e-2))
    recipe = dataclasses.replace(toy.recipe(3), stages=(align, pretrain))
    train.train(recipe, runtime, tmp_path, "toy")
    higher = dataclasses.replace(pretrain, schedule=WarmupConstant(2e-2))
    with pytest.raises(UserError, match=r"Recipe.stages\[1\].schedule.peak is 0.01 there, 0.02 here"):
        train.train(dataclasses.replace(recipe, stages=(align, higher)), runtime, tmp_path, "toy")
    longer = dataclasses.replace(recipe, stages=(align, dataclasses.replace(pretrain, steps=4)))
    with pytest.raises(UserError, match="--extend"):
        train.train(longer, runtime, tmp_path, "toy")
    train.train(longer, dataclasses.replace(runtime, mesh=(2, 2, 2)), tmp_path, "toy", extend=True)
    assert metrics(tmp_path)[-1]["step"] == 5


def test_streams_of_one_text_take_turns_and_more_steps_change_none_before(monkeypatch):
    """Row numbers of a stage with two streams on one cursor, and of the next stage with one stream."""
    monkeypatch.setattr(toy.ToyRows, "batch", lambda self, first, cut: np.arange(first, first + self.count)[cut])
    recipe = toy.recipe(3)
    align, pretrain = recipe.stages
    lm = align.streams[1]
    read = {}
    for steps in (2, 5):
        both = dataclasses.replace(align, steps=steps, streams=(lm, dataclasses.replace(lm, name="more", batch_size=4)))
        first, second = train.stages.plan(dataclasses.replace(recipe, stages=(both, pretrain)), None)
        feeds = first.feeds.values()
        read[steps] = [np.concatenate([f.batch(step, slice(None)) for f in feeds]).tolist() for step in range(steps)]
        assert list(itertools.chain.from_iterable(read[steps])) == list(range(12 * steps))
        assert second.feeds["pretrain_lm"].batch(steps, slice(0, 1)) == 12 * steps
    assert read[5][:2] == read[2]


@dataclasses.dataclass(frozen=True)
class WithoutTargets(toy.ToyFeed):
    """A feed whose batches can be counted, but lack an array that the loss reads."""

    def build(self, corpus, mixture, rows, seed):
        return RowsWithoutTargets(self.length, rows, seed, self.bad_row)


class RowsWithoutTargets(toy.ToyRows):
    def batch(self, first_row, row_slice):
        return {key: value for key, value in super().batch(first_row, row_slice).items() if key != "targets"}


@pytest.mark.parametrize(
    ("mesh", "change", "said"),
    [
        ((3, 1, 1), {}, r"Runtime.mesh = \(3, 1, 1\)"),
        ((8, 1, 1), {"batch_size": 12}, r"align_lm/Stream.batch_size = 12 does not divide over 8 devices"),
        ((8, 1, 1), {"feed": toy.ToyFeed(length=64)}, "longer than the model's max_length = 32"),
        (
            (8, 1, 1),
            {"objective": WordContrast()},
            "align_lm/Stream: WordContrast reads 'concept', which batches of a Toy",
        ),
        (
            (8, 1, 1),
            {"feed": WithoutTargets()},
            "align_lm/Stream: CausalLM reads 'targets', which batches of a WithoutTargets lack; bind another feed",
        ),
        ((8, 1, 1), {"name": "tokens"}, r"tokens/Stream\.name: metrics\.jsonl has columns tokens/"),
        ((8, 1, 1), {"name": "align_words"}, "'align_words' is used 2 times"),
        ((8, 1, 1), {"name": "pretrain"}, "'pretrain' is used 2 times"),
        ((8, 1, 1), {"name": "align-lm"}, "'align-lm' is no scope of gin"),
        ((8, 1, 1), {"name": "pretrain_lm", "feed": toy.ToyFeed(length=8)}, "two streams are called 'pretrain_lm'"),
    ],
)
def test_what_cannot_run_is_refused_before_training(tmp_path, mesh, change, said):
    recipe = toy.recipe(3)
    words, lm = recipe.stages[0].streams
    first = dataclasses.replace(recipe.stages[0], streams=(words, dataclasses.replace(lm, **change)))
    with pytest.raises(UserError, match=said):
        train.train(dataclasses.replace(recipe, stages=(first, recipe.stages[1])), Runtime(mesh=mesh), tmp_path, "toy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"parametrization": Selection(("model/layers/", "model/layer/"))},
            "Selection.patterns: 'model/layer/' matches no parameter",
        ),
        ({"keep_optimizer": True, "optimizer": AdamW(clip=0.0)}, r"pretrain/Stage\.keep_optimizer: the stage before"),
        (
            {"keep_optimizer": True, "parametrization": Selection(("model/layers/",))},
            r"pretrain/Stage\.keep_optimizer: the moments of align belong to another",
        ),
    ],
)
def test_a_stage_that_cannot_follow_is_refused_before_data_is_prepared(tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(train.stages, "prepare_data", lambda recipe: pytest.fail("data was prepared"))
    align, pretrain = toy.recipe(3).stages
    stages = (align, dataclasses.replace(pretrain, **change))
    with pytest.raises(UserError, match=said):
        train.train(dataclasses.replace(toy.recipe(3), stages=stages), Runtime(mesh=(8, 1, 1)), tmp_path, "toy")


def test_only_what_matches_trains_and_a_stopped_run_goes_on_with_its_moments(tmp_path):
    align, pretrain = toy.recipe(6).stages
    recipe = dataclasses.replace(
        toy.recipe(6), stages=(align, dataclasses.replace(pretrain, parametrization=Selection(("model/layers/",))))
    )
    runtime = Runtime(mesh=(2, 2, 2), checkpoint_every=1, keep_checkpoints=9)
    train.train(recipe, runtime, tmp_path / "whole", "toy")
    before, after = (saved_params(tmp_path / "whole", step)["model"] for step in (align.steps, 6))
    for name, value in before.items():
        if name != "layers":
            jax.tree.map(np.testing.assert_array_equal, value, after[name])
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before["layers"], after["layers"])
    assert all(jax.tree.leaves(changed))
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for step in (5, 6):
        shutil.rmtree(tmp_path / "part" / "checkpoints" / str(step))
    train.train(recipe, runtime, tmp_path / "part", "toy")
    jax.tree.map(np.testing.assert_array_equal, *(saved_params(tmp_path / name, 6) for name in ("whole", "part")))


def test_a_stream_of_two_stages_carries_its_memory(tmp_path, monkeypatch):
    """The queue and the momentum encoder are filled once."""
    filled = []
    monkeypatch.setattr(XlCo, "prefill", lambda self, model, state, batches, rng: filled.append(1) or state)
    (stage,) = toy.infoxlm(2).stages
    recipe = dataclasses.replace(toy.infoxlm(2), stages=(stage, dataclasses.replace(stage, name="more", steps=1)))
    train.train(recipe, Runtime(mesh=(8, 1, 1)), tmp_path, "toy")
    assert len(filled) == 1 and metrics(tmp_path)[-1]["stage"] == "more"


def test_probes_between_run_also_where_a_run_was_stopped(tmp_path, monkeypatch):
    asked = itertools.count(1)
    stop = SimpleNamespace(reached=lambda: next(asked) == 6)
    monkeypatch.setattr(train, "StopNotice", lambda: contextlib.nullcontext(stop))
    runtime = Runtime(mesh=(8, 1, 1), probe_every=2)
    with pytest.raises(train.Interrupted):
        train.train(toy.recipe(12), runtime, tmp_path, "toy")
    (tmp_path / "failure.json").write_text("{}")  # of another try
    train.train(toy.recipe(12), runtime, tmp_path, "toy")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12] and not (tmp_path / "failure.json").exists()


def test_a_stage_ties_the_rows_of_translations_and_another_does_not(tmp_path, monkeypatch):
    recipe = toy.recipe(6)
    align, pretrain = recipe.stages
    tied = dataclasses.replace(pretrain, parametrization=TiedRows())
    run = dataclasses.replace(recipe, stages=(align, tied))
    with pytest.raises(UserError, match=r"TiedRows need Recipe\.lexicon"):
        train.train(run, Runtime(mesh=(8, 1, 1)), tmp_path, "toy")
    kept = dataclasses.replace(tied, keep_optimizer=True)
    with pytest.raises(UserError, match=r"the moments of align belong to another Stage\.parametrization"):
        train.train(dataclasses.replace(recipe, stages=(align, kept)), Runtime(mesh=(8, 1, 1)), tmp_path, "toy")
    shared = TokenTies(*(np.array(ids, np.int32) for ids in ([20, 21, 22], [10, 11, 12], [1, 1, 1])))
    monkeypatch.setattr(tied_rows, "translation_ties", lambda corpus: shared)
    train.train(run, Runtime(mesh=(8, 1, 1), checkpoint_every=1, keep_checkpoints=9), tmp_path, "toy")

    def spread(step, name):
        table = saved_params(tmp_path, step)["model"][name]
        return np.ptp(table[shared.token] - table[shared.source], axis=0).max()

    for name in ("embedding", "head"):  # the first stage has two steps
        assert 0 < spread(3, name) < 0.2 * spread(2, name) and spread(6, name) < 0.5 * spread(2, name)


def test_parameters_of_another_run_are_a_start(tmp_path):
    runtime = Runtime(mesh=(8, 1, 1))
    train.train(toy.recipe(3), runtime, tmp_path / "a", "toy")
    start = dataclasses.replace(toy.recipe(3), init_from=str(tmp_path / "a"), seed=5)
    fresh = enter(toy.built(start, runtime), 0)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(fresh.free["model"]), saved_params(tmp_path / "a", 3)["model"]
    )


def test_a_clone_starts_from_another_run_as_its_original(tmp_path, request):
    runtime = Runtime(mesh=(2, 2, 2))
    train.train(toy.recipe(3), runtime, tmp_path / "a", "toy")
    request.addfinalizer(toy.use_toy_data)
    toy.use_toy_data(toy.ids(clones=1, rows=None))
    start = dataclasses.replace(toy.recipe(3), init_from=str(tmp_path / "a"))
    copied, mean = (
        enter(toy.built(dataclasses.replace(start, new_rows=how), runtime), 0).free["model"] for how in ("copy", "mean")
    )
    old, size = saved_params(tmp_path / "a", 3)["model"], toy.VOCABULARY
    for table in ("embedding", "head"):
        assert copied[table].shape == (2 * size, old[table].shape[1])
        np.testing.assert_array_equal(copied[table][:size], old[table])
        np.testing.assert_array_equal(copied[table][size + 4 :], old[table][4:])
        np.testing.assert_allclose(mean[table][size + 4 :], np.tile(old[table][4:].mean(0), (size - 4, 1)), atol=1e-6)
    np.testing.assert_array_equal(copied["final_norm"]["scale"], old["final_norm"]["scale"])


def test_process_0_decides_whether_probes_have_run(monkeypatch, tmp_path):
    """Another process may see an older results.json. Probes are collective, so all processes must run them or none."""
    said = []
    monkeypatch.setattr(probing.distributed, "is_main", lambda: False)
    monkeypatch.setattr(probing.distributed, "exchange", lambda name, own: said.append(own) or ["yes", own])
    assert probing.probed(SimpleNamespace(stage="pretrain"), STEPS, tmp_path)
    assert said == ["no"]
