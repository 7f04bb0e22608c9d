"""Reads a trace of JAX's profiler: when a device ran which operation, and when the host waited.

A trace consists of planes (the host, each device), their lines (threads, streams) and the events on them. Times are
nanoseconds.
"""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Span = tuple[float, float]  # (start, end)

_HOST, _OPS, _RUNS = "/host:CPU", "XLA Ops", "XLA Modules"


class Operation(NamedTuple):
    """One execution of an instruction of a compiled program.

    Attributes:
      name: the instruction's, such as "fusion.12".
      program: the name of its program; "" = the trace does not say it.
      run: which execution of the program it belongs to; None = the trace does not say it.
    """

    name: str
    program: str
    run: Hashable
    start: float
    end: float


class Timeline(NamedTuple):
    """What a trace says of the first device of a process.

    Attributes:
      operations: in any order. They may overlap, and a loop overlaps those that it runs.
      runs: executions of whole programs.
      host: spans of the events with the names asked for.
    """

    operations: list[Operation]
    runs: list[Span]
    host: dict[str, list[Span]]


def read(file: Path, names: Iterable[str]) -> Timeline:
    """The timeline in an .xplane.pb file.

    Args:
      names: of the host's events to look for.
    """
    from jax.profiler import ProfileData

    planes = list(ProfileData.from_file(str(file)).planes)
    host: dict[str, list[Span]] = {name: [] for name in names}
    for plane in planes:
        if plane.name == _HOST:
            for event in (event for line in plane.lines for event in line.events):
                if event.name in host:
                    host[event.name].append((event.start_ns, event.start_ns + event.duration_ns))
    # Planes of devices are numbered; a CPU's operations stand on the threads of the host.
    devices = sorted((plane for plane in planes if plane.name.startswith("/device:")), key=lambda plane: plane.name)
    found = next(filter(None, (_operations(plane) for plane in devices)), None)
    operations = found or next((_operations(plane) for plane in planes if plane.name == _HOST), [])
    marked = [event for plane in devices[:1] for line in plane.lines if line.name == _RUNS for event in line.events]
    runs = [(event.start_ns, event.start_ns + event.duration_ns) for event in marked]
    return Timeline(operations, runs or _runs(operations), host)


def _operations(plane: Any) -> list[Operation]:
    """The operations of a device's plane, or of a CPU on the host's."""
    found: list[tuple[int, Operation]] = []
    ends: dict[str, list[float]] = defaultdict(list)
    for line in plane.lines:
        for event in line.events:
            # An operation on a CPU may go on in other threads when its event is over. Another event tells its end.
            if event.name.startswith("end: "):
                ends[event.name[5:]].append(event.start_ns)
                continue
            stats = dict(event.stats)
            if line.name != _OPS and "hlo_op" not in stats:
                continue
            # A TPU's event is named by the text of the instruction: "%fusion.1 = f32[8]{0} fusion(...)".
            name = str(stats.get("hlo_op") or event.name.partition(" = ")[0].removeprefix("%"))
            program, span = str(stats.get("hlo_module", "")), (event.start_ns, event.start_ns + event.duration_ns)
            found.append((int(stats.get("device_ordinal", 0)), Operation(name, program, stats.get("run_id"), *span)))
    first = min((device for device, _ in found), default=0)
    return list(_ended([one for device, one in found if device == first], ends))


def _ended(operations: list[Operation], ends: dict[str, list[float]]) -> Iterator[Operation]:
    """The operations, each at least as long as until its own end and not beyond the next one of its name."""
    by_name: dict[str, list[Operation]] = defaultdict(list)
    for one in sorted(operations, key=lambda one: one.start):
        by_name[one.name].append(one)
    for name, same in by_name.items():
        own = sorted(ends.get(name, ()))
        for one, after in zip(same, [*(each.start for each in same[1:]), float("inf")], strict=True):
            at = bisect.bisect_left(own, one.start)
            ended = own[at] if at < len(own) and own[at] <= after else one.end
            yield one._replace(end=max(one.end, ended))


def _runs(operations: Iterable[Operation]) -> list[Span]:
    """From the first to the last operation of each run that the operations name."""
    spans: dict[Hashable, Span] = {}
    for one in operations:
        if one.run is not None:
            start, end = spans.get((one.program, one.run), (one.start, one.end))
            spans[one.program, one.run] = (min(start, one.start), max(end, one.end))
    return list(spans.values())


def shares(operations: Sequence[Operation], window: Span, wraps: Callable[[Operation], bool]) -> list[float]:
    """How much of the window each operation takes. Operations that run at once share the time in equal parts.

    Args:
      wraps: whether an operation, such as a loop, runs others. It gets the time in which no other one runs.
    """
    taken = [0.0] * len(operations)
    order = sorted(range(len(operations)), key=lambda i: operations[i].start)
    running: list[tuple[float, int]] = []  # heap of (end, number)
    now, at = window[0], 0
    while at < len(order) or running:
        # The next moment at which an operation begins or ends.
        begins = operations[order[at]].start if at < len(order) else float("inf")
        moment = min(begins, running[0][0] if running else float("inf"))
        until = min(max(moment, now), window[1])
        alone = [i for _, i in running if not wraps(operations[i])] or [i for _, i in running]
        for i in alone:
            taken[i] += (until - now) / len(alone)
        now = until
        if begins <= moment:
            heapq.heappush(running, (operations[order[at]].end, order[at]))
            at += 1
        else:
            heapq.heappop(running)
    return taken


def covered(spans: Iterable[Span], window: Span) -> list[Span]:
    """The parts of the window that lie in any of the spans, in order and without overlaps."""
    found: list[Span] = []
    for start, end in sorted(spans):
        start, end = max(start, window[0]), min(end, window[1])
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif start < end:
            found.append((start, end))
    return found


def outside(spans: Sequence[Span], window: Span) -> list[Span]:
    """The parts of the window that lie in none of the spans, which `covered` gave."""
    edges = [window[0], *(edge for span in spans for edge in span), window[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def common(first: Sequence[Span], second: Sequence[Span]) -> float:
    """The time that lies in both of two lists of spans, which `covered` or `outside` gave."""
    total, at = 0.0, 0
    for start, end in first:
        while at < len(second) and second[at][1] <= start:
            at += 1
        for other in second[at:]:
            if other[0] >= end:
                break
            total += min(end, other[1]) - max(start, other[0])
    return total
