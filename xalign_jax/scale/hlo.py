"""Reads optimised HLO text: computations, instructions, their sizes, and how often loops run.

A program is a set of computations; each is a list of instructions, one a line. Loops, fusions and branches name the
computations that they call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# "ENTRY %main.5 (p0: f32[2]) -> f32[2] {", and "  ROOT %add.3 = f32[2]{0} add(%p0, %p0), metadata={...}".
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# XLA writes the number of trips into the backend configuration of many loops.
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# The size of an element, for types whose name does not end in the number of bits.
_BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
MOST_TRIPS = 1_000_000  # a loop that is followed for longer counts as unknown


class Shape(NamedTuple):
    """One array of a type.

    Attributes:
      size: bytes.
      main: it lies in main memory and not in a TPU's vector memory.
      dimensions: its shape.
    """

    size: int
    main: bool
    dimensions: tuple[int, ...]


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      shapes: the arrays of its result; several if it is a tuple.
      operands: names of the instructions that it reads.
      rest: the text behind the opening parenthesis: operands and attributes.
      called: names of computations by role: "calls", "body", "condition", "to_apply".
      root: its value is the result of the computation.
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
        """The name that JAX gave the operation, "jit(step)/..."; "" if it has none."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def integer(self, attribute: str) -> int:
        """The value of an attribute such as index=4."""
        return int(re.search(rf"\b{attribute}=(\d+)", self.rest)[1])  # type: ignore[index]


Computation = dict[str, Instruction]


class Visit(NamedTuple):
    """An instruction at a place where it is executed.

    Attributes:
      computation: the name of the computation that it stands in.
      times: how often a step runs it.
      loops: the loops around it, the outermost first.
    """

    instruction: Instruction
    computation: str
    times: int
    loops: tuple[Instruction, ...]


class Module:
    """A compiled program.

    Attributes:
      computations: by name; each holds its instructions by name, in their order.
      entry: the name of the computation that the program starts with.
    """

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
        """Every instruction that runs, also those in loops, calls and branches, but not those within a fusion or an
        asynchronous wrapper (see `inside`)."""
        yield from self._visits(self.entry, 1, ())

    def _visits(self, name: str, times: int, loops: tuple[Instruction, ...]) -> Iterator[Visit]:
        for one in self.computations[name].values():
            yield Visit(one, name, times, loops)
            # A loop's body counts as often as it runs; once if that is unknown. All branches of a conditional count.
            if one.opcode == "while":
                yield from self._visits(one.called["body"], times * (self.trips(one, name) or 1), (*loops, one))
            elif one.opcode == "call":
                yield from self._visits(one.called["to_apply"], times, loops)
            elif one.opcode == "conditional" and (branches := _BRANCHES.search(one.rest)):
                for branch in branches[1].split(","):
                    yield from self._visits(branch.strip(" %"), times, loops)

    def inside(self, visit: Visit) -> Iterator[tuple[Instruction, Computation]]:
        """The instruction and those that it wraps (as a fusion or an asynchronous start), each with its computation."""
        yield from self._inside(visit.instruction, self.computations[visit.computation])

    def _inside(self, one: Instruction, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
        yield one, computation
        if wrapped := one.called.get("calls"):
            for each in self.computations[wrapped].values():
                yield from self._inside(each, self.computations[wrapped])

    def trips(self, loop: Instruction, where: str) -> int | None:
        """How often the body of a while loop runs; None if that cannot be told from the text.

        Args:
          where: the name of the computation that the loop stands in.
        """
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        # XLA does not say it, so run the loop's counters: integers that follow from constants.
        start = self.computations[where].get(loop.operands[0])
        condition, body = (self.computations[loop.called[role]] for role in ("condition", "body"))
        root = result(body)
        if start is None or start.opcode != "tuple" or root.opcode != "tuple":
            return None
        # Element of the loop's tuple -> its value before the first trip, None where it is not a known integer.
        known_now: dict[int, int | None] = {}
        for i, operand in enumerate(start.operands):
            known_now[i] = self._value(self.computations[where], operand, lambda _: None)
        # Only elements that the condition reads are followed. A trip that changes none of them would never end.
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
        """The elements of the loop's tuple that its condition reads."""
        return sorted({one.integer("index") for one in condition.values() if one.opcode == "get-tuple-element"})

    def _value(self, computation: Computation, name: str, known: Callable[[int], int | None]) -> int | None:
        """The value of an integer scalar, None if it does not follow from constants and known inputs.

        Args:
          known: number of an element of the computation's tuple (or of a parameter, in a fusion) -> its value.
        """
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
        # Arithmetic of values; a fusion computes the root of its own computation from them.
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
    """The value of an instruction on integer scalars; None for operations that loop counters do not use."""
    if one.opcode in ("copy", "convert", "bitcast", "reshape") and len(values) == 1:
        return values[0]
    if one.opcode in ("add", "subtract", "multiply"):
        return {"add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__}[one.opcode](*values)
    if one.opcode == "compare":
        return int(_COMPARISONS[re.search(r"direction=(\w\w)", one.rest)[1]](*values))  # type: ignore[index]
    return None


def _instruction(found: re.Match[str]) -> Instruction:
    # Operands are the names within the parentheses; names of called computations come after them.
    inside = found[5][: _closing(found[5])]
    called = dict(_CALLED.findall(found[5]))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(found[2], found[4], shapes(found[3]), operands, found[5], called, bool(found[1]))


def _closing(text: str) -> int:
    """The index of the parenthesis that closes the one before the text."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return at
    return len(text)


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type: "(f32[2,3]{1,0}, s32[])" -> 24 and 4 bytes."""
    found = []
    # An element's bits are the digits of its type ("f32", "s8", "f8e4m3"); S(1) and up in a layout is vector memory.
    for dtype, dimensions, layout in _SHAPE.findall(text):
        sizes = tuple(int(dimension) for dimension in dimensions.split(",") if dimension)
        width = _BYTES[dtype] if dtype in _BYTES else max(1, int(re.sub(r"\D", "", dtype.split("e")[0]) or 8) // 8)
        found.append(Shape(width * math.prod(sizes), not re.search(r"S\([1-9]\d*\)", layout), sizes))
    return tuple(found)
