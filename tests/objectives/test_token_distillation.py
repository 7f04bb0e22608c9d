"""Token-level distillation: the formula on links between a teacher's states and a student's."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, SPECIAL, R, S, sentence_batch, sentence_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.token_distillation import TokenDistillation

OBJECTIVE = TokenDistillation(level=1, squared=0.7, cosine=0.4, sources=0.3)


@pytest.fixture(scope="module")
def teacher(model):
    return {"teacher": jax.jit(model.init)(jax.random.key(8))}


def tokens_of(model, params, batch, which):
    """The states (n,D) of the ordinary tokens of each pair that is there."""
    hidden = jax.jit(lambda p, inputs: model.bind(p).hidden(inputs, levels=(1,))[1])
    states = np.asarray(hidden(params, Inputs.of(batch, which)), np.float64)
    tokens, segments = (np.asarray(batch[which + name]) for name in ("tokens", "segment_ids"))
    return [
        states[r, (segments[r] == s + 1) & ~SPECIAL[tokens[r]]]
        for r in range(R)
        for s in range(S)
        if batch["group"][r, s, 0] >= 0
    ]


def distance(u, v):
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    return 0.7 * np.mean((u - v) ** 2, axis=1) + 0.4 * (1 - cosine)


def dense(model, params, teacher, batch):
    """(loss of linked tokens, loss of the teacher's own sentences, links)."""
    target = tokens_of(model, teacher["teacher"], batch, "")
    student = tokens_of(model, params["model"], batch, "key_")
    own = tokens_of(model, params["model"], batch, "")
    found = []
    for a, b in zip(target, student, strict=True):
        cosine = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
        found += [(a[i], b[j]) for i, j in enumerate(cosine.argmax(1)) if cosine[:, j].argmax() == i]
    a, b = (np.stack(side) for side in zip(*found, strict=True))
    return distance(b, a).mean(), distance(np.concatenate(own), np.concatenate(target)).mean(), len(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def graded(objective, model, params, state, batch):
    def loss(p, s):
        return objective.loss(bound(model, p), batch, s, KEY)[0]

    return jax.grad(loss, (0, 1))(params, state)


def test_it_is_the_formula(model, params, teacher):
    batch = sentence_batch()
    linked, own, links = dense(model, params, teacher, batch)
    loss, metrics, after = loss_of(OBJECTIVE, model, params, teacher, batch, KEY)
    assert OBJECTIVE.count(model, batch, KEY) == R * S - 1
    assert metrics["count_links"] == links > 8 and metrics["linked"] == links / (2 * (R * S - 1))
    np.testing.assert_allclose(loss, (linked + 0.3 * own) * (R * S - 1), rtol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, after, teacher)), "the teacher moved"
    alone = loss_of(dataclasses.replace(OBJECTIVE, sources=0.0), model, params, teacher, batch, KEY)[0]
    np.testing.assert_allclose(alone, linked * (R * S - 1), rtol=1e-5)


def test_the_student_alone_gets_a_gradient_and_nothing_is_left_at_the_teacher(model, params, teacher):
    batch = sentence_batch()
    student, kept = graded(OBJECTIVE, model, params, teacher, batch)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(kept))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(student))
    # A translation with the tokens of its source, and the teacher as student.
    same = dict(batch) | {"key_tokens": batch["tokens"]}
    value = loss_of(OBJECTIVE, model, {"model": teacher["teacher"], "heads": {}}, teacher, same, KEY)[0]
    np.testing.assert_allclose(value, 0, atol=1e-4)


def test_rows_in_parts_and_an_empty_batch(model, params, teacher):
    batch = sentence_batch()
    whole, parts = (graded(OBJECTIVE, one, params, teacher, batch)[0] for one in (model, sentence_model(chunks=2)))
    size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(whole)))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * size
    batch = dict(batch) | {"text": batch["key_text"]}
    value, metrics, _ = loss_of(OBJECTIVE, model, params, teacher, batch, KEY)
    assert (value, metrics["count_links"], metrics["count_identical"]) == (0, 0, R * S - 1)


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params, teacher):
    class Given(TokenDistillation):
        """With the teacher inside, because the shared comparison passes no state."""

        def loss(self, model, batch, state, rng):
            return super().loss(model, batch, teacher, rng)

    rows = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(Given(level=2, cosine=1.0, sources=0.5), model, params, batch)


def test_bad_settings_are_refused(model):
    with pytest.raises(UserError, match=r"TokenDistillation\.level = 3: the model has levels 0 to 2"):
        TokenDistillation(level=3).init(KEY, model)
    with pytest.raises(UserError, match="nothing is learned"):
        TokenDistillation(squared=0.0)
    with pytest.raises(UserError, match=r"TokenDistillation\.guide = 'itermax'"):
        TokenDistillation(guide="itermax")
    with pytest.raises(UserError, match=r"@TokenDistillation\(\): it links the words"):
        OBJECTIVE.check(model, {"group": jnp.zeros((2, 3, 1))})
    batch = dict(sentence_batch())
    batch |= {f"{which}token_language": np.zeros((R, batch["tokens"].shape[1]), np.int32) for which in ("", "key_")}
    with pytest.raises(UserError, match=r"TokenDistillation: both sides of the feed's pairs"):
        OBJECTIVE.prefill(model, {}, [batch], KEY)
