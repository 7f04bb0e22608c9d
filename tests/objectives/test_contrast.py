"""infonce with a queue, margins, groups and several texts equals a dense form, on one device and on eight."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xalign_jax.objectives.parts import contrast
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import infonce
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.runtime.sharding import BATCH, make_mesh

TAU = 0.2
EIGHT = pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices of tests/conftest.py")


def draw_ids(rng, n, own, groups=2, texts=2):
    """Items, groups (some missing) and texts, drawn from so few values that many coincide."""
    group, text = rng.integers(-1, 60, (n, groups)), rng.integers(0, 60, (n, texts))
    return Ids(np.asarray(own, np.int32), group.astype(np.int32), text.astype(np.uint32))


def draw_case(n=22, m=27, k=45, width=6, seed=0):
    """Queries and keys of 12 items, with absent rows and extra negatives, and a queue with absent rows."""
    rng = np.random.default_rng(seed)
    query, key, queue = (np.asarray(l2_normalize(rng.normal(size=(rows, width)))) for rows in (n, m, k))
    query_ids = draw_ids(rng, n, rng.integers(-2, 12, n), texts=3)
    key_ids = draw_ids(rng, m, rng.integers(-2, 12, m))
    return query, key, query_ids, key_ids, queue, draw_ids(rng, k, rng.integers(-2, 0, k))


def dense_masks(query_ids, key_ids, queue_ids, exclude_self, in_batch):
    """(positive, candidate) over keys and queue: the definition, in loops over rows."""

    def meet(a, b):
        return bool((set(a) - {-1}) & (set(b) - {-1}))

    n, m, k = len(query_ids.own), len(key_ids.own), len(queue_ids.own)
    positive, candidate = np.zeros((n, m + k), bool), np.zeros((n, m + k), bool)
    for a, own in enumerate(query_ids.own):
        mine = [b for b in range(m) if own >= 0 and key_ids.own[b] == own and not (exclude_self and a == b)]
        positive[a, mine] = True
        for ids, start, rows in ((key_ids, 0, m), (queue_ids, m, k)):
            for b in range(rows):
                alike = meet(query_ids.group[a], ids.group[b]) or meet(query_ids.text[a], ids.text[b])
                if start == 0:
                    alike |= any(meet(key_ids.text[p], ids.text[b]) for p in mine)
                    alike |= not in_batch or (exclude_self and a == b)
                candidate[a, start + b] = own != -1 and ids.own[b] != -1 and not alike
    return positive, positive | candidate


def dense_loss(query, key, queue, masks, margin=0.0, after=False):
    positive, candidate = masks
    everything = jnp.concatenate([key, jax.lax.stop_gradient(queue)])
    logits = query @ everything.T / TAU - jnp.where(positive, margin if after else margin / TAU, 0)
    count = positive.sum(1)
    normaliser = jax.nn.logsumexp(jnp.where(candidate, logits, -1e30), axis=1)
    return jnp.sum(count * normaliser) - jnp.sum(jnp.where(positive, logits, 0))


def dense_sums(query, key, queue, masks, present):
    """The values of a `Contrast` other than its loss, without a margin. present: (n,m), both rows are present."""
    positive, candidate = masks
    cosines = query @ np.concatenate([key, queue]).T
    anchors = positive.any(1)
    best = [np.where(mask, cosines, -np.inf).max(1) for mask in (positive, candidate & ~positive)]
    return {
        "positives": positive.sum(),
        "correct": np.sum(anchors & (best[0] > best[1])),
        "anchors": anchors.sum(),
        "positive_similarity": cosines[positive].sum(),
        "similarity": cosines[:, : len(key)][present].sum(),
        "pairs": present.sum(),
    }


OPTIONS = [
    {},
    {"in_batch": False},
    {"margin": 0.3},
    {"margin": 0.3, "margin_after_temperature": True, "chunk": 5},
    {"in_batch": False, "margin": 0.1, "chunk": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradients_equal_a_dense_form_in_float64(options):
    query, key, query_ids, key_ids, queue, queue_ids = draw_case()
    masks = dense_masks(query_ids, key_ids, queue_ids, False, options.get("in_batch", True))
    assert masks[0].any() and not masks[1].all(1).any()
    with jax.enable_x64(True):
        vectors = [jnp.asarray(a, jnp.float64) for a in (query, key, queue)]

        def ours(q, k, past):
            return infonce(q, k, query_ids, key_ids, TAU, queue=past, queue_ids=queue_ids, **options).loss

        margin, after = options.get("margin", 0.0), options.get("margin_after_temperature", False)
        dense = lambda *v: dense_loss(*v, masks, margin, after)  # noqa: E731
        value, grads = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(*vectors)
        expected, expected_grads = jax.jit(jax.value_and_grad(dense, argnums=(0, 1, 2)))(*vectors)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(ours)(*vectors), expected, rtol=1e-12)
        for a, b in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
        assert not grads[2].any() and grads[1].any()


@pytest.mark.parametrize("block", [1, 7, 44])
def test_a_queue_of_many_blocks_equals_a_dense_form(block, monkeypatch):
    """The largest logit rises and falls from block to block, and the last block has fewer rows."""
    query, key, query_ids, key_ids, queue, queue_ids = draw_case()
    monkeypatch.setattr(contrast, "QUEUE_ELEMENTS", {"cpu": block * len(query)})
    masks = dense_masks(query_ids, key_ids, queue_ids, False, True)
    present = (query_ids.own != -1)[:, None] & (key_ids.own != -1)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def ours(q, k):
        found = infonce(q, k, query_ids, key_ids, TAU, queue=queue, queue_ids=queue_ids)
        return found.loss, found

    (value, found), grads = ours(query, key)
    expected, expected_grads = jax.jit(jax.value_and_grad(dense_loss, argnums=(0, 1)))(query, key, queue, masks)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for name, figure in dense_sums(query, key, queue, masks, present).items():
        np.testing.assert_allclose(getattr(found, name), figure, rtol=1e-5, err_msg=name)


def test_same_side_negatives_with_a_queue_equal_a_dense_form():
    query, _, ids, _, queue, queue_ids = draw_case(seed=3)
    masks = dense_masks(ids, ids, queue_ids, True, True)
    ours = lambda z: infonce(z, z, ids, ids, TAU, exclude_self=True, queue=queue, queue_ids=queue_ids).loss  # noqa: E731
    value, grad = jax.jit(jax.value_and_grad(ours))(query)
    expected, expected_grad = jax.jit(jax.value_and_grad(lambda z: dense_loss(z, z, queue, masks)))(query)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-4)


@EIGHT
@pytest.mark.parametrize("rows", [(22, 27, 45), (24, 24, 64)], ids=["ragged", "even"])
def test_one_device_equals_eight(rows):
    """In float64, where rounding hides no difference: sums, and gradients of queries and of keys."""
    query, key, query_ids, key_ids, queue, queue_ids = draw_case(*rows)

    def run(q, k, past, ids):
        found = infonce(q, k, ids[0], ids[1], TAU, queue=past, queue_ids=ids[2], margin=0.1, chunk=10)
        return found.loss, found

    with jax.enable_x64(True):
        arrays = (*(jnp.asarray(a, jnp.float64) for a in (query, key, queue)), (query_ids, key_ids, queue_ids))
        program = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
        (_, base), grads = program(*arrays)
        for mesh in (make_mesh((2, 2, 2)), make_mesh((4, 2, 1))):
            with jax.set_mesh(mesh):
                if rows[0] % 8 == 0:
                    arrays = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, BATCH))
                (_, found), found_grads = program(*arrays)
            for a, b in zip((*base, *grads), (*found, *found_grads), strict=True):
                np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-10, atol=1e-12)


@EIGHT
def test_the_eight_device_program_moves_no_queue_and_holds_no_matrix_of_queries_by_queue():
    n, k, width = 64, 4096, 16
    rng = np.random.default_rng(0)
    mesh = make_mesh((4, 2, 1))
    own = np.arange(n)
    arrays = (rng.normal(size=(n, width)), rng.normal(size=(n, width)), rng.normal(size=(k, width)))
    arrays = (*(a.astype(np.float32) for a in arrays), draw_ids(rng, n, own), draw_ids(rng, k, np.full(k, -2)))

    def loss(q, keys, queue, ids, queue_ids):
        return infonce(q, keys, ids, ids, TAU, queue=queue, queue_ids=queue_ids).loss

    with jax.set_mesh(mesh):
        arrays = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, BATCH))
        text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays).compile().as_text()
    sizes = {
        int(np.prod([int(d) for d in shape.split(",")]))
        for shape in re.findall(r"(?:f32|pred|[su]32)\[([\d,]+)\]", text)
    }
    assert max(sizes) <= n * k // 8
    gathered = re.findall(r"= \w+\[([\d,]+)\][^=]* all-gather\(", text)
    assert max(int(np.prod([int(d) for d in shape.split(",")])) for shape in gathered) == n * width  # the queries


def test_languages_of_one_group_unmasked_cost_the_logarithm_of_their_number():
    """n equal translations of each message, orthogonal to other messages: the lowest loss is ln n, with masks 0."""
    messages, languages = 8, 5
    own = np.arange(messages * languages, dtype=np.int32)
    z = np.repeat(np.eye(messages, dtype=np.float32), languages, axis=0)
    text = own[:, None].astype(np.uint32)

    @jax.jit
    def floor(group):
        ids = Ids(own, group[:, None], text)
        queue_ids = Ids(np.full_like(own, -2), ids.group, text + 1000)
        alone = infonce(z, z, ids, ids, 0.02)
        past = infonce(z, z, ids, ids, 0.02, in_batch=False, queue=z, queue_ids=queue_ids)
        return jnp.stack([found.loss / found.positives for found in (alone, past)])

    np.testing.assert_allclose(floor(np.full_like(own, -1)), [np.log(languages), np.log(languages + 1)], atol=1e-5)
    np.testing.assert_allclose(floor(own // languages), [0, 0], atol=1e-5)


def test_a_batch_whose_every_negative_is_masked_or_absent_is_finite():
    query, key, _, _, queue, _ = draw_case(8, 8, 16)
    one = np.zeros((16, 1))

    @jax.jit
    def value_and_grads(ids, queue_ids):
        contrast = lambda q, k: infonce(q, k, ids, ids, TAU, queue=queue, queue_ids=queue_ids).loss  # noqa: E731
        return jax.value_and_grad(contrast, argnums=(0, 1))(query, key)

    for own, past_own in ((np.arange(8), -2), (np.full(8, -1), -1), (np.full(8, -2), -2), (np.arange(8), -1)):
        ids = Ids(own.astype(np.int32), one[:8].astype(np.int32), one[:8].astype(np.uint32))
        queue_ids = Ids(np.full(16, past_own, np.int32), one.astype(np.int32), one.astype(np.uint32))
        value, grads = value_and_grads(ids, queue_ids)
        np.testing.assert_allclose(value, 0, atol=1e-5)
        assert all(np.abs(g).max() < 1e-5 for g in grads)


def test_large_dot_products_stay_finite():
    """Dot products of unnormalised states are large: the maxima of the queue and of the batch differ by thousands."""
    query, key, query_ids, key_ids, queue, queue_ids = draw_case()

    @jax.jit
    @jax.value_and_grad
    def value_and_grad(q, past):
        return infonce(q, key * 100, query_ids, key_ids, TAU, queue=past, queue_ids=queue_ids).loss

    for scale, past in ((1e3, 1.0), (1.0, 1e3), (1e3, 1e3)):
        found, grads = value_and_grad(query * scale, queue * past)
        assert np.isfinite(found) and np.isfinite(grads).all()


def test_published_form_without_groups_and_texts():
    """XlCo: each query against its own key and the whole queue."""
    query, key, _, _, queue, _ = draw_case(8, 8, 45)
    ids, past_ids = (
        Ids(np.asarray(own, np.int32), np.zeros((len(own), 0), np.int32), np.zeros((len(own), 0), np.uint32))
        for own in (np.arange(8), np.full(45, -2))
    )
    found = jax.jit(lambda q, k, past: infonce(q, k, ids, ids, TAU, in_batch=False, queue=past, queue_ids=past_ids))(
        query, key, queue
    )
    positive = np.sum(query * key, axis=1) / TAU
    logits = np.concatenate([positive[:, None], query @ queue.T / TAU], axis=1)
    np.testing.assert_allclose(found.loss, np.sum(np.log(np.exp(logits).sum(1)) - positive), rtol=1e-5)
    assert found.correct == np.sum(logits.argmax(1) == 0)
