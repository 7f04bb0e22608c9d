"""Optimised HLO as text, read: computations, instructions, sizes, and how often loops run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
MOST_TRIPS = 1_000_000


class Shape(NamedTuple):
    """One array of a type: its size in bytes, whether it lies in main memory (not in a TPU's vector memory), its shape."""

    size: int
    main: bool
    dimensions: tuple[int, ...]


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      shapes: of its result; several if it is a tuple.
      operands: names.   rest: everything behind the opening parenthesis.
      called: computations by role: "calls", "body", "condition", "to_apply".
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    called: dict[str, str]
    root: bool

    @property
    def op_name(self) -> str:
        """What JAX called it: "jit(step)/..."; "" if it has no name."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def integer(self, attribute: str) -> int:
        """The value of an attribute such as index=4."""
        return int(re.search(rf"\b{attribute}=(\d+)", self.rest)[1])  # type: ignore[index]


Computation = dict[str, Instruction]


class Visit(NamedTuple):
    """An instruction where it is executed: how often a step runs it, and the loops around it, outermost first."""

    instruction: Instruction
    computation: str
    times: int
    loops: tuple[Instruction, ...]


class Module:
    """A compiled program; `computations` by name, each its instructions by name, in their order."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = self.computations.setdefault(found[2], {})
                self.entry = found[2] if found[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                current[found[2]] = _instruction(found)

    def visits(self) -> Iterator[Visit]:
        """Every instruction that runs, loops and branches opened; what a fusion or an async wrapper calls is not."""
        yield from self._visits(self.entry, 1, ())

    def _visits(self, name: str, times: int, loops: tuple[Instruction, ...]) -> Iterator[Visit]:
        for one in self.computations[name].values():
            yield Visit(one, name, times, loops)
            if one.opcode == "while":
                yield from self._visits(one.called["body"], times * (self.trips(one, name) or 1), (*loops, one))
            elif one.opcode == "call":
                yield from self._visits(one.called["to_apply"], times, loops)
            elif one.opcode == "conditional" and (branches := _BRANCHES.search(one.rest)):
                for branch in branches[1].split(","):
                    yield from self._visits(branch.strip(" %"), times, loops)

    def inside(self, visit: Visit) -> Iterator[tuple[Instruction, Computation]]:
        """The instruction, and those of what it wraps (a fusion, an asynchronous start), each with its computation."""
        yield from self._inside(visit.instruction, self.computations[visit.computation])

    def _inside(self, one: Instruction, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
        yield one, computation
        if wrapped := one.called.get("calls"):
            for each in self.computations[wrapped].values():
                yield from self._inside(each, self.computations[wrapped])

    def trips(self, loop: Instruction, where: str) -> int | None:
        """How often a while loop's body runs; None if that is not known before it runs."""
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        start = self.computations[where].get(loop.operands[0])
        condition, body = (self.computations[loop.called[role]] for role in ("condition", "body"))
        root = result(body)
        if start is None or start.opcode != "tuple" or root.opcode != "tuple":
            return None
        known_now: dict[int, int | None] = {}
        for i, operand in enumerate(start.operands):
            known_now[i] = self._value(self.computations[where], operand, lambda _: None)
        used = self._used(condition)
        previous: tuple = ()
        for trip in range(MOST_TRIPS):
            goes_on = self._value(condition, result(condition).name, known_now.get)
            if goes_on is None:
                return None
            if not goes_on:
                return trip
            now = tuple(self._value(body, root.operands[i], known_now.get) for i in used)
            if now == previous:
                return None
            previous = now
            known_now |= dict(zip(used, now, strict=True))
        return None

    def _used(self, condition: Computation) -> list[int]:
        return sorted({one.integer("index") for one in condition.values() if one.opcode == "get-tuple-element"})

    def _value(self, computation: Computation, name: str, known: Callable[[int], int | None]) -> int | None:
        """An integer scalar, where it follows from constants and the known elements of the computation's tuple."""
        one = computation.get(name)
        if one is None:
            return None
        if one.opcode == "constant":
            found = re.match(r"(-?\d+|true|false)\)", one.rest)
            return None if found is None else int({"true": "1", "false": "0"}.get(found[1], found[1]))
        if one.opcode == "get-tuple-element":
            source = computation[one.operands[0]]
            index = one.integer("index")
            if source.opcode == "tuple":
                return self._value(computation, source.operands[index], known)
            return known(index) if source.opcode == "parameter" else None
        if one.opcode == "parameter":
            return known(int(one.rest.split(")")[0]))
        values = [self._value(computation, operand, known) for operand in one.operands]
        if one.opcode == "fusion":
            called = self.computations[one.called["calls"]]
            return self._value(called, result(called).name, dict(enumerate(values)).get)
        return None if None in values else _compute(one, values)  # type: ignore[arg-type]


def result(computation: Computation) -> Instruction:
    """The instruction whose value a computation returns."""
    return next(one for one in computation.values() if one.root)


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "LT": int.__lt__,
    "LE": int.__le__,
    "GT": int.__gt__,
    "GE": int.__ge__,
    "EQ": int.__eq__,
    "NE": int.__ne__,
}


def _compute(one: Instruction, values: list[int]) -> int | None:
    if one.opcode in ("copy", "convert", "bitcast", "reshape") and len(values) == 1:
        return values[0]
    if one.opcode in ("add", "subtract", "multiply"):
        return {"add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__}[one.opcode](*values)
    if one.opcode == "compare":
        return int(_COMPARISONS[re.search(r"direction=(\w\w)", one.rest)[1]](*values))  # type: ignore[index]
    return None


def _instruction(found: re.Match[str]) -> Instruction:
    inside = found[5][: _closing(found[5])]
    called = dict(_CALLED.findall(found[5]))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(found[2], found[4], shapes(found[3]), operands, found[5], called, bool(found[1]))


def _closing(text: str) -> int:
    """Where the parenthesis that stands open at the start closes."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return at
    return len(text)


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type: "(f32[2,3]{1,0}, s32[])" -> 24 and 4 bytes."""
    found = []
    for dtype, dimensions, layout in _SHAPE.findall(text):
        sizes = tuple(int(dimension) for dimension in dimensions.split(",") if dimension)
        width = _BYTES[dtype] if dtype in _BYTES else max(1, int(re.sub(r"\D", "", dtype.split("e")[0]) or 8) // 8)
        found.append(Shape(width * math.prod(sizes), not re.search(r"S\([1-9]\d*\)", layout), sizes))
    return tuple(found)
