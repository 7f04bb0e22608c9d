"""Each view of a tensor, worked out by hand and in both directions; and what a config.json may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.interop.mapping import Fused, Plain, Settings, Shifted, Transposed

VIEWS = [  # view, shapes of our arrays in one tensor of theirs
    (Plain(), [(3, 5)]),
    (Transposed(), [(4, 2, 3)]),
    (Transposed(inputs=2), [(2, 3, 4)]),
    (Shifted(by=2), [(5, 3)]),
    (Shifted(), [(5, 3)]),
    (Fused(heads=2), [(4, 2, 3)] * 3),
    (Fused(heads=2), [(6,)] * 3),
]


@pytest.mark.parametrize(("view", "shapes"), VIEWS, ids=str)
def test_what_is_written_is_read_again_and_has_the_shape_that_is_expected(view, shapes):
    rng = np.random.default_rng(0)
    ours = [rng.normal(size=shape) for shape in shapes]
    tensor = view.write(ours)
    assert tensor.shape == view.theirs(shapes[0])
    for part, array in enumerate(ours):
        reader = Fused(part=part, heads=view.heads) if isinstance(view, Fused) else view
        np.testing.assert_array_equal(reader.read(tensor, array.shape), array)


def test_a_linear_layer_is_transposed():
    kernel = np.arange(24).reshape(4, 2, 3)  # 4 inputs; 2 heads of 3
    weight = Transposed().write([kernel])
    assert weight.shape == (6, 4) and weight[4, 3] == kernel[3, 1, 1]
    back = np.arange(24).reshape(2, 3, 4)  # 2 heads of 3 are the inputs
    weight = Transposed(inputs=2).write([back])
    assert weight.shape == (4, 6) and weight[3, 4] == back[1, 1, 3]


def test_a_fused_layer_holds_query_key_and_value_by_head():
    query, key, value = (100 * n + np.arange(24).reshape(4, 2, 3) for n in (1, 2, 3))  # 4 inputs; 2 heads of 3
    rows = Fused(heads=2).write([query, key, value]).reshape(2, 3, 3, 4)  # head, part, dimension, input
    assert (
        rows[1, 0, 2, 3] == query[3, 1, 2] and rows[0, 1, 1, 0] == key[0, 0, 1] and rows[1, 2, 0, 2] == value[2, 1, 0]
    )


def test_a_position_table_begins_later_than_ours():
    table = Shifted(by=2).write([np.ones((3, 2))])
    assert table.shape == (5, 2) and not table[:2].any() and table[2:].all()
    np.testing.assert_array_equal(Shifted(by=2).read(np.arange(5)[:, None], (3, 1))[:, 0], [2, 3, 4])


def settings(**values):
    return Settings(Path("config.json"), {"model_type": "llama"} | values)


def test_settings_are_asked_for_or_refused():
    found = settings(width=8, act="relu", use_cache=True, odd=False, none=None)
    assert found.get("width") == 8 and found.get("depth", 3) == 3
    with pytest.raises(UserError, match=r"config\.json: no 'depth'"):
        found.get("depth")
    found.only("act", "gelu", "relu")
    found.only("norm", "rms")  # absent
    found.finish()
    with pytest.raises(UserError, match=r"act = 'relu' is not implemented; only 'gelu' or 'silu'"):
        found.only("act", "gelu", "silu")
    for value in (True, 1, "x"):
        with pytest.raises(UserError, match=r"odd = .* is not implemented for llama"):
            settings(odd=value).finish()
    with pytest.raises(UserError, match="a1 = True"):  # the first of them in the order of names
        settings(**{f"{letter}{n}": True for letter in "cba" for n in (2, 1)}).finish()
