"""Nearest neighbours by cosine: time beside faiss, and peak memory.

    python benchmarks/neighbours.py [--queries=10000] [--candidates=10000] [--width=384] [--k=4] [--runs=3] [--no_faiss]
                                    [--json=FILE]

Prints wall and CPU seconds of `alignment.neighbours.neighbours`, of faiss's flat index over the same unit vectors, their
ratios, and the peak memory of this process. On a busy machine compare CPU seconds. Runs alternate, and the least counts.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from rows import Row, add_json, write

from xalign_jax.alignment.neighbours import Neighbours, neighbours, unit


def timed(search: Callable[[], Neighbours]) -> tuple[float, float, Neighbours]:
    """Wall seconds, CPU seconds of all threads, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = search()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def flat(queries: np.ndarray, candidates: np.ndarray, k: int) -> Neighbours:
    """The same search by faiss, with the index built anew."""
    import faiss

    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(unit(candidates))
    return Neighbours(*index.search(unit(queries), k))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("queries", 10_000), ("candidates", 10_000), ("width", 384), ("k", 4), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--no_faiss", action="store_true")
    add_json(parser)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    sizes = (given.queries, given.candidates)
    queries, candidates = (rng.standard_normal((size, given.width), np.float32) for size in sizes)
    searches = {"ours": lambda: neighbours(queries, candidates, given.k)}
    if not given.no_faiss:
        searches["faiss"] = lambda: flat(queries, candidates, given.k)
    # Compiling is not counted.
    neighbours(queries[:2048], candidates[:4096], given.k)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    found = {}
    for _ in range(given.runs):
        for name, search in searches.items():
            wall, cpu, found[name] = timed(search)
            times[name].append((wall, cpu))
    least = {name: tuple(min(column) for column in zip(*values, strict=True)) for name, values in times.items()}
    print(f"{given.queries} x {given.candidates} x {given.width}, k = {given.k}")
    for name, (wall, cpu) in least.items():
        print(f"{name:>6}: {wall:8.2f} s wall {cpu:8.2f} s CPU")
    case, notes, others, ratios = (
        f"{sizes[0]} x {sizes[1]} x {given.width}",
        "no other side",
        (None, None),
        (None, None),
    )
    if "faiss" in found:
        (wall, cpu), (other_wall, other_cpu) = least["ours"], least["faiss"]
        same = (found["ours"].indices == found["faiss"].indices).mean()
        print(f"faiss / ours: {other_wall / wall:.2f} wall, {other_cpu / cpu:.2f} CPU; same neighbours: {same:.6f}")
        others, ratios = (other_wall, other_cpu), (other_wall / wall, other_cpu / cpu)
        notes = f"other: faiss, flat; same neighbours: {same:.4%}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    arrays = (queries.nbytes + candidates.nbytes) / 2**20
    print(
        f"peak memory {peak:.0f} MiB: {arrays:.0f} MiB of vectors, {peak - before:.0f} MiB more than before the search"
    )
    clocks = zip(("wall", "CPU"), least["ours"], others, ratios, strict=True)
    rows = [Row(f"{case}, {clock} time", own, "s", other, ratio, notes) for clock, own, other, ratio in clocks]
    write(given.json, [*rows, Row(f"{case}, memory of the search", peak - before, "MiB")])


if __name__ == "__main__":
    main()
