"""FLOPs of the matrix products that a compiled step runs, including recomputed ones."""

from __future__ import annotations

import math
import re

from xalign_jax.scale.hlo import Computation, Instruction, Module


def product_flops(module: Module) -> float:
    """FLOPs that one device spends on matrix products in a step."""
    return float(
        sum(
            visit.times * _flops(one, computation)
            for visit in module.visits()
            for one, computation in module.inside(visit)
            if one.opcode in ("dot", "convolution", "custom-call")
        )
    )


# How many products of (queries, keys, head_dim) a kernel runs, by its name. The backward kernel computes scores again.
_KERNELS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}


def _flops(one: Instruction, computation: Computation) -> int:
    """FLOPs of one run of a dot, a convolution or a custom call."""
    if one.opcode == "custom-call":
        return (_library_flops if '"__cublas' in one.rest else _kernel_flops)(one, computation)
    # Shapes of the operands and of the result.
    left, right, out = (shape.dimensions for shape in _shapes(one, computation))
    if one.opcode == "dot":
        # Two FLOPs for each element of the result and each index that is summed over.
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        summed = [left[int(axis)] for axis in (contracted[1] if contracted else "").split(",") if axis]
        return 2 * math.prod(out) * math.prod(summed)
    # A convolution: features and batch as in a dot, and along each spatial axis the pairs of output and window places.
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {one.rest[:200]}")
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", one.rest) or ["", ""])[1]))
    spatial = [label for label in labels[3] if label.isdigit()]
    pairs = 1
    for number, axis in enumerate(spatial):
        sizes = left[labels[1].index(axis)], out[labels[3].index(axis)]
        pairs *= _pairs(*sizes, {name: value.split("x")[number] for name, value in window.items()})
    features = math.prod(out[labels[3].index(label)] for label in "bf") * right[labels[2].index("i")]
    return 2 * features * pairs


def _library_flops(one: Instruction, computation: Computation) -> int:
    """FLOPs of a product that XLA for GPU leaves to cuBLAS: __cublas$gemm, __cublas$lt$matmul."""
    left = computation[one.operands[0]].shapes[0].dimensions
    contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
    axes = re.findall(r"\d+", contracted[1] if contracted else "")
    return 2 * math.prod(one.shapes[0].dimensions) * math.prod(left[int(axis)] for axis in axes)


def _kernel_flops(one: Instruction, computation: Computation) -> int:
    """FLOPs of the kernel of `models.fused_attention`, whose name says how many keys each query meets; 0 for others."""
    keys = re.search(r"\bkeys_(\d+)", one.op_name)
    products = sum(count for name, count in _KERNELS.items() if name in one.op_name)
    if keys is None or not products:
        return 0
    # The first of four axes is the queries: (rows, heads, T, head_dim).
    query = next(s for name in one.operands for s in computation[name].shapes[:1] if len(s.dimensions) == 4)
    return products * 2 * math.prod(query.dimensions) * int(keys[1])


def _shapes(one: Instruction, computation: Computation) -> tuple:
    """The shapes of a binary product: left operand, right operand, result."""
    left, right = (computation[name].shapes[0] for name in one.operands[:2])
    return left, right, one.shapes[0]


def _pairs(inputs: int, outputs: int, window: dict[str, str]) -> int:
    """Along one axis, the number of pairs of an output place and a window place that meet an input.

    XLA for TPU writes batched products as convolutions in which only a diagonal of the window meets the input.
    """
    size, stride, left, right = (int(window.get(n, 1)) for n in ("size", "stride", "lhs_dilate", "rhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    places = (o * stride + k * right - before for o in range(outputs) for k in range(size))
    return sum(at % left == 0 and 0 <= at // left < inputs for at in places)
