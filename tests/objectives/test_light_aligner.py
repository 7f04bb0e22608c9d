"""The light aligner: agreement and contrast are their formulas, one pair of sentences at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, SPECIAL, R, S, sentence_batch, sentence_model

from xalign_jax.alignment.partners import HEAD, partner_scores
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.light_aligner import LightAligner

OBJECTIVE = LightAligner(level=1, size=8, agreement=2.0, contrast=0.5, temperature=0.1, sentence_temperature=0.2)


@functools.partial(jax.jit, static_argnames=("model", "which"))
def states_of(model, params, batch, which):
    return bound(model, params).hidden(Inputs.of(batch, which), levels=(1,))[1]


def with_head(objective, model, params):
    return params | {"heads": objective.init(KEY, model)[0]}


def sentences(model, params, batch):
    """{item: (x, y)}: unit vectors (m,d) and (n,d) of the ordinary tokens of each pair, in float64."""
    projection, found = np.asarray(params["heads"][HEAD]["projection"], np.float64), {}
    for which in ("", "key_"):
        states = np.asarray(states_of(model, params, batch, which), np.float64)
        tokens, segments = (np.asarray(batch[which + name]) for name in ("tokens", "segment_ids"))
        for r, s in np.argwhere(np.asarray(batch["group"])[..., 0] >= 0).tolist():
            own = states[r, (segments[r] == s + 1) & ~SPECIAL[tokens[r]]] @ projection
            found.setdefault(r * S + s, []).append(own / np.linalg.norm(own, axis=1, keepdims=True))
    return found


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def attentions(x, y, t=0.1):
    return softmax(x @ y.T / t, 1), softmax(x @ y.T / t, 0)


def score(x, y):
    a, b = attentions(x, y)
    return ((a * (x @ y.T)).sum(1).mean() + (b * (x @ y.T)).sum(0).mean()) / 2


def cross_entropy(scores, candidates):
    return sum(
        np.log(np.exp(row[own]).sum()) - row[i] for i, (row, own) in enumerate(zip(scores, candidates, strict=True))
    )


def formula(found, apart):
    """(agreement, contrast). `apart` (n,n) bool: pairs of items that may be negatives."""
    agreement = -sum((np.prod(attentions(x, y), 0)).sum() / min(len(x), len(y)) for x, y in found)
    scores = np.array([[score(x, y) for _, y in found] for x, _ in found]) / 0.2
    candidates = apart | np.eye(len(found), dtype=bool)
    return agreement, (cross_entropy(scores, candidates) + cross_entropy(scores.T, candidates.T)) / 2


def test_the_loss_is_its_formula_for_each_pair(model, params):
    batch, params = sentence_batch(), with_head(OBJECTIVE, model, params)
    found = list(sentences(model, params, batch).values())
    agreement, contrast = formula(found, np.ones((len(found),) * 2, bool))
    loss, metrics, _ = loss_of(OBJECTIVE, model, params, {}, batch, KEY)
    pairs = R * S - 1
    assert len(found) == OBJECTIVE.count(model, batch, KEY) == pairs
    np.testing.assert_allclose(loss, 2 * agreement + 0.5 * contrast, rtol=1e-5)
    np.testing.assert_allclose(
        [metrics["agreement"], metrics["contrast"]], [agreement / pairs, contrast / pairs], rtol=1e-5
    )


def test_translations_of_the_same_text_are_no_negatives(model, params):
    """Items 0 and 1 share a query's text, and 2 and 3 a group; item 4 has one text on both sides and is left out."""
    batch, params = sentence_batch(), with_head(OBJECTIVE, model, params)
    text, key_text, group = (np.array(batch[name]).reshape(-1) for name in ("text", "key_text", "group"))
    text[1], group[3], key_text[4] = text[0], group[2], text[4]
    for name, values in (("text", text), ("key_text", key_text), ("group", group)):
        batch[name] = jnp.asarray(values.reshape(R, S, 1))
    own = sentences(model, params, batch)
    del own[4]
    apart, place = np.ones((len(own),) * 2, bool), {item: n for n, item in enumerate(own)}
    for one, other in ((0, 1), (2, 3)):
        apart[place[one], place[other]] = apart[place[other], place[one]] = False
    agreement, contrast = formula(list(own.values()), apart)
    loss, metrics, _ = loss_of(OBJECTIVE, model, params, {}, batch, KEY)
    np.testing.assert_allclose(loss, 2 * agreement + 0.5 * contrast, rtol=1e-5)
    assert metrics["count_identical"] == 1 and OBJECTIVE.count(model, batch, KEY) == R * S - 2


def test_scores_of_opposite_vectors_at_the_least_temperature_are_finite():
    one = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    item, nobody = jnp.asarray([0, 1]), jnp.asarray([0, -1])
    scores = partner_scores(one, one, item, item, 2, 0.05)
    np.testing.assert_allclose(scores, [[1, -1], [-1, 1]], rtol=1e-6)
    np.testing.assert_allclose(partner_scores(one, one, item, nobody, 2, 0.05), [[1, 0], [-1, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: partner_scores(x, one, item, nobody, 2, 0.05).sum())(one)
    assert np.isfinite(gradient).all()


def test_a_square_projection_begins_by_keeping_all_cosines(model):
    (head,) = LightAligner(level=1, size=model.width).init(KEY, model)[0].values()
    np.testing.assert_allclose(head["projection"] @ head["projection"].T, np.eye(model.width), atol=1e-5)


def test_a_batch_without_a_pair_has_no_loss(model, params):
    batch = sentence_batch()
    batch["text"] = batch["key_text"]
    loss, metrics, _ = loss_of(OBJECTIVE, model, with_head(OBJECTIVE, model, params), {}, batch, KEY)
    assert (loss, metrics["accuracy"], metrics["count_identical"]) == (0, 0, R * S - 1)


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    rows = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    batch["group"] = np.where(batch["group"] < 0, -1, np.arange(2 * R * S).reshape(2 * R, S, 1)).astype(np.int32)
    assert_same_on_eight_devices(OBJECTIVE, model, with_head(OBJECTIVE, model, params), batch)


@pytest.mark.slow
def test_gradients_are_equal_when_rows_go_in_parts(model, params):
    batch, params = sentence_batch(), with_head(OBJECTIVE, model, params)

    def gradient(network):
        return jax.jit(jax.grad(lambda p: OBJECTIVE.loss(bound(network, p), batch, {}, KEY)[0]))(params)

    whole, parts = gradient(model), gradient(sentence_model(chunks=2))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), whole, parts)


def test_bad_settings(model):
    with pytest.raises(UserError, match=r"LightAligner.level = 3: the model has levels 0 to 2"):
        LightAligner(level=3).init(KEY, model)
    with pytest.raises(UserError, match=r"LightAligner.temperature = 0.01: must lie in \[0.05, inf\)"):
        LightAligner(level=1, temperature=0.01)
    with pytest.raises(UserError, match=r"@LightAligner\(\): it links the words"):
        LightAligner(level=1).check(model, {"group": jnp.zeros((2, 3, 1))})
