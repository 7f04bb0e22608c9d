"""Along which mesh axes an array lies."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import PartitionSpec

from xalign_jax.models.bert import Bert
from xalign_jax.models.gpt_neox import GPTNeoX
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.runtime.sharding import parameter_spec


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "mlp"), (64, 24), ("fsdp", "tensor")),
        (("mlp_rows", "embed"), (24, 64), (("tensor", "fsdp"), None)),
        (("mlp_rows", "embed"), (6, 64), ("tensor", "fsdp")),  # 6 rows are not 8 parts: the width takes fsdp
        (("mlp_rows", "embed"), (5, 62), (None, None)),
        (("heads", "head_rows", "embed"), (2, 8, 64), ("tensor", "fsdp", None)),
        (("heads", "head_rows", "embed"), (3, 6, 64), (None, None, "fsdp")),
        (("layers", "vocab", "embed"), (5, 100, 64), (None, "tensor", "fsdp")),
        (("queue", None), (24, 64), (("data", "fsdp"), None)),
        (("queue", None), (9, 64), ("data", None)),
    ],
)
def test_axes_that_divide_are_used_once(
    axes: tuple[str | None, ...], shape: tuple[int, ...], expected: tuple[object, ...]
) -> None:
    mesh = SimpleNamespace(shape={"data": 3, "fsdp": 4, "tensor": 2})
    assert parameter_spec(axes, shape, mesh) == PartitionSpec(*expected)


SHAPE = dict(layers=1, width=16, heads=2, mlp_width=32, max_length=8)


@pytest.mark.parametrize(
    "config", [Llama(**SHAPE, kv_heads=1), GPTNeoX(**SHAPE), XLMRoberta(**SHAPE), Bert(**SHAPE)], ids=str
)
def test_matrices_of_a_block_that_lead_back_to_the_width_lie_along_their_rows(config: object) -> None:
    blocks = build(config, 8).logical_axes()["layers"]
    leaves = jax.tree.leaves(blocks, is_leaf=lambda node: isinstance(node, tuple))
    back = [axes for axes in leaves if axes[-1] == "embed" and len(axes) > 2]
    assert len(back) == 2 and all(axes[-2].endswith("_rows") for axes in back)
