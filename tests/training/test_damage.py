"""Damaged model directories: a run continues from the newest whole checkpoint, or one line names the file."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from training import damage, toy
from training.runs import finish, pair, saved_params

from xalign_jax.errors import UserError
from xalign_jax.records.files import read_environment, read_metrics, read_results
from xalign_jax.runtime.checkpoints import DAMAGED
from xalign_jax.runtime.logs import keep_rows
from xalign_jax.training import evaluate, run_directory, train

NEWEST = f"checkpoints/{damage.STEPS}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run with checkpoints of steps 4 and 6."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.stages, "prepare_data", None)
        patch.setattr(train.stages, "load_data", None)
        toy.use_toy_data()
        model_dir = tmp_path_factory.mktemp("damage") / "undisturbed"
        damage.train(model_dir)
        yield model_dir


@pytest.fixture
def model_dir(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "run")


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.slow
def test_every_file_in_every_way(undisturbed):
    assert [row for row in damage.table(undisturbed) if not row[-1]] == []


@pytest.mark.parametrize("item", ["params", "rest"])
@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_arrays_are_never_trained_on_once_a_byte_of_them_has_changed(model_dir, undisturbed, capsys, item, kind):
    damage.damage(largest(model_dir / NEWEST / item), kind)
    damage.train(model_dir)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xalign: ")]
    assert len(said) == 1 and f"{NEWEST} is damaged: {item}" in said[0] and "step 4 is used in its place" in said[0]
    assert (model_dir / "checkpoints" / DAMAGED / str(damage.STEPS)).is_dir()
    jax.tree.map(np.testing.assert_array_equal, *(saved_params(d, damage.STEPS) for d in (model_dir, undisturbed)))
    assert json.loads((model_dir / "results.json").read_text()) == json.loads(
        (undisturbed / "results.json").read_text()
    )


@pytest.mark.parametrize(
    "hurt",
    [
        lambda step: (step / "about" / "metadata").write_text(""),
        lambda step: shutil.rmtree(step / "rest"),
        lambda step: (step.parent / "8").mkdir(),  # beyond the run's end
        lambda step: step.rename(step.parent / "8"),
    ],
)
def test_a_step_of_which_a_part_is_missing_is_passed_over(model_dir, undisturbed, capsys, hurt):
    hurt(model_dir / NEWEST)
    damage.train(model_dir)
    assert "is damaged: " in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, *(saved_params(d, damage.STEPS) for d in (model_dir, undisturbed)))


def test_evaluation_uses_the_step_before_and_refuses_a_damaged_one_asked_for(model_dir, capsys):
    damage.damage(largest(model_dir / NEWEST / "params"), "flipped")
    before = sorted(model_dir.rglob("*"))
    damage.evaluate_newest(model_dir)
    assert f"{NEWEST} is damaged: params" in capsys.readouterr().err
    assert read_results(model_dir)[-1]["step"] == 4
    assert sorted(model_dir.rglob("*")) == before  # a run may be writing there
    recipe = damage.recipe()
    with pytest.raises(UserError, match=rf"{NEWEST} is damaged: params"):
        evaluate.evaluate(recipe, damage.RUNTIME, model_dir, recipe.stages[0].probes, damage.STEPS)


def test_without_a_whole_step_every_command_refuses_and_removes_nothing(model_dir):
    for step in (4, 6):
        damage.damage(largest(model_dir / "checkpoints" / str(step) / "params"), "cut")
    before = {path for path in model_dir.rglob("*") if "checkpoints" in path.parts}
    for command in (damage.train, damage.evaluate_newest):
        with pytest.raises(UserError, match=r"/6 is damaged: .*/4 is damaged: .*no whole step is left") as refused:
            command(model_dir)
        assert "\n" not in str(refused.value)
    assert {path for path in model_dir.rglob("*") if "checkpoints" in path.parts} == before


def test_what_a_killed_save_left_is_cleaned_up_by_the_next_run(model_dir):
    left = model_dir / "checkpoints" / "8.orbax-checkpoint-tmp"
    shutil.copytree(model_dir / NEWEST, left)
    damage.train(model_dir)
    assert not left.exists()


def test_metadata_of_orbax_that_cannot_be_read_is_named(model_dir):
    (model_dir / NEWEST / "_CHECKPOINT_METADATA").write_text('{"performance_metrics": "x"}')
    for command in (damage.train, damage.evaluate_newest):
        with pytest.raises(UserError, match=r"cannot be listed .*_CHECKPOINT_METADATA is damaged, remove it"):
            command(model_dir)


def test_a_model_of_another_shape_is_not_called_damaged(model_dir):
    recipe = damage.recipe()
    wider = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, mlp_width=96))
    with pytest.raises(
        UserError, match=r"does not match the recipe's model .*down is \[2, 64, 32\] there, \[2, 96, 32\] here"
    ):
        evaluate.evaluate(wider, damage.RUNTIME, model_dir, (), None)


@pytest.mark.slow
def test_two_processes_leave_out_a_step_that_one_of_them_cannot_read(tmp_path, undisturbed):
    model_dir = tmp_path / "run"
    finish(*pair(model_dir, steps=12))
    expected = saved_params(model_dir, 12)
    damage.damage(largest(model_dir / "checkpoints" / "12" / "params"), "zeroed")
    both = pair(model_dir, steps=12)
    errors = [process.communicate(timeout=280)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert ["12 is damaged: params" in said for said in errors] == [True, False]
    jax.tree.map(np.testing.assert_array_equal, saved_params(model_dir, 12), expected)


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("environment.json", "", r"environment\.json:1: not JSON"),
        ("environment.json", "[]", r"environment\.json is not what a run wrote"),
        ("results.json", '[\n{"stage": "pre', r"results\.json:2: not JSON"),
        ("results.json", '[{"stage": "pretrain", "step": "6"}]', r"results\.json is not what .*\[0\]\.step is '6'"),
    ],
)
def test_records_that_are_damaged_are_named_before_any_work(model_dir, monkeypatch, name, contents, said):
    (model_dir / name).write_text(contents)
    monkeypatch.setattr(train, "_train_stage", None)
    for command in (damage.train, damage.evaluate_newest, damage.compare):
        with pytest.raises(UserError, match=said):
            command(model_dir)


def test_a_config_that_is_not_the_checkpoints_recipe_is_refused(model_dir):
    config = model_dir / "config.gin"
    text = config.read_text()
    config.write_text(text.replace("width = 32", "width = 64"))
    with pytest.raises(UserError, match=r"config\.gin is not the recipe of the checkpoints there: .*width is 32 there"):
        damage.evaluate_newest(model_dir)
    longer = damage.recipe()
    longer = dataclasses.replace(longer, stages=(dataclasses.replace(longer.stages[0], steps=9),))
    run_directory.check_config(model_dir, longer)  # begun with --extend, and not yet saved


def test_damaged_rows_of_metrics_are_named(model_dir, capsys):
    path = model_dir / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], '{"step": ', *lines[3:], '{"step"']))
    with pytest.raises(UserError, match=r"metrics\.jsonl:4: not a row"):
        read_metrics(model_dir)
    keep_rows(path, lambda row: row["step"] <= 5)
    assert "metrics.jsonl:4: 1 damaged" in capsys.readouterr().err
    assert path.read_text().splitlines() == lines[:5]
    assert [row["step"] for row in read_metrics(model_dir)] == [1, 2, 3, 4, 5]


def test_records_of_a_whole_run_are_read_as_they_were_written(model_dir):
    assert read_environment(model_dir)["recipe"]["stages"][0]["steps"] == damage.STEPS
    assert [row["step"] for row in read_results(model_dir)] == [damage.STEPS]
