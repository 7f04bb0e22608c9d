"""Along which mesh axes an array lies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from jax.sharding import PartitionSpec

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
