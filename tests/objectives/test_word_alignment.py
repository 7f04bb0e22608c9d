"""Word alignment on packed sentence pairs: the formula, what is left out, and equal numbers on eight devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of
from sentence_cases import KEY, SPECIAL, R, S, sentence_batch

from xalign_jax.alignment.methods import Extraction, extract
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.word_alignment import WordAlignment


@functools.partial(jax.jit, static_argnames=("model", "which"))
def states_of(model, params, batch, which):
    return bound(model, params).hidden(Inputs.of(batch, which), levels=(1,))[1]


def unpacked(model, params, batch):
    """For each slot with text: states (m,D) and (n,D) of its tokens that are not special, in float64."""
    sides = []
    for which in ("", "key_"):
        states = np.asarray(states_of(model, params, batch, which), np.float64)
        tokens, segments = (np.asarray(batch[which + name]) for name in ("tokens", "segment_ids"))
        sides.append([[states[r, (segments[r] == s) & ~SPECIAL[tokens[r]]] for s in range(1, S + 1)] for r in range(R)])
    return [(sides[0][r][s], sides[1][r][s]) for r in range(R) for s in range(S) if batch["group"][r, s, 0] >= 0]


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def formula(sides, threshold):
    """awesome-align's SO and CO, one sentence pair at a time."""
    so = co = 0.0
    for x, y in sides:
        p_s, p_t = softmax(x @ y.T, 1), softmax(x @ y.T, 0)
        guide = (p_s > threshold) & (p_t > threshold)
        so -= (p_s * guide).sum() / len(x) + (p_t * guide).sum() / len(y)
        co -= (p_s * p_t).sum() / min(len(x), len(y))
    return so, co


def test_it_is_awesome_align_s_formula_for_each_sentence_pair(model, params):
    batch, threshold = sentence_batch(), 0.2
    so, co = formula(unpacked(model, params, batch), threshold)
    objective = WordAlignment(level=1, self_training=2.0, consistency=0.5, threshold=threshold)
    loss, metrics, _ = loss_of(objective, model, params, {}, batch, KEY)
    pairs = R * S - 1
    assert objective.count(model, batch, KEY) == pairs
    np.testing.assert_allclose(loss, 2 * so + 0.5 * co, rtol=1e-5)
    np.testing.assert_allclose([metrics["self_training"], metrics["consistency"]], [so / pairs, co / pairs], rtol=1e-5)
    assert metrics["count_identical"] == 0


def test_cosines_at_a_temperature(model, params):
    batch, temperature = sentence_batch(), 0.1
    co = 0.0
    for x, y in unpacked(model, params, batch):
        x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
        co -= (softmax(x @ y.T / temperature, 1) * softmax(x @ y.T / temperature, 0)).sum() / min(len(x), len(y))
    objective = WordAlignment(level=1, self_training=0.0, temperature=temperature)
    np.testing.assert_allclose(loss_of(objective, model, params, {}, batch, KEY)[0], co, rtol=1e-5)


@pytest.mark.parametrize("guide", ["itermax", "ot"])
def test_packed_pairs_get_the_links_of_single_ones(guide):
    """Two pairs of 4 and 3, and 2 and 5 tokens side by side; one more token of each side belongs to no pair."""
    random = np.random.default_rng(3)
    sizes = [(4, 3), (2, 5)]
    singles = [tuple(random.normal(size=(size, 6)).astype(np.float32) for size in pair) for pair in sizes]
    segments = [np.repeat([1, 2, 0], [*(pair[side] for pair in sizes), 1]) for side in (0, 1)]
    x, y = (jnp.concatenate([*(pair[side] for pair in singles), np.ones((1, 6))])[None] for side in (0, 1))
    masks = [jnp.asarray(segment > 0)[None] for segment in segments]
    among = jnp.asarray(segments[0][:, None] == segments[1])[None]
    extraction = Extraction(guide, threshold=0.1)
    found = extract(x, y, *masks, extraction, among)
    for links, name in ((found.forward, "forward"), (found.backward, "backward")):
        wanted = np.zeros(links.shape[1:], bool)
        row = column = 0
        for source, target in singles:
            alone = [jnp.ones((1, len(side)), bool) for side in (source, target)]
            own = getattr(extract(source[None], target[None], *alone, extraction), name)
            wanted[row : row + len(source), column : column + len(target)] = own[0]
            row, column = row + len(source), column + len(target)
        np.testing.assert_array_equal(links[0], wanted)


def test_pairs_without_a_token_and_pairs_of_equal_text_are_left_out_and_counted(model, params):
    batch = sentence_batch()
    batch["text"] = batch["text"].at[0, 1].set(batch["key_text"][0, 1])
    # Slot 2 of row 1: the translation holds nothing but special tokens.
    batch["key_tokens"] = batch["key_tokens"].at[1, 8:12].set(3)
    objective = WordAlignment(level=1)

    def loss(p):
        return objective.loss(bound(model, p), batch, {}, KEY)[:2]

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert objective.count(model, batch, KEY) == R * S - 2
    assert (metrics["count_identical"], metrics["count_unlinked"]) == (1, 1)
    nothing = batch | {"group": jnp.full_like(batch["group"], -1)}
    value, metrics, _ = loss_of(objective, model, params, {}, nothing, KEY)
    assert (value, objective.count(model, nothing, KEY), metrics["linked"]) == (0, 0, 0)


@pytest.mark.slow
def test_the_guide_gets_no_gradient(model, params):
    """Self-training alone: with every pair of tokens linked, SO is a constant, because probabilities sum to 1."""
    batch = sentence_batch()
    objective = WordAlignment(level=1, consistency=0.0, threshold=1e-30)
    gradient = jax.jit(jax.grad(lambda p: objective.loss(bound(model, p), batch, {}, KEY)[0]))(params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-5


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    rows = [sentence_batch(seed) for seed in (0, 1)]
    batch = {name: np.concatenate([np.asarray(part[name]) for part in rows]) for name in rows[0]}
    assert_same_on_eight_devices(WordAlignment(level=2, guide="itermax"), model, params, batch)


def test_bad_settings(model):
    with pytest.raises(UserError, match=r"WordAlignment.level = 3: the model has levels 0 to 2"):
        WordAlignment(level=3).init(KEY, model)
    with pytest.raises(UserError, match=r"WordAlignment.guide = 'match': must be one of"):
        WordAlignment(level=1, guide="match")
    with pytest.raises(UserError, match="both 0: nothing would train"):
        WordAlignment(level=1, self_training=0.0, consistency=0.0)
    for batch in ({"group": np.zeros((2, 3, 1))}, {"group": np.zeros((2, 3, 2)), "key_tokens": np.zeros((2, 8))}):
        with pytest.raises(UserError, match=r"@WordAlignment\(\): it links the words .*bind a ContrastFeed"):
            WordAlignment(level=1).check(model, batch)
