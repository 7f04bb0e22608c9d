"""A small encoder, and batches of sentences for the objectives that compare them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from objective_cases import bound

from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.parts.sentences import sentence_vectors

V, R, T, S = 50, 4, 12, 3
KEY = jax.random.key(7)
SPECIAL = np.arange(V) < 5


def sentence_model(layers=2, chunks=1):
    config = XLMRoberta(layers=layers, width=16, heads=2, mlp_width=32, max_length=T, init_std=0.2)
    return build(config, V, special=SPECIAL, mask_id=4, chunks=chunks)


def sentence_batch(seed=0, parts=1, absent=((3, 2),)):
    """Rows of three items of four tokens, bos x x eos. The last item is absent."""
    random = np.random.default_rng(seed)
    batch = {}
    segment_ids = np.repeat(np.arange(1, S + 1), T // S)[None].repeat(R, 0).astype(np.int32)
    for which in ("", "key_"):
        tokens = random.integers(5, V, (R, T)).astype(np.int32)
        tokens[:, ::4], tokens[:, 3::4] = 3, 1
        batch |= {f"{which}tokens": tokens, f"{which}segment_ids": segment_ids.copy()}
        batch[f"{which}positions"] = np.broadcast_to(np.arange(T, dtype=np.int32) % 4, (R, T))
    group = np.arange(R * S * parts).reshape(R, S, parts).astype(np.int32)
    for row, slot in absent:
        group[row, slot] = -1
        for which in ("", "key_"):
            batch[f"{which}segment_ids"][row, 4 * slot : 4 * slot + 4] = 0
    texts = random.integers(0, 2**32, (2, R, S, parts), dtype=np.uint32)
    return jax.tree.map(jnp.asarray, batch | {"group": group, "text": texts[0], "key_text": texts[1]})


@functools.partial(jax.jit, static_argnames=("model", "level", "pooling"))
def vectors(model, params, rows, level=1, pooling="first"):
    return sentence_vectors(model.bind(params), rows, S, level, pooling)


def assert_same_in_parts(objective, model, params, batch):
    """The gradient must not change where the model reads rows in two parts (`Runtime.accumulate`)."""

    def gradient(network):
        return jax.jit(jax.grad(lambda p: objective.loss(bound(network, p), batch, {}, KEY)[0]))(params)

    parts = jax.tree.map(np.asarray, (gradient(model), gradient(sentence_model(chunks=2))))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), *parts)


def linked_states(model, params, batch):
    """(n,D) twice: the states of mutually nearest tokens by cosine, one sentence pair after another."""
    sides = []
    hidden = jax.jit(lambda p, inputs: model.bind(p["model"]).hidden(inputs, levels=(1,))[1])
    for which in ("", "key_"):
        states = np.asarray(hidden(params, Inputs.of(batch, which)), np.float64)
        tokens, segments = (np.asarray(batch[which + name]) for name in ("tokens", "segment_ids"))
        sides.append([[states[r, (segments[r] == s) & ~SPECIAL[tokens[r]]] for s in range(1, S + 1)] for r in range(R)])
    a, b = [], []
    for x, y in ((sides[0][r][s], sides[1][r][s]) for r in range(R) for s in range(S) if batch["group"][r, s, 0] >= 0):
        cosine = unit(x) @ unit(y).T
        for i, j in enumerate(cosine.argmax(1)):
            if cosine[:, j].argmax() == i:
                a.append(x[i])
                b.append(y[j])
    return np.stack(a), np.stack(b)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)
