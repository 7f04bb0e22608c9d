"""BERT: the parameters that it shares with XLM-R, positions, pooler, errors. test_hugging_face.py checks its states."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs
from xalign_jax.models.bert import Bert
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta

V, LENGTH = 40, 12
SHAPE = dict(layers=2, width=24, heads=3, mlp_width=20, max_length=LENGTH, types=2)


def shapes(model):
    return jax.tree.map(lambda a: a.shape, model.shapes)


def test_tree_is_that_of_xlm_r_but_for_positions_and_pooler():
    ours, theirs = (shapes(build(kind(**SHAPE), V)) for kind in (Bert, XLMRoberta))
    assert ours.pop("positions") == (LENGTH, 24) and theirs.pop("positions") == (LENGTH + 2, 24)
    assert ours == theirs
    pooler = shapes(build(Bert(**SHAPE, pooler=True), V)).pop("pooler")
    assert pooler == {"weight": (24, 24), "bias": (24,)}


def test_pooler_costs_no_token_anything():
    plain, pooled = (build(Bert(**SHAPE, pooler=flag), V) for flag in (False, True))
    assert plain.flops_per_token(10) == pooled.flops_per_token(10)


def test_position_p_reads_row_p():
    model = build(Bert(**SHAPE, norm_eps=1e-5), V)
    params = jax.jit(model.init)(jax.random.key(0))
    params["positions"] = params["positions"].at[LENGTH - 1].set(0)
    batch = (np.full((1, LENGTH), 3), np.arange(LENGTH)[None], np.ones((1, LENGTH), np.int32))
    last = jax.jit(lambda p: model.bind(p).hidden(Inputs(*batch), levels=(0,)))(params)[0][0, -1]
    row = np.asarray(params["embedding"][3] + params["types"][0])
    np.testing.assert_allclose(last, (row - row.mean()) / np.sqrt(row.var() + 1e-5), atol=1e-5)


def test_errors_name_the_binding():
    with pytest.raises(UserError, match=r"Bert\.heads = 5 must divide Bert\.width = 24"):
        Bert(**(SHAPE | dict(heads=5)))
    with pytest.raises(UserError, match=r"Bert\.activation = 'gelu_10'"):
        Bert(**SHAPE, activation="gelu_10")
    with pytest.raises(UserError, match=r"Bert\.max_length = 12"):
        build(Bert(**SHAPE), V).bind({}).hidden(Inputs(*np.zeros((3, 1, 13), np.int32)), levels=(0,))
