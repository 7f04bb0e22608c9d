"""A decoder's step on one accelerator against transformers with torch.compile and flash attention: under ten minutes.

    python benchmarks/accelerator.py [--shapes=150m,1.3b] [--steps=10] [--json=FILE]     # on a machine with one GPU
    JAX_PLATFORMS=cpu python benchmarks/accelerator.py --shapes=tiny --steps=2           # a rehearsal on a CPU

NOT YET RUN ON AN ACCELERATOR: so far only the rehearsal was run, which checks the commands, the equal weights and the
comparison of losses with tiny shapes. It says nothing of speed, memory or flash attention.

Both sides take the same step, as in decoder.py: the same weights, rows of 2,048 tokens without padding, products in
bfloat16, parameters and moments in float32, clipping, AdamW (theirs is fused). Theirs is LlamaForCausalLM under autocast and
torch.compile; on a GPU its attention is PyTorch's flash attention. Each side has a process and the accelerator to itself.
"of the peak" is the share of the chip's published bfloat16 rate (`runtime/hardware.py`) that the model's FLOPs reach.

Losses: a third process takes the same first steps on one row on the accelerator, a fourth one on the CPU in float32. The
largest difference is shown relative to the loss; the goal is 2e-3. The exit code is 1 above it, or if a side failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rows import Row, add_json, facts, machine, table, write

LIMIT = 2e-3  # of losses, relative
WARM = 3  # steps that are not timed: the first one compiles
# Name -> (layers, width, heads, mlp_width), rows, tokens; those of gin/models.
SHAPES: dict[str, tuple[tuple[int, int, int, int], int, int]] = {
    "tiny": ((2, 64, 2, 128), 2, 64),
    "150m": ((12, 1024, 16, 2688), 8, 2048),
    "1.3b": ((24, 2048, 16, 5504), 4, 2048),
}
PIECES = {"tiny": 512}
CPU_STEPS = {"tiny": 3, "150m": 3, "1.3b": 1}


def case_of(name: str, rows: int | None = None) -> Any:
    """The case of decoder.py for a shape."""
    from decoder import Case

    from xalign_jax.models.llama import Llama

    (layers, width, heads, mlp_width), usual, length = SHAPES[name]
    shape = Llama(layers, width, heads, heads, mlp_width, max_length=length)
    return Case(shape, PIECES.get(name, 32_000), rows or usual, length)


def timed(step: Callable[[], float], steps: int) -> dict[str, Any]:
    """Seconds of a step, and all losses. A step returns its loss, so that it has ended."""
    losses, seconds = [], []
    for _ in range(WARM + steps):
        begun = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - begun)
    return {"losses": losses, "seconds": statistics.median(seconds[WARM:])}


def ours(name: str, steps: int) -> dict[str, Any]:
    """Our step on the accelerator."""
    import decoder
    import jax

    from xalign_jax.runtime.hardware import peak_flops

    case = case_of(name)
    found = timed(decoder.ours(case, "bfloat16"), steps)
    flops = decoder.initial(case).flops_per_token(case.length) * case.rows * case.length
    # A CPU has no statistics of memory.
    memory = jax.devices()[0].memory_stats() or {}
    peak = peak_flops()
    return found | {
        "device": jax.devices()[0].device_kind,
        "memory": memory.get("peak_bytes_in_use", 0) / 2**30,
        "peak": None if peak is None else flops / found["seconds"] / peak,
        "flops": flops,
    }


def losses(name: str, dtype: str) -> dict[str, Any]:
    """The losses of our first steps on one row."""
    import decoder

    step = decoder.ours(case_of(name, rows=1), dtype)
    return {"losses": [step() for _ in range(CPU_STEPS[name])]}


def theirs(name: str, steps: int) -> dict[str, Any]:
    """The step of transformers on a GPU, or on the CPU for a rehearsal."""
    import decoder
    import jax
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = case_of(name)
    # The weights are drawn by JAX on the CPU: PyTorch has the accelerator to itself.
    start = jax.device_get(jax.jit(decoder.initial(case).init)(jax.random.key(0)))
    network = decoder.hugging_face(case, start)
    network.set_attn_implementation("sdpa")
    torch.nn.Module.to(network, device)  # in place
    del start
    torch.set_float32_matmul_precision("high")
    step = decoder.loop(case, network, "bfloat16", compiled=True, fused=True, device=device)
    # On a GPU nothing but flash attention: an error is better than a slower kernel that nobody notices.
    kernels = [SDPBackend.FLASH_ATTENTION] if device == "cuda" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        found = timed(step, steps)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return found | {"memory": memory, "device": device}


def part(name: str, side: str, steps: int) -> dict[str, Any]:
    """What one process measures."""
    if side == "ours":
        return ours(name, steps)
    if side == "theirs":
        return theirs(name, steps)
    return losses(name, "float32" if side == "cpu" else "bfloat16")


def measured(name: str, side: str, steps: int) -> dict[str, Any]:
    """`part` in a process of its own; {"failed": why} if it failed."""
    environment = dict(os.environ)
    # The sides that need JAX on the CPU only must not take the accelerator's memory.
    if side in ("theirs", "cpu"):
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, __file__, f"--shapes={name}", f"--side={side}", f"--steps={steps}"]
    begun = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(f"{name}, {side}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        last = next(reversed([text for text in done.stderr.splitlines() if text.strip()]), "no message")
        return {"failed": " ".join(last.replace("|", "/").split())[:200]}
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(name: str, found: dict[str, dict[str, Any]]) -> tuple[list[Row], bool]:
    """The rows of a shape, and whether everything ran and losses agree."""
    rows, fine = [], not any("failed" in side for side in found.values())
    own, other = found["ours"], found["theirs"]
    case = f"{name}, {SHAPES[name][1]} x {SHAPES[name][2]} tokens, bfloat16"
    rows += [Row(f"{case}: {side}", None, "", notes=of["failed"]) for side, of in found.items() if "failed" in of]
    if "failed" not in own:
        peak = "no published peak" if own["peak"] is None else f"{own['peak']:.0%} of the peak"
        notes = f"{own['device']}: {own['flops'] / own['seconds'] / 1e12:.3g} TFLOP/s, {peak}; {own['memory']:.1f} GiB"
        milliseconds = own["seconds"] * 1e3
        if "failed" in other:
            rows.append(Row(case, milliseconds, "ms", notes=notes))
        else:
            notes += f"; other: transformers, compiled, on {other['device']}, {other['memory']:.1f} GiB"
            ratio = other["seconds"] / own["seconds"]
            rows.append(Row(case, milliseconds, "ms", other["seconds"] * 1e3, ratio, notes))
            first = abs(own["losses"][0] - other["losses"][0]) / other["losses"][0]
            rows.append(Row(f"{name}: difference of the first losses of both sides, relative", first, ""))
    if "losses" in found["cpu"] and "losses" in found["accelerator"]:
        pairs = zip(found["accelerator"]["losses"], found["cpu"]["losses"], strict=True)
        largest = max(abs(a - b) / b for a, b in pairs)
        notes = f"first {CPU_STEPS[name]} steps of one row, float32 on the CPU; goal {LIMIT}"
        rows.append(Row(f"{name}: difference of losses from the CPU's, relative", largest, "", notes=notes))
        fine &= largest <= LIMIT
    return rows, fine


def main() -> None:
    """Measure each shape, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="150m,1.3b", help=f"some of {','.join(SHAPES)}")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side")
    parser.add_argument("--side", choices=("ours", "theirs", "cpu", "accelerator"), help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    names = options.shapes.split(",")
    if unknown := [name for name in names if name not in SHAPES]:
        parser.error(f"--shapes: no {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if options.side:
        print(json.dumps(part(names[0], options.side, options.steps)))
        return
    known, load, fine = machine(), os.getloadavg()[0], True
    rows: list[Row] = []
    for name in names:
        found = {side: measured(name, side, options.steps) for side in ("ours", "theirs", "accelerator", "cpu")}
        own, agree = rows_of(name, found)
        rows, fine = rows + own, fine and agree
        # After each shape, so that a run that is cut off has the others.
        write(options.json, rows)
        print(
            f"{facts(known, (load, os.getloadavg()[0]))}\n\n{table(('accelerator', row) for row in rows)}", flush=True
        )
    sys.exit(not fine)


if __name__ == "__main__":
    main()
