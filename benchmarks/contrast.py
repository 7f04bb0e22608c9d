"""infonce with a large queue against PyTorch, forward and backward, on the CPU.

    python benchmarks/contrast.py [--queue=131072] [--width=256] [--queries=256] [--rounds=8] [--other_python=python]
                                  [--json=FILE]

XlCo's contrast: every query against its own key and the queue, summed, with gradients of the queries. `plain` is the
published form, without masks. In `masked` both sides drop queue rows that share a query's group. The other side runs in
a process of its own on the same arrays (--other_python needs torch and numpy only). Its loss and gradient are checked
against ours. Rounds of the two alternate; a ratio is the median over rounds of (theirs / ours) wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, add_json, write

TAU, STEPS, GROUPS = 0.25, 3, 10_000
FORMS = ("plain", "masked")
Step = Callable[[], tuple[float, np.ndarray]]


def draw(queue: int, width: int, queries: int) -> dict[str, Any]:
    """Vectors with dot products of about unit variance, and groups."""
    rng = np.random.default_rng(0)
    shapes = {"query": queries, "key": queries, "queue": queue}
    arrays = {name: rng.normal(size=(n, width)).astype(np.float32) / width**0.25 for name, n in shapes.items()}
    groups = {f"{name}_group": rng.integers(0, GROUPS, n).astype(np.int32) for name, n in shapes.items()}
    return arrays | groups | {"key_group": groups["query_group"]}


def ours(arrays: dict[str, Any], masked: bool) -> Step:
    """Our step: the loss and its gradient, on arrays that are on the device already."""
    import jax

    from xalign_jax.objectives.parts.candidates import Ids
    from xalign_jax.objectives.parts.contrast import infonce

    def ids(name: str, own: Any) -> Ids:
        # (N, 1) groups; without masks, rows have no groups, (N, 0). No row has a text.
        group = arrays[f"{name}_group"][:, None]
        nothing: Any = np.zeros((len(group), 0), np.int32)
        return jax.tree.map(jax.numpy.asarray, Ids(own, group if masked else nothing, nothing))

    pairs = np.arange(len(arrays["query"]))
    query_ids, key_ids = ids("query", pairs), ids("key", pairs)
    # No query is the pair of a queue row: numbers of pairs begin at 0.
    queue_ids = ids("queue", np.full(len(arrays["queue"]), -2))

    def loss(query, key, queue, *of):
        return infonce(query, key, of[0], of[1], TAU, in_batch=False, queue=queue, queue_ids=of[2]).loss

    step = jax.jit(jax.value_and_grad(loss))
    given = jax.device_put((arrays["query"], arrays["key"], arrays["queue"], query_ids, key_ids, queue_ids))
    return lambda: jax.tree.map(np.asarray, step(*given))


def theirs(arrays: dict[str, Any], masked: bool) -> Step:
    """PyTorch's step: a dense softmax over the own key and the queue."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    query = tensors["query"].requires_grad_()
    target = torch.zeros(len(query), dtype=torch.long)

    def step() -> tuple[float, np.ndarray]:
        query.grad = None
        own = (query * tensors["key"]).sum(1, keepdim=True)
        past = query @ tensors["queue"].T
        if masked:
            shared = tensors["query_group"][:, None] == tensors["queue_group"]
            past = past.masked_fill(shared, torch.finfo(torch.float32).min)
        logits = torch.cat([own, past], 1) / TAU
        loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        loss.backward()
        assert query.grad is not None
        return loss.item(), query.grad.numpy()

    return step


def seconds(step: Step) -> float:
    """Wall seconds a step."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def serve(file: str, threads: int) -> None:
    """The other side: a line on stdin names a form, the answer is loss, gradient length and seconds per step."""
    import torch

    torch.set_num_threads(threads)
    with np.load(file) as stored:
        arrays = dict(stored)
    steps = {form: theirs(arrays, form == "masked") for form in FORMS}
    for line in sys.stdin:
        loss, gradient = steps[line.strip()]()
        answer = [float(loss), float(np.linalg.norm(gradient)), seconds(steps[line.strip()])]
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--other_python", default=sys.executable)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    # JAX takes the number of its threads from this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.serve:
        serve(options.serve, options.threads)
        return
    arrays = draw(options.queue, options.width, options.queries)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, **arrays)
        command = [options.other_python, __file__, f"--serve={file}", f"--threads={options.threads}"]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as other:
            # Leaving closes the pipes, which ends the other side.
            write(options.json, compare(arrays, other, options))


def compare(arrays: dict[str, Any], other: subprocess.Popen, options: argparse.Namespace) -> list[Row]:
    """Check that both sides agree, then time them in turns; prints a line for each form and returns it as a row."""

    def ask(form: str) -> list[float]:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(form + "\n")
        other.stdin.flush()
        return json.loads(other.stdout.readline())

    steps = {form: ours(arrays, form == "masked") for form in FORMS}
    rounds: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    # Also compiles both forms, outside of the time.
    for form, step in steps.items():
        loss, gradient = step()
        other_loss, other_length, _ = ask(form)
        np.testing.assert_allclose(float(loss), other_loss, rtol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(gradient), other_length, rtol=1e-4)
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for form, step in steps.items():
            rounds[form].append((seconds(step), ask(form)[2]))
    print(f"{options.queries} queries, queue {options.queue} x {options.width}, {options.threads} threads; ", end="")
    print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    found = []
    for form, times in rounds.items():
        own, other_time = (statistics.median(side) * 1e3 for side in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{form:8} ours {own:8.1f} ms   PyTorch {other_time:8.1f} ms   ratio {ratio:.2f}")
        case = f"{options.queries} queries, queue {options.queue} x {options.width}, {form}"
        found.append(Row(case, own, "ms", other_time, ratio, "other: PyTorch; wall time"))
    return found


if __name__ == "__main__":
    main()
