"""What takes the time of a traced step, in words: a table for people (`profile.md`) and the same as `profile.json`.

The trace names instructions of the compiled program, such as "fusion.12". The program's text says which operation of
JAX an instruction comes from, and in which named scope it was. `PARTS` has words for these scopes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from xalign_jax.runtime.storage import write_atomically
from xalign_jax.scale.collectives import KINDS
from xalign_jax.scale.hlo import Instruction, Module, Visit
from xalign_jax.scale.timeline import Operation, Span, Timeline, common, covered, outside, read, shares
from xalign_jax.training.tracing import DATA, RESULT, STEP, Traced

# Named scope -> words. Where scopes lie within each other, the innermost of these counts.
PARTS = {
    "attend": "attention: scores, softmax, weighted values",
    "attention": "attention: projections and rotations",
    "mlp": "MLP",
    "norm": "norms",
    "embedding": "embedding",
    "lookup": "rows looked up in a table",
    "rotary_tables": "rotary angles",
    "head": "output head: dense layer and norm",
    "cross_entropy": "output head and cross-entropy",
    "contrast": "contrast",
    "distance": "distances of words",
    "pooling": "pooling of tokens",
    "corruption": "choice of masked tokens",
    "momentum": "momentum encoder and queue",
    "counters": "counters",
    "optimizer": "optimiser: norm, clipping, moments, decay, guard",
    "layers": "blocks: residual sums, states kept for the backward pass",
}
REST, OTHER = "rest of the loss: masks, sums", "other programs"
# Kinds of operations by opcode, the first that an instruction or a fusion holds.
KIND_OF = {
    "matrix products": {"dot", "convolution", "custom-call"},
    "exchange between devices": {*KINDS, *(f"{kind}-start" for kind in KINDS), *(f"{kind}-done" for kind in KINDS)},
    "sorting": {"sort"},
    "lookups": {"gather", "scatter", "dynamic-slice", "dynamic-update-slice"},
    "sums and maxima": {"reduce", "reduce-window"},
    "loops": {"while", "call", "conditional"},
}
ELEMENTS, COPIES = "element by element", "copies"
MOVES = {"copy", "transpose", "bitcast", "reshape", "slice", "concatenate", "broadcast", "parameter", "tuple", "pad"}
WRAPPING = KIND_OF["loops"]
# Time without an operation on the device, by what the host did meanwhile.
BETWEEN, WAITING = "between operations of a step", "waiting for a batch"
CALLING, HOST = "calling the step", "other work of the host: metrics, logs, saving, probes"
MOST = 10


class Meaning(NamedTuple):
    """What an instruction does: the words for its part, its kind and its pass ("" = it belongs to no pass)."""

    part: str
    kind: str
    direction: str


class Program:
    """A compiled program whose instructions have meanings."""

    def __init__(self, text: str) -> None:
        self.name = (re.match(r"HloModule ([\w.\-]+)", text) or ["", ""])[1]
        self._module = Module(text)
        places = self._module.computations.items()
        self._places = {name: (one, where) for where, computation in places for name, one in computation.items()}
        self._known: dict[str, Meaning] = {}

    def wraps(self, operation: Operation) -> bool:
        """Whether the operation is a loop, a call or a branch, which runs others."""
        found = self._places.get(operation.name)
        return found is not None and found[0].opcode in WRAPPING

    def meaning(self, operation: Operation) -> Meaning:
        """What an operation does; those of other programs have no kind."""
        if operation.program not in ("", self.name):
            return Meaning(OTHER, "", "")
        if operation.name not in self._known:
            found = self._places.get(operation.name)
            self._known[operation.name] = Meaning(OTHER, "", "") if found is None else self._means(*found)
        return self._known[operation.name]

    def _means(self, one: Instruction, where: str) -> Meaning:
        inside = [each for each, _ in self._module.inside(Visit(one, where, 1, ()))]
        # A fusion is named by its last operation. One without a name takes the commonest name of what it holds.
        names = [each.op_name for each in inside if "/" in each.op_name]
        name = one.op_name if "/" in one.op_name else max(names, key=names.count, default="")
        return Meaning(part_of(name), _kind(inside), _direction(name))


def part_of(name: str) -> str:
    """The words for the part of a step that an operation of JAX belongs to, from its name "jit(update)/scope/add"."""
    # "jvp(layers)/closed_call/attention/mul" -> jvp, layers, closed_call, attention, mul.
    scopes = re.findall(r"[\w.\-]+", name)
    for scope in reversed(scopes[:-1]):
        if scope in PARTS:
            return PARTS[scope]
    # The loss and its gradient are inside of a transformation, the update is not.
    return REST if "jvp" in scopes else PARTS["optimizer"]


def _direction(name: str) -> str:
    if re.search(r"\b(rematted_computation|checkpoint)\b", name) and "transpose(" in name:
        return "computed again"
    return "backward" if "transpose(" in name else "forward" if "jvp(" in name else ""


def _kind(inside: Sequence[Instruction]) -> str:
    opcodes = {each.opcode for each in inside}
    for kind, known in KIND_OF.items():
        if opcodes & known:
            return kind
    return COPIES if opcodes - {"fusion", "constant"} <= MOVES else ELEMENTS


def report(traced: Traced) -> str:
    """Write `profile.json` and `profile.md` into the folder of a trace; returns the text of `profile.md`."""
    (file, *_) = sorted(traced.folder.rglob("*.xplane.pb"), reverse=True)
    found = summary(read(file, (DATA, STEP)), Program(traced.program), traced)
    text = table(found)
    write_atomically(traced.folder / "profile.md", text + "\n")
    write_atomically(traced.folder / RESULT, json.dumps(found, indent=1) + "\n")
    return text


def summary(timeline: Timeline, program: Program, traced: Traced) -> dict[str, Any]:
    """The figures as plain values. Seconds are those of one step; shares are of a step and add up to 1."""
    # From the call of the first traced step to the end of the last operation.
    start = min((start for start, _ in timeline.host[STEP]), default=0.0)
    window = (start, max((one.end for one in timeline.operations), default=start))
    per_step = 1e9 * traced.steps
    total = max(window[1] - window[0], 1.0) / per_step
    # Operations of the same meaning are one row.
    seconds: dict[Meaning, float] = defaultdict(float)
    times: dict[Meaning, int] = defaultdict(int)
    names: dict[Meaning, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one, taken in zip(timeline.operations, shares(timeline.operations, window, program.wraps), strict=True):
        meaning = program.meaning(one)
        seconds[meaning] += taken / per_step
        times[meaning] += 1
        names[meaning][one.name] += taken / per_step
    operations = [
        {
            **meaning._asdict(),
            "seconds": taken,
            "share": taken / total,
            "times": times[meaning] / traced.steps,
            "instructions": _largest(names[meaning]),
        }
        for meaning, taken in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    parts: dict[str, float] = defaultdict(float)
    for meaning, taken in seconds.items():
        parts[meaning.part] += taken
    idle = {what: taken / per_step for what, taken in _idle(timeline, window).items()}
    return {
        **{key: getattr(traced, key) for key in ("stage", "first_step", "steps", "seconds", "seconds_before")},
        "device": jax.devices()[0].device_kind,
        "device_share": sum(seconds.values()) / total,
        "parts": [_row("part", part, taken, total) for part, taken in sorted(parts.items(), key=lambda item: -item[1])],
        "outside": [_row("cause", cause, taken, total) for cause, taken in idle.items()],
        "operations": operations,
    }


def _row(key: str, name: str, seconds: float, total: float) -> dict[str, Any]:
    return {key: name, "seconds": seconds, "share": seconds / total}


def _largest(names: dict[str, float], most: int = 5) -> list[str]:
    return sorted(names, key=lambda name: -names[name])[:most]


def _idle(timeline: Timeline, window: Span) -> dict[str, float]:
    """Nanoseconds of the window without an operation, by cause. Within a run of a program the host is not the cause."""
    busy = covered(((one.start, one.end) for one in timeline.operations), window)
    runs = covered(timeline.runs, window)
    rest = outside(covered([*busy, *runs], window), window)
    waiting, calling = (common(rest, covered(timeline.host[name], window)) for name in (DATA, STEP))
    length = sum(end - start for start, end in rest)
    within = window[1] - window[0] - sum(end - start for start, end in busy) - length
    return {BETWEEN: within, WAITING: waiting, CALLING: calling, HOST: length - waiting - calling}


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    milliseconds, before = found["seconds"] * 1e3, found["seconds_before"] * 1e3
    last = found["first_step"] + found["steps"] - 1
    largest = found["operations"][:MOST]
    lines = [
        f"# Profile of stage {found['stage']}, steps {found['first_step']} to {last}",
        "",
        f"A step took {milliseconds:.1f} ms on {found['device']}; {before:.1f} ms just before the trace. All times are those "
        "of one step. Operations that run at once share the time.",
        "",
        *_lines(("part of the step",), ("part",), found["parts"]),
        *_lines(("without an operation on the device",), ("cause",), found["outside"]),
        *_lines(("the largest operations", "kind", "pass"), ("part", "kind", "direction"), largest, "times"),
    ]
    return "\n".join(lines).rstrip()


def _lines(titles: Sequence[str], keys: Sequence[str], rows: Sequence[dict[str, Any]], *numbers: str) -> list[str]:
    """A table of texts under their titles, milliseconds, shares, and further numbers, which are their own titles."""
    head = [*titles, "ms", "share", *numbers]
    rule = ["---"] * len(titles) + ["---:"] * (2 + len(numbers))
    cells = [
        [*(row[key] for key in keys), f"{row['seconds'] * 1e3:.2f}", f"{row['share']:.1%}"]
        + [f"{row[name]:g}" for name in numbers]
        for row in rows
    ]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *cells)] + [""]
