"""The library's numbers against the formulas of `formulas.py`, on small arrays made here: nothing beside the clone is read."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from formulas import (
    adamw,
    contrast,
    cosine,
    dot,
    itermax_twice,
    mutual,
    ngram_cosine,
    normalised,
    permuted,
    ratio_margins,
    softmax,
    splitmix,
    surprisal,
)
from reference_cases import ABSENT, SPECIALS, compute

from xalign_jax.alignment.neighbours import best, by_margin, neighbours
from xalign_jax.alignment.neighbours import cosines as neighbour_cosines
from xalign_jax.data.sampling.hashing import hash64, permute, uniform
from xalign_jax.data.sampling.rates import block_counts, member_rates
from xalign_jax.evaluation.inputs.char_ngrams import ngram_cosines
from xalign_jax.objectives.parts import contrast as contrast_module
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import infonce
from xalign_jax.objectives.parts.momentum import LinearMomentum, PowerMomentum, moved
from xalign_jax.objectives.parts.primitives import predict_tokens
from xalign_jax.training.optimizers import AdamW, WarmupConstant, WarmupCosine, WarmupLinear

# For float64 arrays, and for float32 ones.
EXACT, SINGLE = {"rtol": 1e-10, "atol": 1e-12}, {"rtol": 2e-6, "atol": 2e-6}


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_xlco_is_the_softmax_over_own_key_and_queue():
    query, key, queue = _normal(1, 5, 8), _normal(2, 5, 8), _normal(3, 33, 8)
    loss, gradient = 0.0, np.zeros_like(query)
    for i, q in enumerate(query):
        candidates = [key[i], *queue]
        scores = [dot(q, candidate) / 0.25 for candidate in candidates]
        loss += surprisal(scores, 0)
        gradient[i] = (sum(s * c for s, c in zip(softmax(scores), candidates, strict=True)) - key[i]) / 0.25
    found = compute("A", {"A_q": query, "A_k": key, "A_queue": queue})
    np.testing.assert_allclose(found["A.xlco_sum_tau.25"], loss, **EXACT)
    np.testing.assert_allclose(found["A_grad_q"], gradient, **EXACT)


def _word_alignment_arrays() -> dict[str, np.ndarray]:
    states = {"B_feat": _normal(12, 2, 9, 4), "B_Wq": _normal(13, 4, 4), "B_Wk": _normal(14, 4, 4)}
    return {
        "B_S": _normal(102, 6, 5),
        **{name: array.astype(np.float32) for name, array in states.items()},
        "B_bq": _normal(15, 4).astype(np.float32),
        "B_bk": _normal(16, 4).astype(np.float32),
        "B_mpos": np.array([[1, 3, ABSENT], [7, 2, 0]]),
        "B_pos": np.array([[6, 5, 6], [1, ABSENT, 3]]),
        "B_from": np.array([4, 1]),
        "B_to": np.array([8, 5]),
    }


def test_word_alignments_are_normalised_and_extracted_as_written():
    arrays = _word_alignment_arrays()
    found = compute("B", arrays)
    for clamp, suffix in ((True, ""), (False, "_unclamped")):
        pi, xi = normalised(arrays["B_S"], clamp)
        np.testing.assert_allclose(found[f"B_pi{suffix}"], pi, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found[f"B_xi{suffix}"], xi, rtol=1e-9, atol=1e-12)
    pi, xi = normalised(arrays["B_S"], True)
    assert found["B.n_nonpositive_entries"] == sum(value <= 0 for value in arrays["B_S"].ravel()) > 0
    assert {tuple(pair) for pair in found["B.mutual_argmax_pairs"]} == mutual(pi, xi)
    assert {tuple(pair) for pair in found["B.itermax_pairs"]} == itermax_twice(pi) > mutual(pi, pi)


def test_the_pointer_is_a_softmax_over_the_window():
    arrays = _word_alignment_arrays()
    loss, terms, correct = 0.0, 0, 0
    states = arrays["B_feat"].astype(np.float64)
    for row in range(2):
        window = range(arrays["B_from"][row], arrays["B_to"][row])
        for masked, partner in zip(arrays["B_mpos"][row], arrays["B_pos"][row], strict=True):
            if ABSENT in (masked, partner):
                continue
            query = states[row, masked] @ arrays["B_Wq"] + arrays["B_bq"]
            scores = [dot(query, states[row, i] @ arrays["B_Wk"] + arrays["B_bk"]) / math.sqrt(4) for i in window]
            loss += surprisal(scores, partner - window.start)
            terms += 1
            correct += max(scores) == scores[partner - window.start]
    found = compute("B", arrays)
    np.testing.assert_allclose(found["B.pointer_loss_sum"], loss, **SINGLE)
    assert (found["B.pointer_count"], found["B.pointer_n_correct"]) == (terms, correct) and terms == 4


def test_translation_ranking_takes_its_margin_before_or_after_the_temperature():
    source, target = _normal(21, 6, 8), _normal(22, 6, 8)
    cosines = [[cosine(a, b) for b in target] for a in source]

    def one_way(table: list[list[float]], scale: float, inside: float, after: float) -> float:
        losses = [
            surprisal([scale * (c - inside * (i == j)) - after * (i == j) for j, c in enumerate(row)], i)
            for i, row in enumerate(table)
        ]
        return sum(losses) / len(losses)

    turned = [list(column) for column in zip(*cosines, strict=True)]
    found = compute("C", {"C_z1": source, "C_z2": target})
    for key, after in (("m0", 0.0), ("m.3_code", 0.3)):
        forward, backward = one_way(cosines, 20, 0, after), one_way(turned, 20, 0, after)
        np.testing.assert_allclose(found[f"C.dap_{key}_fwd"], forward, **EXACT)
        np.testing.assert_allclose(found[f"C.dap_{key}_both"], (forward + backward) / 2, **EXACT)
    both = one_way(cosines, 20, 0.3, 0) + one_way(turned, 20, 0.3, 0)
    np.testing.assert_allclose(found["C.labse_margin_inside_scale20_m.3_sum_both"], both, **EXACT)


def test_self_training_and_consistency_are_products_of_probabilities():
    ids = {"E_is": np.array([[101, 7, 8, 102, 0], [101, 5, 102, 0, 0]]), "E_it": np.array([[101, 9, 102], [101, 4, 6]])}
    states = {"E_hs": _normal(31, 2, 5, 4), "E_ht": _normal(32, 2, 3, 4)}
    guide = (np.random.default_rng(33).random((2, 1, 5, 3)) < 0.4).astype(np.float32)
    so, co, links = 0.0, 0.0, 0
    for row in range(2):
        there = [[i for i, token in enumerate(ids[name][row]) if token not in SPECIALS] for name in ("E_is", "E_it")]
        scores = states["E_hs"][row] @ states["E_ht"][row].T
        by_source, by_target = np.zeros((5, 3)), np.zeros((5, 3))
        for i in range(5):
            by_source[i, there[1]] = softmax([scores[i, j] for j in there[1]])
        for j in range(3):
            by_target[there[0], j] = softmax([scores[i, j] for i in there[0]])
        g = guide[row, 0]
        so -= (by_source * g).sum() / len(there[0]) + (by_target * g).sum() / len(there[1])
        co -= (by_source * by_target).sum() / min(len(there[0]), len(there[1]))
        links += ((by_source > 1e-3) & (by_target > 1e-3)).sum()
    found = compute(
        "E", {**ids, **{name: array.astype(np.float32) for name, array in states.items()}, "E_guide": guide}
    )
    np.testing.assert_allclose([found["E.so"], found["E.co"]], [so / 2, co / 2], **SINGLE)
    assert found["E.n_align_pairs_thr.001"] == links > 0


def test_linear_maps_are_orthogonal_or_solve_the_normal_equations():
    source, target = _normal(41, 20, 4), _normal(42, 20, 4)
    found = compute("H", {"H_X": source, "H_Y": target})
    # W of the orthogonal map is the polar factor of X^T Y: orthogonal, and W^T X^T Y symmetric with positive eigenvalues.
    w, product = found["H_proc"], source.T @ target
    np.testing.assert_allclose(w.T @ w, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(w.T @ product, (w.T @ product).T, atol=1e-9)
    assert np.linalg.eigvalsh(w.T @ product).min() > 0
    np.testing.assert_allclose(found["H_lstsq"], np.linalg.solve(source.T @ source, product), atol=1e-9)
    for name, matrix in (("procrustes", w), ("lstsq", found["H_lstsq"])):
        residual = math.sqrt(sum(float(x) ** 2 for x in (source @ matrix - target).ravel()))
        np.testing.assert_allclose(found[f"H.{name}_resid"], residual, **EXACT)


def _rows(seed: int, count: int, items: int) -> list[tuple[int, list[int], list[int]]]:
    """(own, groups, texts) of rows: some absent, some without an item, groups and texts shared by chance."""
    rng = np.random.default_rng(seed)
    own = rng.choice([-2, -1, *range(items)], count)
    groups, texts = rng.integers(-1, 6, (count, 2)), rng.integers(0, 30, (count, 2))
    return [(int(o), g.tolist(), t.tolist()) for o, g, t in zip(own, groups, texts, strict=True)]


def _near_items(seed: int, rows: list[tuple[int, list[int], list[int]]]) -> np.ndarray:
    """Vectors of 6 numbers, those of an item near each other."""
    centres = _normal(50, 8, 6)
    return np.array([centres[own] for own, _, _ in rows]) + _normal(seed, len(rows), 6)


def _ids(rows: list[tuple[int, list[int], list[int]]]) -> Ids:
    own, group, text = zip(*rows, strict=True)
    return Ids(jnp.array(own, jnp.int32), jnp.array(group, jnp.int32), jnp.array(text))


@pytest.mark.parametrize(("margin", "after"), [(0.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("own", [True, False])
def test_the_contrast_masks_false_negatives_in_batch_and_queue(monkeypatch, own, margin, after):
    monkeypatch.setitem(contrast_module.QUEUE_ELEMENTS, "cpu", 25)  # the queue goes through in several blocks
    t, ids, queue_ids = 0.2, _rows(51, 11, 4), _rows(52, 23, 4)
    key_ids = ids if own else _rows(53, 9, 4)
    key_rows = [(o, g, t[:1]) for o, g, t in key_ids]
    query, queue = _near_items(54, ids), _normal(55, 23, 6)
    key = query if own else _near_items(56, key_rows)
    shift = margin if after else margin / t
    loss, d_query, d_key, pairs, anchors, correct = contrast(query, key, ids, key_rows, t, queue, queue_ids, shift, own)
    with jax.enable_x64(True):

        def run(q: jax.Array, k: jax.Array):
            found = infonce(
                q,
                k,
                _ids(ids),
                _ids(key_rows),
                t,
                exclude_self=own,
                queue=jnp.asarray(queue),
                queue_ids=_ids(queue_ids),
                margin=margin,
                margin_after_temperature=after,
                chunk=4,
            )
            return found.loss, found

        (_, found), gradients = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(query, key)
    np.testing.assert_allclose(found.loss, loss, **EXACT)
    np.testing.assert_allclose(gradients[0], d_query, **EXACT)
    np.testing.assert_allclose(gradients[1], d_key, **EXACT)
    assert [*map(float, (found.positives, found.anchors, found.correct))] == [pairs, anchors, correct]
    assert 0 < correct < anchors


def test_cross_entropy_is_summed_by_weights():
    h, weight, bias = _normal(61, 7, 5), _normal(62, 11, 5), _normal(63, 11)
    targets, weights = np.array([0, 10, 3, 3, 5, 7, 1]), np.array([1.0, 0.0, 0.5, 2.0, 1.0, 1.0, 0.0])
    loss, hits = 0.0, 0.0
    d_h, d_weight, d_bias = np.zeros_like(h), np.zeros_like(weight), np.zeros_like(bias)
    for i, target in enumerate(targets):
        scores = [dot(h[i], row) + b for row, b in zip(weight, bias, strict=True)]
        loss += weights[i] * surprisal(scores, target)
        hits += weights[i] * (scores[target] == max(scores))
        for j, share in enumerate(softmax(scores)):
            d = weights[i] * (share - (j == target))
            d_h[i] += d * weight[j]
            d_weight[j] += d * h[i]
            d_bias[j] += d
    with jax.enable_x64(True):

        def run(*arrays: jax.Array):
            found = predict_tokens(*arrays, jnp.asarray(targets), jnp.asarray(weights), chunk=3)
            return found.loss, found.correct

        (value, correct), gradients = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(
            *map(jnp.asarray, (h, weight, bias))
        )
    np.testing.assert_allclose([value, correct], [loss, hits], **EXACT)
    for found, wanted in zip(gradients, (d_h, d_weight, d_bias), strict=True):
        np.testing.assert_allclose(found, wanted, **EXACT)


def test_retrieval_by_cosine_and_by_ratio_margin():
    source, target = _normal(71, 9, 6), _normal(72, 7, 6)
    cosines = np.array([[cosine(a, b) for b in target] for a in source])
    for near in (neighbours(source, target), best(neighbour_cosines(source, target))):
        np.testing.assert_array_equal(near.indices[:, 0], cosines.argmax(1))
    for k in (2, 4):
        forward, backward = best(cosines, k), best(cosines.T, k)
        wanted, found = ratio_margins(cosines, k), by_margin(forward, backward, "ratio")
        np.testing.assert_allclose(found.scores, np.take_along_axis(wanted, found.indices, 1), **EXACT)
        np.testing.assert_array_equal(np.sort(found.indices), np.sort(np.argsort(-cosines)[:, :k]))
        assert (np.diff(found.scores) <= 0).all()


def test_the_copy_baseline_counts_ngrams_of_characters():
    source, target = ["The  cat sat", "aaaa", "Zürich 2024"], ["die Katze saß", "the cat", "aa aa", "ZÜRICH, 2024"]
    wanted = [[ngram_cosine(a, b) for b in target] for a in source]
    np.testing.assert_allclose(ngram_cosines(source, target), wanted, **SINGLE)


def test_learning_rates_at_every_step():
    steps, warm, peak = 40, 4, 2e-3
    cosines, lines, constant = [], [], []
    for step in range(steps):
        up = peak / warm + (peak - peak / warm) * step / warm
        down = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
        cosines.append(up if step < warm else peak * down)
        lines.append(peak * min((step + 1) / warm, (steps - step) / (steps - warm)))
        constant.append(peak * min(1.0, (step + 1) / warm))
    kinds = (WarmupCosine(peak, 0.1, 0.1), WarmupLinear(peak, 0.1), WarmupConstant(peak, 0.1))
    for kind, wanted in zip(kinds, (cosines, lines, constant), strict=True):
        found = [float(kind.schedule(steps)(step)) for step in range(steps)]
        np.testing.assert_allclose(found, wanted, rtol=2e-6, err_msg=type(kind).__name__)


def test_steps_of_adamw_with_clipping():
    params = {"bias": _normal(81, 3), "weight": _normal(82, 3, 4)}
    gradients = [
        {"bias": scale * _normal(83 + i, 3), "weight": scale * _normal(90 + i, 3, 4)}
        for i, scale in enumerate((1, 1e-2, 5))
    ]
    rates = (1e-2, 2e-2, 5e-3)
    flat = [[step["bias"], step["weight"]] for step in gradients]
    wanted = adamw([params["bias"], params["weight"]], flat, (False, True), rates, 0.9, 0.98, 1e-6, 0.1, 1.0)
    with jax.enable_x64(True):
        direction = AdamW(0.9, 0.98, 1e-6, 0.1, 1.0).direction({"bias": False, "weight": True})
        state = direction.init(params)
        for gradient, rate in zip(gradients, rates, strict=True):
            update, state = direction.update(gradient, state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda u, rate=rate: -rate * u, update))
    np.testing.assert_allclose(params["bias"], wanted[0], **EXACT)
    np.testing.assert_allclose(params["weight"], wanted[1], **EXACT)


def test_momentum_encoders_follow_by_their_share():
    averages, share = [0.5, -2.0], None
    for update, value in enumerate(([1.0, 1.0], [3.0, -1.0], [0.0, 4.0])):
        share = 1 - (update + 1) ** -0.5
        averages = [share * old + (1 - share) * new for old, new in zip(averages, value, strict=True)]
    found = {"w": jnp.array([0.5, -2.0])}
    for update, value in enumerate(([1.0, 1.0], [3.0, -1.0], [0.0, 4.0])):
        found = moved(found, {"w": jnp.array(value)}, PowerMomentum(0.5).at(jnp.int32(update)))
    np.testing.assert_allclose(found["w"], averages, **SINGLE)
    linear = [float(LinearMomentum(0.9, 0.99, 4).at(jnp.int32(update))) for update in range(6)]
    np.testing.assert_allclose(linear, [0.9, 0.9225, 0.945, 0.9675, 0.99, 0.99], **SINGLE)


def test_hashes_and_permutations_are_those_of_whole_numbers():
    """They decide every batch: another hash is another run."""
    parts = [(0,), (7, "rows", 10**12), (-1, "", 2**63), ("a", 1, 2, 3)]
    assert [int(hash64(*part)) for part in parts] == [splitmix(*part) for part in parts]
    assert [float(uniform(*part)) for part in parts] == [(splitmix(*part) >> 11) / 2**53 for part in parts]
    for size in (1, 2, 7, 100, 1023):
        for seed in (0, 5, 2**62):
            assert permute(np.arange(size), size, seed).tolist() == [permuted(i, size, seed) for i in range(size)]


def test_rates_of_languages_by_their_tokens():
    tokens = {"en": 9_000_000, "de": 40_000, "sw": 160}
    powers = {name: n**0.7 for name, n in tokens.items()}
    found = member_rates(tokens, (), 0.7)
    for name, power in powers.items():
        np.testing.assert_allclose(found[name], power / math.fsum(powers.values()), **EXACT)
    # 1,000 rows by largest remainder: 976.6, 22.0 and .5 of them, and the smallest language comes to one at least.
    assert block_counts(found, explicit=False).tolist() == [977, 22, 1]
