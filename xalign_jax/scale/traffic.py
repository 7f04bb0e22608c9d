"""Estimates the bytes that a compiled step reads from and writes to a chip's main memory, from its instructions."""

from __future__ import annotations

from xalign_jax.scale.hlo import Computation, Instruction, Module, result

# Instructions that move nothing themselves: names for arrays that exist, and loops and calls, whose bodies count.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "optimization-barrier", "iota", "broadcast"),
}
_PARTIAL = {"dynamic-slice", "slice", "gather"}  # read no more than they return


def traffic(module: Module) -> float:
    """Bytes of a step. Values within a fusion and values in a TPU's vector memory cost nothing.

    An asynchronous operation counts at its start.
    """
    return float(
        sum(
            visit.times * _bytes(module, module.computations[visit.computation], visit.instruction)
            for visit in module.visits()
            if visit.instruction.opcode not in _FREE and not visit.instruction.opcode.endswith(("-done", "-update"))
        )
    )


def _bytes(module: Module, computation: Computation, one: Instruction) -> int:
    """Bytes that one run of an instruction reads and writes."""
    if one.opcode == "fusion":
        return _fusion(computation, one, module.computations[one.called["calls"]])
    # Slices and updates in place read and write the part alone.
    if one.opcode in _PARTIAL:
        return 2 * _main(one)
    if one.opcode == "dynamic-update-slice":
        return 2 * _main(computation[one.operands[1]])
    if one.opcode == "slice-start":  # its result names operand and slice; only the slice is read
        whole, part = one.shapes[:2]
        return part.size * (whole.main + part.main)
    if one.opcode.endswith("-start"):  # its result names both operand and result
        return _main(one)
    return _main(one) + sum(_main(computation[name]) for name in one.operands if name in computation)


def _fusion(computation: Computation, one: Instruction, inside: Computation) -> int:
    """Bytes of a fusion's operands and results.

    For an operand that is only sliced, the slices count. For one that is updated in place, the update counts, read and
    written.
    """
    root = result(inside)
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    updates = [each for each in roots if each.opcode == "dynamic-update-slice"]
    written = {each.operands[0] for each in updates}
    total = sum(2 * sum(shape.size for shape in inside[each.operands[1]].shapes) for each in updates)
    # Results, except those updated in place.
    results = [shape for shape, each in zip(one.shapes, roots, strict=False) if each not in updates]
    total += sum(shape.size for shape in results if shape.main)
    # Operands, except those updated in place.
    parameters = [each for each in inside.values() if each.opcode == "parameter"]
    for each in parameters:
        operand = one.operands[int(each.rest.split(")")[0])]
        if each.name in written or operand not in computation:
            continue
        users = [user for user in inside.values() if each.name in user.operands]
        if users and all(user.opcode in _PARTIAL for user in users):
            total += sum(shape.size for user in users for shape in user.shapes)
        else:
            total += _main(computation[operand])
    return total


def _main(one: Instruction) -> int:
    """Bytes of a result in main memory. A tuple counts as 0: its elements are read by their own names."""
    if len(one.shapes) > 1 and one.opcode in ("while", "fusion", "tuple", "parameter"):
        return 0
    return sum(shape.size for shape in one.shapes if shape.main)
