"""Contrasts of a decoder's states: AFP's last token after the first block, mid-align's mean at a middle level."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, loss_of
from sentence_cases import KEY, SPECIAL, R, S, T, V, sentence_batch

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.objectives.translation_ranking import TranslationRanking

AFP = TranslationRanking(1, "last", 0.05, 0.0, both_directions=False)
MIDDLE = TranslationRanking(1, "mean", 0.1, 0.0, both_directions=False)


@pytest.fixture(scope="module")
def model():
    return build(Llama(2, 16, 2, 2, 32, max_length=T, init_std=0.2), V, special=SPECIAL)


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(KEY), "heads": {}}


def test_the_losses_are_the_published_formulas(model, params):
    """Each sentence is read alone here, and pooled as the released codes do: at the last token, and over the tokens."""
    batch = sentence_batch()
    rows = {w: np.asarray(batch[w + "tokens"]).reshape(R * S, 4)[:-1] for w in ("", "key_")}  # the last slot is empty

    @jax.jit
    def alone(own, tokens):
        positions = np.tile(np.arange(4, dtype=np.int32), (len(tokens), 1))
        return model.bind(own).hidden(Inputs(tokens, positions, np.ones_like(positions)), levels=(1,))[1]

    states = [np.asarray(alone(params["model"], rows[w])) for w in ("", "key_")]
    # "bos x x eos": AFP's last token is eos, and the mean is over x x.
    pools = {AFP: lambda h: h[:, -1], MIDDLE: lambda h: h[:, 1:3].mean(1)}
    for objective, pool in pools.items():
        x, y = (pool(h) / np.linalg.norm(pool(h), axis=1, keepdims=True) for h in states)
        s = x @ y.T / objective.temperature
        expected = np.sum(np.log(np.exp(s).sum(1)) - np.diag(s))
        np.testing.assert_allclose(loss_of(objective, model, params, {}, batch, KEY)[0], expected, rtol=1e-4)
        assert objective.count(model, batch, KEY) == R * S - 1


def test_a_lone_pair_and_empty_rows_give_zero(model, params):
    batch = sentence_batch(absent=[(row, slot) for row in range(R) for slot in range(S)][1:])
    assert loss_of(AFP, model, params, {}, batch, KEY)[0] == 0, "no candidate but the positive"
    batch = sentence_batch(absent=[(row, slot) for row in range(R) for slot in range(S)])
    assert loss_of(AFP, model, params, {}, batch, KEY)[0] == 0 == AFP.count(model, batch, KEY)


@pytest.mark.slow
def test_the_same_on_eight_devices(model, params):
    both = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([one[name] for one in both]) for name in both[0]}
    assert_same_on_eight_devices(AFP, model, params, batch)


def test_the_first_token_of_a_decoder_and_a_level_that_it_lacks_are_refused(model):
    with pytest.raises(UserError, match="first token has seen no other; use 'mean' or 'last'"):
        TranslationRanking(1).init(KEY, model)
    with pytest.raises(UserError, match=r"TranslationRanking\.level = 16: the model has levels 0 to 2"):
        TranslationRanking(16, "mean").init(KEY, model)
