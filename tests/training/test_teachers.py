"""A teacher in a directory of its own: checked before training, and read before the first step."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from training import toy
from training.runs import saved_params, whole

from xalign_jax.errors import UserError
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.distillation import Distillation
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream, as_json
from xalign_jax.training import checks, inputs, teachers, train
from xalign_jax.training.optimizers import AdamW, WarmupCosine

SHAPE = XLMRoberta(layers=1, width=16, heads=2, mlp_width=32, max_length=32)


class Apart(toy.ToySentenceRows):
    """Queries are in one language and keys in the other."""

    def batch(self, first_row, row_slice):
        found = super().batch(first_row, row_slice)
        return found | {
            f"{side}token_language": np.full_like(found[f"{side}segment_ids"], number)
            for number, side in enumerate(("", "key_"))
        }


class ApartFeed(toy.ToySentences):
    def build(self, corpus, mixture, rows, seed):
        return Apart(self.length, rows, seed)


def recipe(objective, feed=None) -> Recipe:
    stage = Stage(
        "distil", 2, (Stream("pairs", feed or toy.ToySentences(), objective, 8),), AdamW(), WarmupCosine(1e-2)
    )
    return Recipe(SHAPE, toy.ids().vocabulary, (stage,))


def directory(folder, model):
    """A model directory as far as checks read it."""
    folder.mkdir()
    (folder / "environment.json").write_text(json.dumps({"recipe": {"model": as_json(model)}}))
    toy.ids().save(folder / "vocabulary")
    return str(folder)


def test_a_teacher_of_another_shape_or_vocabulary_is_refused_before_training(tmp_path):
    wide = directory(tmp_path / "wide", dataclasses.replace(SHAPE, width=32))
    same = directory(tmp_path / "same", SHAPE)
    with pytest.raises(
        UserError, match=r"Distillation\.teacher = '.*wide': a model with width = 32, and this one has 16"
    ):
        checks.check(recipe(Distillation(teacher=wide)))
    with pytest.raises(UserError, match=r"Distillation\.teacher = '.*nowhere': no model directory"):
        checks.check(recipe(Distillation(teacher=str(tmp_path / "nowhere"))))
    # A directory that is older than a field of the model: the field has its default.
    (tmp_path / "same" / "environment.json").write_text(
        json.dumps({"recipe": {"model": {k: v for k, v in as_json(SHAPE).items() if k != "types"}}})
    )
    good = recipe(Distillation(teacher=same))
    checks.check(good)
    teachers.check_vocabulary(good.stages[0].streams[0], toy.ids())
    with pytest.raises(UserError, match=r"Distillation\.teacher = '.*same': its vocabulary is another one"):
        teachers.check_vocabulary(good.stages[0].streams[0], toy.ids(clones=1, rows=None))


@pytest.mark.slow  # two runs
def test_a_run_learns_from_another_run(tmp_path, monkeypatch):
    for name in ("prepare_data", "load_data", "blank_data"):
        monkeypatch.setattr(train.stages, name, getattr(train.stages, name))
    toy.use_toy_data()
    runtime = Runtime(mesh=(8, 1, 1))
    with pytest.raises(UserError, match="both sides of the feed's pairs hold texts of one language"):
        train.train(recipe(Distillation()), runtime, tmp_path / "refused", "toy")
    train.train(recipe(Distillation(contrast=0.1), ApartFeed()), runtime, tmp_path / "teacher", "toy")
    taught = recipe(Distillation(teacher=str(tmp_path / "teacher")), ApartFeed())
    train.train(taught, runtime, tmp_path / "student", "toy")
    assert any("Distillation.teacher, step 2" in name for name in inputs.of_start(taught))
    # The state of the second run holds the last parameters of the first.
    manager = ocp.CheckpointManager((tmp_path / "student" / "checkpoints").absolute())
    kept = manager.restore(2, args=ocp.args.Composite(rest=whole()))["rest"]["state"]["pairs"]["teacher"]
    teacher = saved_params(tmp_path / "teacher", 2)["model"]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, kept), teacher)
    student = saved_params(tmp_path / "student", 2)["model"]
    assert not all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (student, teacher)), strict=True))
