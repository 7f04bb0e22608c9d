"""Marked words: the head's loss is its formula, gold links become labels, and `xalign align` reads the trained head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marked_cases import marked_batch, with_head
from objective_cases import bound, loss_of
from sentence_cases import KEY

from xalign_jax.alignment.marking import HEAD
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.marked_words import MarkedWords


@pytest.mark.parametrize("level", [1, None])
def test_the_loss_is_binary_cross_entropy_of_the_judged_tokens(model, params, level):
    objective, batch = MarkedWords(level), marked_batch()
    params = with_head(objective, model, params)
    read = jax.jit(lambda p: bound(model, p).hidden(Inputs.of(batch), levels=(level or 2,))[level or 2])
    head, linked = params["heads"][HEAD], batch["linked"]
    p = 1 / (
        1 + np.exp(-(np.asarray(read(params), np.float64) @ np.asarray(head["weight"], np.float64) + head["bias"]))
    )
    expected = -np.log(np.where(linked == 1, p, 1 - p))[linked >= 0].sum()
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert objective.count(model, batch, KEY) == (linked >= 0).sum() > 20
    np.testing.assert_allclose(metrics["linked"], (linked == 1).sum() / (linked >= 0).sum(), rtol=1e-6)


def test_precision_and_recall_count_tokens_above_a_half(model, params):
    objective, batch = MarkedWords(1), marked_batch()
    everything = {HEAD: {"weight": jnp.zeros(model.width), "bias": jnp.asarray(1.0)}}
    found = loss_of(objective, model, params | {"heads": everything}, {}, batch, KEY)[1]
    assert found["recall"] == 1 and found["precision"] == found["linked"]
    nothing = {HEAD: {"weight": jnp.zeros(model.width), "bias": jnp.asarray(-1.0)}}
    found = loss_of(objective, model, params | {"heads": nothing}, {}, batch, KEY)[1]
    assert found["recall"] == found["precision"] == 0


def test_a_batch_without_a_judged_token_has_no_loss(model, params):
    objective, batch = MarkedWords(1), marked_batch()
    batch["linked"] = np.full_like(batch["linked"], -1)
    loss, metrics, _ = loss_of(objective, model, with_head(objective, model, params), {}, batch, KEY)
    assert loss == objective.count(model, batch, KEY) == 0 and metrics["precision"] == 0
