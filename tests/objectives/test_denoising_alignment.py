"""XLM-Align's denoising alignment on packed rows: the formula, one pair at a time, and equal numbers on eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import assert_same_on_eight_devices, bound, loss_of, small_model
from sentence_cases import KEY, SPECIAL, V, sentence_model

from xalign_jax.alignment.extraction import itermax, normalise
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.objectives.denoising_alignment import HEAD, DenoisingAlignment
from xalign_jax.objectives.parts.corruption import Corruption
from xalign_jax.objectives.parts.links import second_texts

BOS, EOS = 3, 1
OBJECTIVE = DenoisingAlignment(level=1, corruption=Corruption(rate=0.5))


def rows(seed=0):
    """Four rows of two pairs "bos a eos b eos" and padding; in the last row, one text has no ordinary token."""
    random = np.random.default_rng(seed)
    batch = {name: np.zeros((4, 12), np.int32) for name in ("tokens", "positions", "segment_ids")}
    spans = []
    for row in range(4):
        at = 0
        for segment, (m, n) in enumerate(((2, 2), (1, 1)) if row < 3 else ((3, 4),)):
            own = [BOS, *random.integers(5, V, m), EOS, *random.integers(5, V, n), EOS]
            if row == 3:
                own[5:9] = [0] * 4
            for name, values in (("tokens", own), ("positions", range(len(own))), ("segment_ids", segment + 1)):
                batch[name][row, at : at + len(own)] = values
            ordinary = [at + i for i, token in enumerate(own) if not SPECIAL[token]]
            spans.append((row, [t for t in ordinary if t < at + m + 1], [t for t in ordinary if t > at + m + 1]))
            at += len(own)
    return jax.tree.map(jnp.asarray, batch), spans


@pytest.fixture(scope="module")
def model():
    return sentence_model()


@pytest.fixture(scope="module")
def params(model):
    heads = OBJECTIVE.init(KEY, model)[0]
    heads[HEAD] = {name: array + 0.3 * jax.random.normal(KEY, array.shape) for name, array in heads[HEAD].items()}
    return {"model": jax.jit(model.init)(KEY), "heads": heads}


def test_it_is_xlm_align_s_formula_for_each_pair(model, params):
    batch, spans = rows()
    read = OBJECTIVE.corrupted(model, batch, KEY)
    hidden = jax.jit(lambda p, inputs: bound(model, p).hidden(inputs, levels=(1, 2)).levels)
    plain = np.asarray(hidden(params, Inputs.of(batch))[1], np.float64)
    masked = np.asarray(hidden(params, Inputs.of(batch)._replace(tokens=read["tokens"]))[2], np.float64)
    head = {name: np.asarray(array, np.float64) for name, array in params["heads"][HEAD].items()}
    query, key = (masked @ head[name] + head[f"{name}_bias"] for name in ("query", "key"))
    total, terms, right = 0.0, 0, 0
    for row, first, second in spans:
        if not first or not second:
            continue
        similarity = jnp.asarray(plain[row, first] @ plain[row, second].T, jnp.float32)
        both = [jnp.ones(len(side), bool) for side in (first, second)]
        partner = {}
        for i, j in np.argwhere(itermax(normalise(similarity, *both).rows, *both)).tolist():
            partner[first[i]], partner[second[j]] = second[j], first[i]  # the last one written wins
        for own, other in ((first, second), (second, first)):
            for j in own:
                if read["chosen"][row, j] and j in partner:
                    scores = key[row, other] @ query[row, j] / np.sqrt(16)
                    total += np.log(np.exp(scores).sum()) - scores[other.index(partner[j])]
                    right += other[int(scores.argmax())] == partner[j]
                    terms += 1
    loss, metrics, _ = loss_of(OBJECTIVE, model, params, {}, batch, KEY)
    count = int(read["chosen"].sum())
    assert OBJECTIVE.count(model, batch, KEY) == count > terms > 3
    np.testing.assert_allclose(loss, total / terms * count, rtol=1e-5)
    np.testing.assert_allclose([metrics["accuracy"], metrics["aligned"]], [right / terms, terms / count], rtol=1e-6)


def test_second_texts_begin_after_the_first_eos():
    batch, _ = rows()
    found = np.asarray(second_texts(batch["tokens"], batch["segment_ids"]))
    assert "".join(map(str, found[0].astype(int))) == "0000111" + "00011"
    assert "".join(map(str, found[3].astype(int))) == "00000" + "11111" + "00"


@pytest.mark.slow
def test_a_batch_whose_every_partner_is_missing_has_no_loss(model, params):
    batch, _ = rows()
    batch = {name: array[3:] for name, array in batch.items()}

    def loss(p):
        return OBJECTIVE.loss(bound(model, p), batch, {}, KEY)[:2]

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert (value, metrics["aligned"]) == (0, 0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params):
    batch = {name: np.concatenate([np.asarray(rows(seed)[0][name]) for seed in (0, 1)]) for name in rows()[0]}
    assert_same_on_eight_devices(OBJECTIVE, model, params, batch)


def test_bad_settings(model):
    with pytest.raises(UserError, match=r"DenoisingAlignment.level = 5: the model has levels 0 to 2"):
        DenoisingAlignment(level=5).init(KEY, model)
    with pytest.raises(UserError, match="a causal model does not see the other sentence"):
        OBJECTIVE.init(KEY, small_model())
    with pytest.raises(UserError, match="both texts share a row; bind a TranslationFeed"):
        OBJECTIVE.check(model, {"key_tokens": np.zeros((2, 8))})
