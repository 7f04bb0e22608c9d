"""A training step of a Llama decoder against LlamaForCausalLM in PyTorch: eager, with fused AdamW, and compiled.

    python benchmarks/decoder.py [--shapes=4x128,4x256] [--dtypes=float32,bfloat16] [--rounds=8] [--json=OUT.json]

Both sides take the same step: the same weights, rows without padding, forward, backward, clipping by the global norm,
AdamW. Ours is the step of a stage (`training.step`), with its counters and its guard against values that are not finite.
Theirs is a loop as PyTorch's users write it; bfloat16 is its autocast. The first losses are checked to be equal. Rounds of
all sides alternate in one process, on huge pages. A ratio is the median over rounds of (theirs / ours), of wall and of
process time. "peak" is the share of the measured rate of matrix products (the best of XLA's and PyTorch's, float32) that
the model's FLOPs reach. Memory is the highest resident size of a process of its own that takes three steps, without what
it held before its model. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_llama import llama_tensors
from transformers import LlamaConfig, LlamaForCausalLM

from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.interfaces import Everything
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import Model, build
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime.sharding import make_mesh
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import jit_step, make_step

HUGE = "glibc.malloc.hugetlb=1"
RATE, BATCHES = 1e-4, 4
Step = Callable[[], float]


class Case(NamedTuple):
    """A decoder and its batch."""

    shape: Llama
    pieces: int
    rows: int
    length: int


def _llama(layers: int, width: int, heads: int, mlp_width: int, length: int) -> Llama:
    return Llama(layers, width, heads, heads, mlp_width, max_length=length)


CASES = {
    "4x128": Case(_llama(4, 128, 4, 352, 64), 3072, 32, 64),
    "4x256": Case(_llama(4, 256, 4, 704, 256), 32_000, 4, 256),
    "6x512": Case(_llama(6, 512, 8, 1408, 512), 32_000, 2, 512),
    "6x768": Case(_llama(6, 768, 12, 2048, 512), 32_000, 2, 512),
}
SIDES = ("ours", "eager", "fused", "compiled")


def tokens_of(case: Case) -> list[np.ndarray]:
    """Batches of (rows, length + 1) random pieces."""
    shape = (case.rows, case.length + 1)
    return [np.random.default_rng(n).integers(0, case.pieces, shape, dtype=np.int32) for n in range(BATCHES)]


def ours(case: Case, dtype: str) -> Step:
    """The step of a stage, compiled."""
    model = build(case.shape, case.pieces, dtype=jnp.dtype(dtype))
    stream = Stream("lm", WindowFeed(case.length), CausalLM(), case.rows)
    stage = Stage("pretrain", 10**6, (stream,), AdamW(), WarmupConstant(RATE))
    coordinates, mesh = Everything().bind(model, None), make_mesh((1, -1, 1))
    current = [state.begin(stage, coordinates, model, 0, mesh)]
    blank = dict(stream.feed.blank(case.rows))
    batches = []
    for tokens in tokens_of(case):
        batch = blank | {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
        batch |= {"weights": np.ones_like(tokens[:, 1:], np.float32), "segment_ids": np.ones_like(tokens[:, 1:])}
        batch["positions"] = np.tile(np.arange(case.length, dtype=np.int32), (case.rows, 1))
        batches.append({"lm": batch})
    where = state.layout(stage, coordinates, model, 0, mesh).where
    with jax.set_mesh(mesh):
        step = jit_step(make_step(stage, coordinates, model, 0, 0, {"lm": ("a",)}), where)
        compiled = step.lower(current[0], batches[0]).compile()
    taken = itertools.cycle(batches)

    def run() -> float:
        current[0], metrics = compiled(current[0], next(taken))
        return float(metrics["loss"])

    return run


def theirs(case: Case, dtype: str, side: str) -> Step:
    """PyTorch's loop with the same first weights."""
    start = jax.device_get(jax.jit(initial(case).init)(jax.random.key(0)))
    network = hugging_face(case, start)
    return loop(case, network, dtype, compiled=side == "compiled", fused=side == "fused")


def loop(case: Case, network: LlamaForCausalLM, dtype: str, compiled: bool, fused: bool, device: str = "cpu") -> Step:
    """PyTorch's loop for a network that is on the device."""
    # As ours: decay on matrices only.
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=fused)
    forward = torch.compile(network) if compiled else network
    taken = itertools.cycle([torch.tensor(tokens).long().to(device) for tokens in tokens_of(case)])

    def run() -> float:
        tokens = next(taken)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def initial(case: Case) -> Model:
    """The model without parameters."""
    return build(case.shape, case.pieces)


def hugging_face(case: Case, start: Any) -> LlamaForCausalLM:
    """A LlamaForCausalLM with the same weights."""
    shape = case.shape
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=case.pieces,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=case.length,
            rms_norm_eps=shape.norm_eps,
            tie_word_embeddings=False,
        )
    ).float()
    tensors = {f"model.{name}": tensor for name, tensor in llama_tensors(shape, start).items()}
    network.load_state_dict(tensors | {"lm_head.weight": torch.tensor(np.asarray(start["head"]))})
    return network


def side_of(case: Case, dtype: str, side: str) -> Step:
    """A step of either side."""
    return ours(case, dtype) if side == "ours" else theirs(case, dtype, side)


def matrix_product_rate() -> float:
    """FLOP/s of float32 products of 1024 x 1024: the best of ten, of XLA or of PyTorch."""
    size, best = 1024, 0.0
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    product, on_device = jax.jit(lambda x: x @ x), jnp.asarray(a)
    tensor = torch.tensor(a)
    for multiply in (lambda: product(on_device).block_until_ready(), lambda: tensor @ tensor):
        multiply()
        for _ in range(10):
            started = time.perf_counter()
            multiply()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def peak_memory(shape: str, dtype: str, side: str, threads: int) -> float:
    """MB that three steps of a side add to a process of its own."""
    command = [sys.executable, __file__, f"--memory={side}", f"--shapes={shape}", f"--dtypes={dtype}"]
    done = subprocess.run([*command, f"--threads={threads}"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def highest_resident() -> float:
    """MB of the highest resident size of this process so far (Linux)."""
    # Not getrusage: its maximum outlives the start of another program.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def seconds(step: Step, steps: int) -> tuple[float, float]:
    """Wall seconds and process seconds, over all threads, per step."""
    wall, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return (time.perf_counter() - wall) / steps, (time.process_time() - busy) / steps


def measure(name: str, dtype: str, sides: Sequence[str], rounds: int, steps: int, rate: float, threads: int) -> dict:
    """A shape's times, ratios and memory of all sides."""
    case = CASES[name]
    taken = {side: side_of(case, dtype, side) for side in sides}
    # The first step of each side compiles, and shows that all compute the same.
    first = {side: step() for side, step in taken.items()}
    np.testing.assert_allclose(list(first.values()), first["ours"], rtol=1e-4 if dtype == "float32" else 2e-2)
    for step in taken.values():
        step()
    found = [{side: seconds(step, steps) for side, step in taken.items()} for _ in range(rounds)]
    flops = initial(case).flops_per_token(case.length) * case.rows * case.length
    result: dict[str, Any] = {"shape": name, "dtype": dtype, "first_loss": first["ours"]}
    for side in sides:
        wall, busy = (statistics.median(one[side][clock] for one in found) for clock in (0, 1))
        ratios = [statistics.median(one[side][clock] / one["ours"][clock] for one in found) for clock in (0, 1)]
        result[side] = {
            "wall_ms": wall * 1e3,
            "process_ms": busy * 1e3,
            "wall_ratio": ratios[0],
            "process_ratio": ratios[1],
            "peak": flops / wall / rate,
            "memory_mb": peak_memory(name, dtype, side, threads),
        }
    return result


def line(result: dict[str, Any], side: str) -> str:
    """A row of the table."""
    own = result[side]
    return (
        f"| {result['shape']} | {result['dtype']} | {side} | {own['wall_ms']:.0f} ({own['process_ms']:.0f}) | "
        f"{own['wall_ratio']:.2f} ({own['process_ratio']:.2f}) | {own['peak']:.2f} | {own['memory_mb']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="4x128,4x256,6x512,6x768")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sides", default="ours,eager,fused,compiled")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if HUGE not in os.environ.get("GLIBC_TUNABLES", ""):
        # malloc reads this when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": HUGE})
    # JAX takes the number of its threads from this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    shapes, dtypes = options.shapes.split(","), options.dtypes.split(",")
    if options.memory:
        before = highest_resident()
        step = side_of(CASES[shapes[0]], dtypes[0], options.memory)
        for _ in range(3):
            step()
        print(highest_resident() - before)
        return
    load, rate = os.getloadavg()[0], matrix_product_rate()
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}, ", end=""
    )
    print(f"jax {jax.__version__}; {rate / 1e9:.0f} GFLOP/s; load {load:.1f}", flush=True)
    print("| shape | dtype | side | ms a step (process) | theirs / ours (process) | of the peak | MB |")
    print("|---|---|---|---:|---:|---:|---:|", flush=True)
    results = []
    for name, dtype in itertools.product(shapes, dtypes):
        sides = options.sides.split(",")
        results.append(measure(name, dtype, sides, options.rounds, options.steps, rate, options.threads))
        print("\n".join(line(results[-1], side) for side in sides), flush=True)
    print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    if options.json:
        facts = {"threads": options.threads, "flops": rate, "load": load, "results": results}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
