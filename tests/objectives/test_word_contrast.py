"""The word contrast on a model: levels and head equal those of words fed alone; packing, padding, devices, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import LAYERS, V, assert_same_on_eight_devices, bound, loss_of, small_model

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.word_contrast import WordContrast

KEY = jax.random.key(0)
WORDS = 24


def words():
    """Token lists and concepts of 24 words of 12 concepts. Two words of different concepts are spelt alike."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(1, V, rng.integers(1, 5)) for _ in range(WORDS)]
    tokens[6] = tokens[1]
    return tokens, np.repeat(np.arange(WORDS // 2), 2)


def pack(order, rows: int = 8, length: int = 16, slots: int = 6):
    """A batch with the words packed first-fit in this order."""
    tokens, concepts = words()
    batch = {key: np.zeros((rows, length), np.int32) for key in ("tokens", "positions", "segment_ids")}
    batch |= {"concept": np.full((rows, slots), -1, np.int32), "text_hash": np.zeros((rows, slots), np.uint32)}
    used, taken = np.zeros(rows, int), np.zeros(rows, int)
    for w in order:
        n = len(tokens[w])
        r = next(r for r in range(rows) if used[r] + n <= length and taken[r] < slots)
        span = slice(used[r], used[r] + n)
        batch["tokens"][r, span], batch["positions"][r, span] = tokens[w], np.arange(n)
        batch["segment_ids"][r, span] = taken[r] + 1
        batch["concept"][r, taken[r]] = concepts[w]
        batch["text_hash"][r, taken[r]] = hash(tuple(tokens[w])) % 2**32
        used[r], taken[r] = used[r] + n, taken[r] + 1
    return batch


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(KEY), "heads": {}}


def run(model, params, batch, **options):
    return loss_of(WordContrast(**options), model, params, {}, batch, KEY)[:2]


def test_every_level_is_the_contrast_of_words_fed_alone(model, params):
    tokens, concepts = words()
    own, levels = params["model"], tuple(range(LAYERS + 1))
    length = max(len(t) for t in tokens)
    alone = np.zeros((3, WORDS, length), np.int32)  # right-padded: tokens, positions, segment_ids
    for w, t in enumerate(tokens):
        alone[:, w, : len(t)] = [t, np.arange(len(t)), np.ones(len(t))]
    states = jax.jit(lambda p, *b: model.bind(p).hidden(Inputs(*b), levels=levels).levels)(own, *alone)
    states |= {"head": own["head"][alone[0]]}
    _, metrics = run(model, params, pack(range(WORDS)))
    assert {name.split("/")[0] for name in metrics} == {f"level_{level}" for level in (*levels, "head")}
    spelt = np.array([hash(tuple(t)) for t in tokens])
    for level, h in states.items():
        z = np.sum(np.where(alone[2][..., None] > 0, h, 0), axis=1, dtype=np.float64)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        cosine = z @ z.T
        mate = np.arange(WORDS) ^ 1
        alike = (spelt[:, None] == spelt) | (spelt[mate][:, None] == spelt)
        allow = ~np.eye(WORDS, dtype=bool) & (~alike | (concepts[:, None] == concepts))
        logits = np.where(allow, cosine / 0.1, -np.inf)
        loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(WORDS), mate])
        np.testing.assert_allclose(metrics[f"level_{level}/loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics[f"level_{level}/retrieval"], np.mean(logits.argmax(1) == mate), rtol=1e-6)
        own_cosine = np.mean(cosine[np.arange(WORDS), mate])
        np.testing.assert_allclose(metrics[f"level_{level}/positive_cosine"], own_cosine, rtol=1e-4, atol=1e-5)
        others = (cosine.sum() - WORDS) / (WORDS * (WORDS - 1))
        np.testing.assert_allclose(metrics[f"level_{level}/mean_cosine"], others, rtol=1e-4, atol=1e-5)


def test_loss_over_count_is_the_mean_over_levels(model, params):
    batch = pack(range(WORDS))
    total, metrics = run(model, params, batch)
    count = WordContrast().count(None, batch, KEY)
    assert count == WORDS
    losses = [value for name, value in metrics.items() if name.endswith("/loss")]
    assert len(losses) == LAYERS + 2
    np.testing.assert_allclose(total / count, np.mean(losses), rtol=1e-5)


def test_levels_and_head_are_a_choice(model, params):
    batch = pack(range(WORDS))
    _, everything = run(model, params, batch)
    total, metrics = run(model, params, batch, levels=(1,), head=False)
    assert set(metrics) == {f"level_1/{name}" for name in ("loss", "retrieval", "positive_cosine", "mean_cosine")}
    np.testing.assert_allclose(metrics["level_1/loss"], everything["level_1/loss"], rtol=1e-5)
    np.testing.assert_allclose(total / WORDS, metrics["level_1/loss"], rtol=1e-6)


def test_packing_order_padding_and_absent_words_change_nothing(model, params):
    base, _ = run(model, params, pack(range(WORDS)))
    order = np.random.default_rng(1).permutation(WORDS)
    repacked, _ = run(model, params, pack(order, length=20, slots=7))
    np.testing.assert_allclose(repacked, base, rtol=1e-4)
    padded = pack(range(WORDS))
    padded["tokens"] = np.where(padded["segment_ids"] == 0, 5, padded["tokens"])
    absent = pack(range(WORDS))
    absent["concept"] = np.pad(absent["concept"], ((0, 0), (0, 3)), constant_values=-1)
    absent["text_hash"] = np.pad(absent["text_hash"], ((0, 0), (0, 3)))
    for other in (padded, absent):
        np.testing.assert_allclose(run(model, params, other)[0], base, rtol=1e-5)


def test_gradient_reaches_every_parameter_it_should(model, params):
    batch = pack(range(WORDS))

    def gradient(**options):
        loss = lambda p: WordContrast(**options).loss(bound(model, p), batch, {}, KEY)[0]  # noqa: E731
        return jax.jit(jax.grad(loss))(params)["model"]

    assert all(jnp.isfinite(g).all() and jnp.any(g != 0) for g in jax.tree.leaves(gradient()))
    embedding_only = gradient(levels=(0,), head=False)
    assert embedding_only["embedding"].any() and not embedding_only["head"].any()


def test_a_tied_head_and_unknown_levels_are_refused(model):
    with pytest.raises(UserError, match=r"WordContrast\.head"):
        WordContrast().init(KEY, small_model(tied=True))
    assert WordContrast(head=False).init(KEY, small_model(tied=True)) == ({}, {})
    with pytest.raises(UserError, match=r"WordContrast\.levels = \(3,\)"):
        WordContrast(levels=[3]).init(KEY, model)
    for level in (-1, 1.5, "head"):
        with pytest.raises(UserError, match=r"WordContrast\.levels = .*: the model has levels 0 to 2"):
            WordContrast(levels=[0, level]).init(KEY, model)
    with pytest.raises(UserError, match=r"WordContrast\.temperature = -0\.1"):
        WordContrast(temperature=-0.1)


def test_one_device_equals_eight(model, params):
    assert_same_on_eight_devices(WordContrast(), model, params, pack(range(WORDS)))
