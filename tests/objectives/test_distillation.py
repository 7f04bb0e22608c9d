"""Teacher to student."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, R, S, sentence_batch, sentence_model, vectors

from xalign_jax.errors import UserError
from xalign_jax.objectives.distillation import Distillation
from xalign_jax.objectives.parts.sentences import side

WHOLE = Distillation(squared=0.7, cosine=0.5, contrast=0.3, temperature=0.1, keep=0.2)


@pytest.fixture(scope="module")
def model():
    return sentence_model(layers=1)


@pytest.fixture(scope="module")
def both(model):
    """The parameters of a student and of a teacher."""
    init = jax.jit(model.init)
    return {"model": init(KEY), "heads": {}}, {"teacher": init(jax.random.key(8))}


def dense(model, params, state, batch, objective):
    """The formula of the paper and its additions in plain numpy, and the mean cosine of the pairs."""

    def of(parameters, which):
        return np.asarray(vectors(model, parameters, side(batch, which), level=1, pooling="mean"), np.float64)[:-1]

    def cosines(a, b):
        return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T

    def distance(a, b):
        squared, cosine = np.mean((a - b) ** 2, axis=1), np.diag(cosines(a, b))
        return np.sum(objective.squared * squared + objective.cosine * (1 - cosine))

    def contrast(a, b):
        s = cosines(a, b) / objective.temperature
        return sum(np.sum(np.log(np.exp(t).sum(1)) - np.diag(t)) for t in (s, s.T)) / 2

    teacher = state["teacher"]
    translation, source, target = of(params["model"], "key_"), of(params["model"], ""), of(teacher, "")
    students = [translation, source] if objective.sources else [translation]
    total = sum(distance(u, target) + objective.contrast * contrast(u, target) for u in students)
    return total + objective.keep * distance(translation, of(teacher, "key_")), np.diag(cosines(translation, target))


@functools.partial(jax.jit, static_argnums=(0, 1))
def graded(objective, model, params, state, batch):
    """((loss, metrics), gradients of the student's and the teacher's parameters)."""

    def loss(p, s):
        return objective.loss(bound(model, p), batch, s, KEY)[:2]

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, state)


def test_it_is_the_formula(model, both):
    params, state = both
    batch = sentence_batch()
    for objective in (WHOLE, dataclasses.replace(WHOLE, contrast=0.0, sources=False)):
        expected, cosines = dense(model, params, state, batch, objective)
        if objective is WHOLE:
            (loss, metrics), (student, teacher) = graded(objective, model, params, state, batch)
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher)), "a gradient reaches the teacher"
            assert any(np.any(leaf) for leaf in jax.tree.leaves(student))
        else:
            loss, metrics, after = loss_of(objective, model, params, state, batch, KEY)
            assert jax.tree.all(jax.tree.map(np.array_equal, after, state)), "the teacher moved"
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["cosine"], cosines.mean(), rtol=1e-4)
    assert WHOLE.count(model, batch, KEY) == R * S - 1


def test_the_default_is_the_paper_s_loss_in_pytorch(model, both):
    torch = pytest.importorskip("torch")
    params, state = both
    batch = sentence_batch()
    # The paper's two terms, each a mean over the batch and the width.
    u, x, v = (
        torch.tensor(np.array(vectors(model, p, side(batch, w), level=1, pooling="mean"))[:-1])
        for p, w in ((params["model"], "key_"), (params["model"], ""), (state["teacher"], ""))
    )
    paper = torch.nn.functional.mse_loss(u, v) + torch.nn.functional.mse_loss(x, v)
    own = loss_of(Distillation(), model, params, state, batch, KEY)[0] / (R * S - 1)
    np.testing.assert_allclose(own, paper.item(), rtol=1e-5)
    # A translation with the words of its source, and the teacher as student: nothing is left to learn.
    same = dict(batch) | {f"key_{name}": batch[name] for name in ("tokens", "text")}
    value, metrics, _ = loss_of(Distillation(), model, params, {"teacher": params["model"]}, same, KEY)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    assert metrics["count_identical"] == R * S - 1


def test_a_batch_without_pairs_or_without_negatives_is_finite(model, both):
    batch = sentence_batch()
    empty = dict(batch) | {"group": jnp.full_like(batch["group"], -1)}
    empty |= {f"{which}segment_ids": jnp.zeros_like(batch["segment_ids"]) for which in ("", "key_")}
    masked = dict(batch) | {"group": jnp.where(batch["group"] < 0, -1, 7)}  # every other pair is a translation
    for one, expected in ((empty, 0), (masked, R * S - 1)):
        (value, metrics), grads = graded(WHOLE, model, *both, one)
        assert WHOLE.count(model, one, KEY) == expected
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, metrics, grads)))
        assert (value == 0) == (expected == 0)


def test_rows_in_parts_and_on_eight_devices_give_the_same_gradient(model, both):
    """`Runtime.accumulate` and a mesh: the contrast sees all rows in both."""
    batch = sentence_batch()
    whole, parts = (graded(WHOLE, one, *both, batch)[1][0] for one in (model, sentence_model(layers=1, chunks=2)))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(whole)))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * norm

    class Given(Distillation):
        """With the teacher inside, because the shared comparison passes no state."""

        def loss(self, model, batch, state, rng):
            return super().loss(model, batch, both[1], rng)

    rows = {name: np.concatenate([array, array]) for name, array in jax.tree.map(np.asarray, batch).items()}
    rows["group"] = np.where(rows["group"] < 0, -1, np.arange(rows["group"].size).reshape(rows["group"].shape))
    assert_same_on_eight_devices(Given(contrast=0.3, sources=False), model, both[0], rows)


def test_bad_settings_are_refused(model):
    with pytest.raises(UserError, match=r"Distillation\.level = 2: the model has levels 0 to 1"):
        Distillation(level=2).init(KEY, model)
    with pytest.raises(UserError, match="nothing is learned"):
        Distillation(squared=0.0)
    batch = dict(sentence_batch())
    language = np.zeros((R, batch["tokens"].shape[1]), np.int32)
    batch |= {"token_language": language, "key_token_language": language + 1}
    params = jax.jit(model.init)(KEY)
    state = Distillation().prefill(model.bind(params), {}, [batch], KEY)
    assert jax.tree.all(jax.tree.map(np.array_equal, state["teacher"], params))
    batch["key_token_language"][0, 0] = 0
    with pytest.raises(UserError, match=r"ContrastFeed\.reverse = 0\.0"):
        Distillation().prefill(model.bind(params), {}, [batch], KEY)
