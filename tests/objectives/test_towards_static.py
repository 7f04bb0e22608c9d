"""Words towards static vectors: the formula in NumPy, its gradient in parts and on eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, R, S, T, sentence_batch, sentence_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.towards_static import TowardsStatic

OBJECTIVE = TowardsStatic(level=1, squared=0.7, cosine=0.4)
CORRELATED = TowardsStatic(level=1, squared=0.0, correlation=0.3, directions=3)


def words(seed=0):
    """Rows of three words "bos x x eos"; in one row, a word has a token less and padding follows it. One is absent."""
    batch = {name: sentence_batch(seed)[name] for name in ("tokens", "positions", "segment_ids")}
    batch["segment_ids"] = jnp.asarray(batch["segment_ids"]).at[0, 3].set(0)
    vectors = np.random.default_rng(seed + 5).standard_normal((R, S, 16)).astype(np.float32)
    return batch | {"vector": jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))}


def both_sides(model, params, batch):
    """The mean states of words (N,D) at level 1, and their static vectors (N,D), in float64."""
    hidden = jax.jit(lambda p, inputs: bound(model, p).hidden(inputs, levels=(1,))[1])
    states, segments = np.asarray(hidden(params, Inputs.of(batch)), np.float64), np.asarray(batch["segment_ids"])
    own = [(row, slot, segments[row] == slot + 1) for row in range(len(segments)) for slot in range(S)]
    there = [(row, slot, tokens) for row, slot, tokens in own if tokens.any()]
    vectors = np.asarray(batch["vector"], np.float64)
    means = [states[row, tokens].mean(0) for row, _, tokens in there]
    return np.array(means), np.array([vectors[row, slot] for row, slot, _ in there])


def test_it_is_the_formula(model, params):
    batch = words()
    total, cosines, lengths = 0.0, [], []
    for u, v in zip(*both_sides(model, params, batch), strict=True):
        cosines.append(u @ v / np.linalg.norm(u))
        lengths.append(np.linalg.norm(u))
        total += 0.7 * np.mean((u - v) ** 2) + 0.4 * (1 - cosines[-1])
    loss, metrics, _ = loss_of(OBJECTIVE, model, params, {}, batch, KEY)
    assert OBJECTIVE.count(model, batch, KEY) == len(cosines) == R * S - 1
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    np.testing.assert_allclose([metrics["cosine"], metrics["length"]], [np.mean(cosines), np.mean(lengths)], rtol=1e-4)


def test_the_default_is_the_authors_loss_in_pytorch(model, params):
    torch = pytest.importorskip("torch")
    batch = words()
    states = jax.jit(lambda p, inputs: bound(model, p).hidden(inputs, levels=(2,))[2])(params, Inputs.of(batch))
    own = np.asarray(batch["segment_ids"])[:, None] == np.arange(1, S + 1)[:, None]  # (R,S,T)
    present = own.any(-1)
    # One word in a row of its own, as in their batches: hidden states, and the mask of its tokens.
    data = torch.tensor(np.repeat(np.asarray(states)[:, None], S, axis=1)[present])
    mask = torch.tensor(own[present].astype(np.float32))
    pooled = (data * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    theirs = torch.nn.functional.mse_loss(pooled, torch.tensor(np.asarray(batch["vector"])[present]))
    value = loss_of(TowardsStatic(), model, params, {}, batch, KEY)[0]
    np.testing.assert_allclose(value / (R * S - 1), theirs.item(), rtol=1e-5)


def test_correlations_are_those_of_principal_directions(model, params):
    batch = words()
    sides = both_sides(model, params, batch)
    first = [np.linalg.svd(side - side.mean(0), full_matrices=False)[0][:, :3] for side in sides]
    correlations = np.linalg.svd(first[0].T @ first[1], compute_uv=False)
    loss, metrics, _ = loss_of(CORRELATED, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, -0.3 * len(sides[0]) * correlations.sum(), rtol=1e-3)
    np.testing.assert_allclose(metrics["correlation"], correlations.mean(), rtol=1e-3)
    # The released code takes singular values of both sides' directions next to each other, the largest half of them.
    theirs = np.linalg.svd(np.concatenate(first, axis=1), compute_uv=False)[:3].sum()
    np.testing.assert_allclose(theirs, np.sqrt(1 + correlations).sum(), rtol=1e-6)


@pytest.mark.parametrize("objective", [OBJECTIVE, CORRELATED], ids=["distances", "correlations"])
def test_rows_in_parts_and_an_empty_batch(model, params, objective):
    batch = words()

    def gradient(model, batch):
        return jax.jit(jax.value_and_grad(lambda p: objective.loss(bound(model, p), batch, {}, KEY)[0]))(params)

    (_, whole), (_, parts) = gradient(model, batch), gradient(sentence_model(chunks=2), batch)
    size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(whole)))
    assert size > 0
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * size
    value, grads = gradient(model, batch | {"segment_ids": jnp.zeros((R, T), jnp.int32), "vector": batch["vector"] * 0})
    assert value == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("objective", [OBJECTIVE, CORRELATED], ids=["distances", "correlations"])
def test_gradients_are_equal_on_eight_devices(model, params, objective):
    rows = [words(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(objective, model, params, batch)


def test_bad_settings_are_refused(model):
    with pytest.raises(UserError, match=r"TowardsStatic\.level = 3: the model has levels 0 to 2"):
        TowardsStatic(level=3).init(KEY, model)
    with pytest.raises(UserError, match="nothing is learned"):
        TowardsStatic(squared=0.0)
    with pytest.raises(UserError, match=r"vectors of width 15, and the model has width 16"):
        OBJECTIVE.check(model, {"vector": np.zeros((2, 3, 15))})
    with pytest.raises(UserError, match="directions = 20: the vectors have width 16"):
        TowardsStatic(correlation=1.0, directions=20).check(model, {"vector": np.zeros((20, 3, 16))})
    with pytest.raises(UserError, match=r"directions = 10: a batch has at most 20 words, and needs more than 20"):
        TowardsStatic(correlation=1.0).check(model, {"vector": np.zeros((4, 5, 16))})
    TowardsStatic(correlation=1.0).check(model, {"vector": np.zeros((7, 3, 16))})
