"""The transport divergence: POT's plans, no distance between equal clouds, nothing from empty ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, loss_of
from sentence_cases import KEY, SPECIAL, R, S, sentence_batch

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.parts.sentences import sentence_vectors, side
from xalign_jax.objectives.transport_divergence import TransportDivergence


@pytest.fixture(scope="module")
def states(model, params):
    """The states (R,T,D) of level 1 of both sides, in float64."""

    @jax.jit
    def run(batch):
        own = model.bind(params["model"])
        return [own.hidden(Inputs.of(batch, view), levels=(1,))[1] for view in ("", "key_")]

    return lambda batch: [np.asarray(found, np.float64) for found in run(batch)]


def divergence(transport, x, y, eps):
    """The formula with the plans of POT."""

    def cost(one, other):
        one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one, other))
        c, a, b = 1 - one @ other.T, np.full(len(one), 1 / len(one)), np.full(len(other), 1 / len(other))
        plan = transport.sinkhorn(a, b, c, eps, method="sinkhorn_log", numItermax=20000, stopThr=1e-12)
        return np.sum(plan * c) + eps * np.sum(plan * np.log(plan / np.outer(a, b)))

    return cost(x, y) - (cost(x, x) + cost(y, y)) / 2


def test_sentences_as_pot_computes_it(transport, model, params):
    batch, objective = sentence_batch(), TransportDivergence(level=1, regularisation=0.2, iterations=300)

    @jax.jit
    def vectors(own):
        return [sentence_vectors(model.bind(own), side(batch, which), S, 1, "mean") for which in ("", "key_")]

    x, y = (np.asarray(found, np.float64)[:-1] for found in vectors(params["model"]))  # the last slot is empty
    total, metrics, state = loss_of(objective, model, params, {}, batch, KEY)
    assert objective.count(model, batch, KEY) == R * S - 1 and metrics == state == {}
    np.testing.assert_allclose(total, (R * S - 1) * divergence(transport, x, y, 0.2), rtol=1e-4)
    # Which sentence translates which is not read.
    order = np.random.default_rng(0).permutation(R)
    shuffled = batch | {name: batch[name][order] for name in batch if name.startswith("key_")}
    whole = sentence_batch(absent=())
    mixed = whole | {name: whole[name][order] for name in shuffled if name.startswith("key_")}
    one, other = (loss_of(objective, model, params, {}, found, KEY)[0] for found in (whole, mixed))
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_tokens_as_pot_computes_it(transport, model, params, states):
    objective = TransportDivergence(level=1, unit="token", regularisation=0.2, iterations=300)
    batch = {name: np.array(array) for name, array in sentence_batch().items()}
    batch["tokens"][0, 2] = 3  # one of two tokens is special
    batch["key_tokens"][1, 5:7] = 3  # no token is left on this side: the pair counts and adds nothing
    x, y = states(batch)
    expected = 0.0
    for row in range(R):
        for slot in range(1, S + 1):
            own = [
                h[row][(batch[w + "segment_ids"][row] == slot) & ~SPECIAL[batch[w + "tokens"][row]]]
                for h, w in ((x, ""), (y, "key_"))
            ]
            expected += divergence(transport, *own, 0.2) if all(map(len, own)) else 0.0
    total, _, _ = loss_of(objective, model, params, {}, batch, KEY)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    assert objective.count(model, batch, KEY) == R * S - 1 and objective.flops(model, batch) > 0


@pytest.mark.parametrize("unit", ["sentence", pytest.param("token", marks=pytest.mark.slow)])
def test_equal_sides_and_empty_batches_give_zero_and_no_gradient(model, params, unit):
    batch, objective = sentence_batch(), TransportDivergence(unit=unit, iterations=30)
    equal = batch | {"key_" + name: batch[name] for name in ("tokens", "positions", "segment_ids", "text")}
    empty = equal | {"group": jnp.full_like(batch["group"], -1)}
    empty |= {name: 0 * batch[name] for name in ("segment_ids", "key_segment_ids")}
    loss = jax.jit(jax.value_and_grad(lambda p, b: objective.loss(model.bind(p["model"]), b, {}, KEY)[0]))
    for found in (equal, empty):
        value, gradient = loss(params, found)
        assert abs(value) < 1e-4
        assert all(np.abs(leaf).max() < 1e-4 for leaf in jax.tree.leaves(gradient))
    assert objective.count(model, empty, KEY) == 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["sentence", "token"])
def test_the_same_on_eight_devices(model, params, unit):
    # Eight rows: the four twice, with other texts.
    both = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([one[name] for one in both]) for name in both[0]}
    assert_same_on_eight_devices(TransportDivergence(level=1, unit=unit, iterations=20), model, params, batch)


def test_what_the_model_lacks_is_refused(model):
    with pytest.raises(UserError, match=r"TransportDivergence\.level = 3: the model has levels 0 to 2"):
        TransportDivergence(level=3).init(KEY, model)
    with pytest.raises(UserError, match=r"TransportDivergence\.unit = 'word': must be one of sentence, token"):
        TransportDivergence(unit="word")
