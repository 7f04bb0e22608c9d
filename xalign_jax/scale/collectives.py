"""The collectives of a compiled step: how often each runs, in which loop, and how many bytes the chips send."""

from __future__ import annotations

import itertools
import math
import re
from typing import NamedTuple

from xalign_jax.scale.hlo import Computation, Instruction, Module, Visit

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
LAYERS = re.compile(r"\blayers\b")  # the name scope of the scan over layers in models/blocks.py
# Between slices a TPU program sends through its host; the attribute says which collective the transfer belongs to.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# XLA cuts products of gathered or scattered operands into loops of permutes, and names the loops so.
_WINDOWED = {"_ag": "all-gather", "_rs": "reduce-scatter"}


class Collective(NamedTuple):
    """A collective of the program.

    Attributes:
      kind: one of KINDS; between slices of TPUs the runtime's own name, for example for a lone transfer.
      windowed: XLA has cut the collective into permutes between the parts of a matrix product; each is one entry.
      bytes: size of the operand or the result on one chip, whichever is larger.
      sent: bytes that each chip sends if the chips form a ring, the fewest that the collective allows.
      chips: how many chips take part together.
      crosses: some of these chips lie in different slices.
      times: how often a step runs it.
      layers: it runs inside the loop over layers.
      name: the name that JAX gave the operation.
    """

    kind: str
    windowed: bool
    bytes: int
    sent: float
    chips: int
    crosses: bool
    times: int
    layers: bool
    name: str


def collectives(module: Module, devices: int, slices: int = 1) -> list[Collective]:
    """All collectives of a program. The parts of an asynchronous one count once.

    Args:
      devices: how many devices the program runs on; the devices of a slice are numbered one after another.
    """
    found = []
    for visit in module.visits():
        for one, _ in module.inside(visit):
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(_collective(module, visit, one, kind, devices, slices))
            elif kind == "send" and (transfer := _TRANSFER.search(one.rest)):
                found.append(_between_slices(visit, one, transfer, slices))
    # XLA may spread the parts of one collective into loops that run meanwhile: the part that runs least often counts.
    unique: dict[tuple, Collective] = {}
    for key, each in found:
        if key not in unique or each.times < unique[key].times:
            unique[key] = each
    return list(unique.values())


def _collective(
    module: Module, visit: Visit, one: Instruction, kind: str, devices: int, slices: int
) -> tuple[tuple, Collective]:
    """The collective and a key that identifies it; the parts of an asynchronous one share its channel."""
    if kind == "all-reduce" and "all-reduce-scatter" in visit.instruction.rest:
        kind = "reduce-scatter"  # TPUs write it as a fusion of an all-reduce and a slice
    groups = _groups(one.rest, devices)
    chips = len(groups[0])
    # The larger of operand and result. A start's result names both; a reduce-scatter's operand is its result x chips.
    size = max(shape.size for shape in one.shapes) if one.opcode.endswith("-start") else _size(one)
    if one.opcode == "reduce-scatter":
        size *= chips
    windowed = _windowed(module, visit) if kind == "collective-permute" else None
    # In a ring, each chip sends all but its own part of the array; an all-reduce does so twice, a permute sends all.
    share = (chips - 1) / max(chips, 1)
    ring = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, share)
    # Devices of a slice are numbered one after another, so the number tells the slice.
    per_slice = devices // slices
    crosses = slices > 1 and any(len({device // per_slice for device in group}) > 1 for group in groups)
    channel = re.search(r"channel_id=(\d+)", one.rest) if visit.instruction is not one else None
    key = (kind, channel[1]) if channel else (visit.computation, one.name)
    sent, inside = ring * size, _in_layers(visit)
    found = Collective(
        windowed or kind, windowed is not None, size, sent, chips, crosses, visit.times, inside, one.op_name
    )
    return key, found


def _between_slices(visit: Visit, one: Instruction, transfer: re.Match[str], slices: int) -> tuple[tuple, Collective]:
    """The transfer that a TPU program's send hands to its host for the other slices, and its key."""
    kind, size = transfer[1].lower().replace("_", "-"), one.shapes[0].size
    sent = size * 2 * (slices - 1) / slices if kind == "all-reduce" else float(size)
    found = Collective(kind, False, size, sent, slices, True, visit.times, _in_layers(visit), one.op_name)
    return (visit.computation, one.name), found


def _in_layers(visit: Visit) -> bool:
    """True inside the loop over layers."""
    return any(LAYERS.search(loop.op_name) for loop in visit.loops)


def _size(one: Instruction) -> int:
    """Bytes of a result, all elements of a tuple together."""
    return sum(shape.size for shape in one.shapes)


def _windowed(module: Module, visit: Visit) -> str | None:
    """The collective that a permute is a part of; None if it is one of its own.

    It is a part if it stands in the loop of a product that XLA has cut, or if it feeds or reads such a loop.
    """
    if visit.loops and (kind := _window_of(visit.loops[-1])):
        return kind
    computation = module.computations[visit.computation]
    for loop in computation.values():
        if (kind := _window_of(loop)) and (
            _reaches(computation, loop.name, visit.instruction.name)
            or _reaches(computation, visit.instruction.name, loop.name)
        ):
            return kind
    return None


def _window_of(loop: Instruction) -> str | None:
    """The collective that a loop's name says it was made of; None for other loops."""
    found = re.search(r"windowed_dot_general_body(_ag|_rs)", loop.called.get("body", ""))
    return _WINDOWED[found[1]] if found else None


# Instructions that only pass their operands on.
_CHEAP = (
    "get-tuple-element",
    "tuple",
    "copy",
    "bitcast",
    "collective-permute-start",
    "collective-permute-done",
    "fusion",
)


def _reaches(computation: Computation, name: str, source: str) -> bool:
    """True if `name` reads `source`, directly or through instructions that only pass it on."""
    seen, open_names = set(), list(computation[name].operands)
    while open_names:
        at = open_names.pop()
        if at == source:
            return True
        one = computation.get(at)
        if one is not None and at not in seen and one.opcode in _CHEAP:
            seen.add(at)
            open_names += one.operands
    return False


def _groups(text: str, devices: int) -> list[list[int]]:
    """The groups of devices that take part together. HLO has several ways to write them."""
    # {{0,1},{1,2}}: source and target of each permute.
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    # {{0,1},{2,3}}: the groups, one after another.
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    # [2,4]<=[8]T(..): two groups of four, from the numbers of a transposed array.
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={_IOTA}", text):
        return _rows(_iota(iota[3], iota[4]), int(iota[2]))
    # mesh['data'=2,'fsdp'=4] {'fsdp'}: groups along some axes of a mesh; move these axes last and cut.
    if mesh := re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? ?\{{([^}}]*)\}}", text):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        together = re.findall(r"'([^']+)'", mesh[4])
        names = [name for name in axes if name not in together] + together
        sizes, order = ",".join(map(str, axes.values())), ",".join(str(list(axes).index(name)) for name in names)
        ids = _iota(mesh[2], mesh[3]) if mesh[2] else list(range(devices))
        return _rows([ids[i] for i in _iota(sizes, order)], math.prod(axes[name] for name in together))
    return [list(range(devices))]


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"  # "[2,4]T(1,0)": the numbers 0, 1, .. in an array of 2 x 4, transposed


def _iota(sizes: str, order: str | None) -> list[int]:
    """The numbers of an array that `_IOTA` matches, flat. `sizes`: its shape; `order`: axes of the transposition."""
    lengths = [int(n) for n in sizes.split(",")]
    axes = [int(n) for n in order.split(",")] if order else list(range(len(lengths)))
    strides = [math.prod(lengths[i + 1 :]) for i in range(len(lengths))]
    return [
        sum(index * strides[axis] for index, axis in zip(indices, axes, strict=True))
        for indices in itertools.product(*(range(lengths[axis]) for axis in axes))
    ]


def _rows(flat: list[int], length: int) -> list[list[int]]:
    """A flat list cut into rows of `length`."""
    return [flat[i : i + length] for i in range(0, len(flat), length)]
