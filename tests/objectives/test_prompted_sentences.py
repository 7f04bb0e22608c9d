"""Contrast of mask tokens, after CoLAP: the vector of a sentence is the state at the one mask token of its prompt."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, loss_of
from sentence_cases import KEY, SPECIAL, R, S, V, assert_same_in_parts, sentence_batch, unit

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import build
from xalign_jax.objectives.distillation import Distillation
from xalign_jax.objectives.translation_ranking import TranslationRanking
from xalign_jax.objectives.transport_divergence import TransportDivergence
from xalign_jax.objectives.xlco import XlCo

COLAP = TranslationRanking(1, "mask", 0.05, 0.0, both_directions=False)
MASK = 4


def prompted_batch(seed=0):
    """Sentences "bos x x eos" of which one x is the mask: the first of queries, the second of keys."""
    batch = {name: np.array(array) for name, array in sentence_batch(seed).items()}
    batch["tokens"][:, 1::4], batch["key_tokens"][:, 2::4] = MASK, MASK
    return batch


@functools.partial(jax.jit, static_argnums=0)
def states_of(model, params, inputs):
    return model.bind(params["model"]).hidden(inputs, levels=(1,))[1]


def test_the_loss_contrasts_the_states_of_mask_tokens(model, params):
    """The usual contrast. CoLAP's code puts the sum of all positives of a batch in place of each one."""
    batch = prompted_batch()
    sides = []
    for which, place in (("", 1), ("key_", 2)):
        states = np.asarray(states_of(model, params, Inputs.of(batch, which)), np.float64)
        sides.append(unit(states[:, place::4].reshape(R * S, -1)[:-1]))  # the last slot is empty
    scores = sides[0] @ sides[1].T / 0.05
    expected = np.sum(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    loss, metrics, _ = loss_of(COLAP, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["positive_cosine"], np.diag(scores).mean() * 0.05, rtol=1e-4)
    first = loss_of(dataclasses.replace(COLAP, pooling="first"), model, params, {}, batch, KEY)[0]
    assert abs(first - loss) > 1e-2 and COLAP.count(model, batch, KEY) == R * S - 1


POOLED = {
    "ranking": COLAP,
    "xlco": XlCo(1, "mask", queue=0, negatives="batch", momentum=None, corruption=None),
    "distillation": Distillation(level=1, pooling="mask"),
    "transport": TransportDivergence(1, pooling="mask"),
}


@pytest.mark.parametrize("objective", POOLED.values(), ids=list(POOLED))
def test_sentences_without_one_mask_token_are_refused_before_training(model, objective):
    batch = prompted_batch()
    objective.check_data(model, lambda: batch)
    none, two = ({name: array.copy() for name, array in batch.items()} for _ in range(2))
    none["key_tokens"][2, 6] = 7
    with pytest.raises(
        UserError, match=r"pooling = 'mask': a sentence has 0 mask tokens, .* in ContrastFeed.prefix or"
    ):
        objective.check_data(model, lambda: none)
    two["tokens"][1, 2] = MASK
    with pytest.raises(UserError, match=rf"{type(objective).__name__}.pooling = 'mask': a sentence has 2 mask tokens"):
        objective.check_data(model, lambda: two)
    # Other poolings read no rows.
    dataclasses.replace(objective, pooling="mean").check_data(model, lambda: pytest.fail("rows were read"))


@pytest.mark.parametrize("objective", POOLED.values(), ids=list(POOLED))
def test_a_vocabulary_without_a_mask_token_is_refused(model, objective):
    bare = build(model.config, V, special=SPECIAL)
    with pytest.raises(
        UserError, match=r"pooling = 'mask': the vocabulary has no mask token; one of first, mean, last"
    ):
        objective.init(KEY, bare)
    # Other poolings need none.
    plain, params = dataclasses.replace(COLAP, pooling="mean"), {"model": jax.jit(bare.init)(KEY)}
    assert np.isfinite(loss_of(plain, bare, params, {}, prompted_batch(), KEY)[0])


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    both = [prompted_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([one[name] for one in both]) for name in both[0]}
    assert_same_on_eight_devices(COLAP, model, params, batch)


@pytest.mark.slow
def test_gradients_are_equal_when_rows_go_in_parts(model, params):
    assert_same_in_parts(COLAP, model, params, jax.tree.map(jnp.asarray, prompted_batch()))
