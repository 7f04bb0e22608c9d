"""Token cross-entropy, pooling and the contrast equal dense references; known losses of the word contrast."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.alignment.pooling import segment_means, segment_sums
from xalign_jax.objectives.parts import primitives
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import infonce, positive_pairs
from xalign_jax.objectives.parts.primitives import join_rows, l2_normalize, split_rows, token_cross_entropy
from xalign_jax.target import lowering_for

TAU = 0.1


def draw(*shape: int, seed: int = 0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


# Token cross-entropy


def ce_inputs(n=13, width=8, vocabulary=50):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, vocabulary, n).astype(np.int32)
    weights = rng.choice([0.0, 0.5, 1.0], n).astype(np.float32)
    return draw(n, width), draw(vocabulary, width), draw(vocabulary), targets, weights


def dense_ce(h, weight, bias, targets, weights):
    logits = h @ weight.T + (0 if bias is None else bias)
    return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(h)), targets]))


@pytest.mark.parametrize("chunk", [1, 4, 13, None])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("devices", [1, 8])  # one CPU indexes the targets; several compare
def test_cross_entropy_and_gradients_equal_a_dense_float64_reference(chunk, with_bias, devices, monkeypatch):
    monkeypatch.setattr(primitives, "device_count", lambda: devices)
    h, weight, bias, targets, weights = ce_inputs()
    bias = bias if with_bias else None
    wrt = (0, 1, 2, 4) if with_bias else (0, 1, 4)
    ours = jax.jit(jax.value_and_grad(lambda *a: 3 * token_cross_entropy(*a, chunk=chunk), argnums=wrt))
    value, grads = ours(h, weight, bias, targets, weights)
    with jax.enable_x64(True):
        wide = [None if a is None else jnp.asarray(a, jnp.float64) for a in (h, weight, bias)]
        arguments = (*wide, targets, jnp.asarray(weights, jnp.float64))
        expected, expected_grads = jax.jit(jax.value_and_grad(lambda *a: 3 * dense_ce(*a), argnums=wrt))(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_cross_entropy_without_gradient_and_in_bfloat16():
    h, weight, bias, targets, weights = ce_inputs()
    exact = jax.jit(lambda *a: token_cross_entropy(*a, chunk=4))(h, weight, bias, targets, weights)
    np.testing.assert_allclose(exact, dense_ce(h, weight, bias, targets, weights), rtol=1e-5)
    narrow = jnp.asarray(h, jnp.bfloat16)
    value, grad = jax.jit(jax.value_and_grad(token_cross_entropy))(narrow, weight, bias, targets, weights)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=2e-2)


def test_cross_entropy_holds_no_more_than_a_chunk_of_logits():
    h, weight, bias, targets, weights = ce_inputs(n=64, vocabulary=96)
    program = jax.jit(jax.grad(lambda *a: token_cross_entropy(*a, chunk=8), argnums=(0, 1)))
    text = program.lower(h, weight, bias, targets, weights).as_text()
    assert "8x96xf32" in text and "64x96x" not in text and "8x8x96x" not in text


@pytest.mark.parametrize(
    "platform, devices, vocabulary, tokens",
    [
        ("cpu", 1, 3_072, 682),  # 2^21 logits
        ("cpu", 1, 32_000, 256),  # at least 256 tokens
        ("cpu", 1, 250_002, 134),  # at most 2^25 logits
        ("cpu", 8, 32_000, 8 * 256),
        ("tpu", 4, 32_000, 4 * 2**26 // 32_000),
    ],
)
def test_a_chunk_has_as_many_tokens_as_suit_the_machine(platform, devices, vocabulary, tokens):
    with lowering_for(platform, devices):
        assert primitives._chunk(vocabulary) == tokens


def test_splitting_rows_into_pieces_is_undone_by_joining():
    x = draw(11, 3)
    pieces = split_rows(x, 4)
    assert pieces.shape == (4, 3, 3)
    np.testing.assert_array_equal(pieces[1][:, 0], [x[1, 0], x[5, 0], x[9, 0]])
    np.testing.assert_array_equal(join_rows(pieces, 11), x)


# Pooling


def test_pooling_sums_each_segment():
    h = draw(2, 6, 3)
    segments = np.array([[1, 1, 2, 0, 0, 0], [1, 3, 3, 3, 0, 0]], np.int32)
    pooled = segment_sums(h, segments, 4)
    assert pooled.shape == (2, 4, 3)
    np.testing.assert_allclose(pooled[0], [h[0, :2].sum(0), h[0, 2], np.zeros(3), np.zeros(3)], rtol=1e-6)
    np.testing.assert_allclose(pooled[1], [h[1, 0], np.zeros(3), h[1, 1:4].sum(0), np.zeros(3)], rtol=1e-6)
    means = pooled / np.asarray([[2, 1, 1, 1], [1, 1, 3, 1]])[..., None]
    np.testing.assert_allclose(segment_means(h, segments, 4), means, rtol=1e-6)


def test_normalising_keeps_zeros_and_their_gradient_finite():
    z, pull = jax.vjp(l2_normalize, jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(z, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert jnp.isfinite(pull(jnp.ones((2, 2)))[0]).all()


# The contrast


def ids_of(own, text) -> Ids:
    """Items with one text each and no groups."""
    own, text = np.asarray(own, np.int32), np.asarray(text, np.uint32)
    return Ids(own, np.zeros((len(own), 0), np.int32), text[:, None])


def words_of(concepts: int, k: int) -> Ids:
    return ids_of(np.repeat(np.arange(concepts), k), np.arange(concepts * k))


@functools.partial(jax.jit, static_argnames="chunk")
def self_contrast(z, ids, chunk=None):
    return infonce(z, z, ids, ids, TAU, exclude_self=True, chunk=chunk)


@pytest.mark.parametrize("k, expected", [(2, 0.01147), (3, 0.70176), (5, 1.39348)])
def test_golden_loss_of_perfectly_aligned_orthogonal_concepts(k, expected):
    N = 128
    found = self_contrast(np.repeat(np.eye(N, dtype=np.float32), k, axis=0), words_of(N, k))
    loss = found.loss / found.positives
    assert abs(loss - expected) < 1e-5
    assert abs(loss - np.log(k - 1 + k * (N - 1) * np.exp(-10))) < 3e-6
    assert found.positives == N * k * (k - 1) and found.correct == found.anchors == N * k


def test_the_published_masking_would_keep_the_anchor_among_its_candidates():
    """The released code multiplies the anchor's logit, after the maximum is subtracted, by 0.

    The anchor thus stays a candidate of weight 1, and the loss is at least log 2.
    """
    N = 128
    z = np.repeat(np.eye(N), 2, axis=0)
    logits = z @ z.T / TAU
    logits = (logits - logits.max(axis=1, keepdims=True)) * (1 - np.eye(2 * N))
    published = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(2 * N), np.arange(2 * N) ^ 1])
    assert abs(published - 0.69890) < 5e-6
    found = self_contrast(z.astype(np.float32), words_of(N, 2))
    assert abs(found.loss / found.positives - 0.01147) < 5e-6


def test_isotropic_vectors_start_near_the_logarithm_of_the_candidates():
    N, d = 128, 256
    found = self_contrast(l2_normalize(draw(2 * N, d)), words_of(N, 2))
    expected = np.log(2 * N - 1) + 1 / (2 * d * TAU**2)
    assert abs(found.loss / found.positives - expected) < 0.1
    assert abs(found.similarity / found.pairs) < 0.01


def dense_contrast(z, group, text):
    """(loss, positive pairs) in z's dtype by the definition, in loops over pairs, with false negatives masked."""
    n = len(group)
    other = ~np.eye(n, dtype=bool) & (group >= 0) & (group[:, None] >= 0)
    positive = other & (group[:, None] == group)
    same_text = text[:, None] == text
    false_negative = np.zeros((n, n), bool)
    for a in range(n):
        for b in range(n):
            spelt_alike = same_text[a, b] or any(same_text[p, b] for p in range(n) if positive[a, p])
            false_negative[a, b] = not positive[a, b] and spelt_alike
    allow = other & ~false_negative
    logits = z @ z.T / TAU
    normaliser = jax.nn.logsumexp(jnp.where(allow, logits, -jnp.inf), axis=1, keepdims=True)
    normaliser = jnp.where(allow.any(1, keepdims=True), normaliser, 0)
    return -jnp.sum(jnp.where(positive, logits - normaliser, 0)), positive.sum()


def messy_ids(n=40, seed=0):
    """Concepts of 1 to 5 words, absent words, and texts that occur in several concepts."""
    rng = np.random.default_rng(seed)
    own = rng.integers(-1, 14, n)
    return ids_of(own, rng.integers(0, 25, n))


@pytest.mark.parametrize("seed, chunk", [(0, None), (1, 7), (2, 16), (3, 40)])
def test_contrast_and_gradient_equal_a_dense_float64_reference(seed, chunk):
    ids = messy_ids(seed=seed)
    z = np.asarray(l2_normalize(draw(40, 6, seed=seed)))
    value, grad = jax.jit(jax.value_and_grad(lambda z: self_contrast(z, ids, chunk).loss))(z)
    with jax.enable_x64(True):
        dense = lambda z: dense_contrast(z, ids.own, ids.text[:, 0])  # noqa: E731
        (expected, pairs), expected_grad = jax.jit(jax.value_and_grad(dense, has_aux=True))(jnp.asarray(z, jnp.float64))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-4)
    assert positive_pairs(ids.own) == pairs == self_contrast(z, ids, chunk).positives


def test_words_spelt_like_an_anchor_or_its_positive_are_no_negatives():
    """bank-Bank, bank-Ufer, shore-Ufer.

    The first "bank" must not repel the second one. The second "bank" must not repel "Ufer" of "shore", which is spelt
    like its positive.
    """
    group = np.array([0, 0, 1, 1, 2, 2], np.int32)
    text = np.array([10, 20, 10, 30, 40, 30], np.uint32)
    z = np.asarray(l2_normalize(draw(6, 4)))
    rows = np.exp(z @ z.T / TAU)
    candidates = {0: [1, 3, 4, 5], 1: [0, 3, 4, 5], 2: [1, 3, 4], 3: [1, 2, 4], 4: [0, 1, 2, 5], 5: [0, 1, 2, 4]}
    expected = -sum(np.log(rows[a, a ^ 1] / rows[a, c].sum()) for a, c in candidates.items())
    np.testing.assert_allclose(self_contrast(z, ids_of(group, text)).loss, expected, rtol=1e-5)


def test_order_and_absent_rows_change_nothing():
    ids, z = messy_ids(), np.asarray(l2_normalize(draw(40, 6)))
    base = self_contrast(z, ids, 16)
    order = np.random.default_rng(0).permutation(40)
    moved = self_contrast(z[order], Ids(*(a[order] for a in ids)), 16)
    absent = ids_of(np.append(ids.own, [-1] * 5), np.append(ids.text, [3] * 5))
    padded = self_contrast(np.concatenate([z, draw(5, 6)]), absent, 16)
    for other in (moved, padded):
        for a, b in zip(base, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_nothing_present_gives_zero_and_finite_gradients():
    ids = ids_of([-1] * 8, [0] * 8)
    value, grad = jax.jit(jax.value_and_grad(lambda z: self_contrast(z, ids).loss))(jnp.zeros((8, 4)))
    assert value == 0 and not grad.any() and positive_pairs(ids.own) == 0


def test_retrieval_counts_strict_winners_only():
    """All vectors are equal: every candidate ties, and nothing counts as retrieved."""
    found = self_contrast(np.ones((8, 1), np.float32), words_of(4, 2))
    assert found.correct == 0 and found.anchors == 8
    np.testing.assert_allclose(found.positive_similarity / found.positives, 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.similarity / found.pairs, 1.0, rtol=1e-6)


def test_separate_queries_and_keys():
    """Two queries against four keys, one of which occurs twice. A query keeps its own key and keys of other texts."""
    query, key = np.asarray(l2_normalize(draw(2, 5))), np.asarray(l2_normalize(draw(4, 5)))
    contrast = jax.jit(lambda *given: infonce(*given, TAU))
    found = contrast(query, key, ids_of([0, 1], [7, 8]), ids_of([0, 1, 2, 3], [4, 5, 5, 7]))
    rows = np.exp(query @ key.T / TAU)
    expected = -np.log(rows[0, 0] / rows[0, [0, 1, 2]].sum()) - np.log(rows[1, 1] / rows[1, [0, 1, 3]].sum())
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert found.positives == 2
