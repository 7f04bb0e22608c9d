"""What a step costs when only some numbers train: FLOPs, moments and seconds of each parametrization.

    python benchmarks/parametrizations.py [--model=1m] [--rows=16] [--rounds=12] [--json=FILE]

The model is a Llama of gin/models with an untied head and a vocabulary of 8192; a step is causal language modelling on
`--rows` rows of 64 random tokens, with AdamW. The second half of the vocabulary stands for translations of the first half
(`TiedRows`, PLUS). FLOPs are those that XLA counts in the compiled step. Rounds of all parametrizations alternate; the ratio
is the median over rounds of (this / everything). Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp
from rows import Row, add_json, write

from xalign_jax.data.feeds.windows import WindowFeed
from xalign_jax.gin_files import gin_root
from xalign_jax.interfaces import Everything, Parametrization
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import Model, build
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.parametrizations.low_rank import LowRank
from xalign_jax.parametrizations.selection import Selection
from xalign_jax.parametrizations.tied_rows import LanguageVectors, TiedRows
from xalign_jax.recipe import Stage, Stream
from xalign_jax.runtime.sharding import make_mesh
from xalign_jax.training import state
from xalign_jax.training.optimizers import AdamW, WarmupConstant
from xalign_jax.training.step import jit_step, make_step

VOCABULARY, LENGTH, STEPS = 8192, 64, 4
PARAMETRIZATIONS: dict[str, Parametrization] = {
    "everything": Everything(),
    "frozen encoder (the head trains)": Selection(("model/head",)),
    "LoRA, rank 8, query and value": LowRank(),
    "LoRA, rank 8, all matrices": LowRank(patterns=("attention/", "mlp/")),
    "language vectors": LanguageVectors(),
    "tied rows (PLUS)": TiedRows(),
}


def shipped(name: str) -> Llama:
    """The shape in gin/models/llama_NAME.gin."""
    lines = (gin_root() / "models" / f"llama_{name}.gin").read_text().splitlines()
    gin.parse_config([line for line in lines if line.startswith("Llama.")])
    return Llama()


def compiled(model: Model, parametrization: Parametrization, rows: int) -> tuple[float, int, int, Callable[[], None]]:
    """(FLOPs, free numbers, moments, a step) of a stage with this parametrization."""
    stream = Stream("lm", WindowFeed(LENGTH), CausalLM(), rows)
    stage = Stage("pretrain", 10**6, (stream,), AdamW(), WarmupConstant(1e-4), parametrization=parametrization)
    coordinates, mesh = parametrization.bind(model, None), make_mesh((1, -1, 1))
    current = state.begin(stage, coordinates, model, 0, mesh)
    tokens = jax.random.randint(jax.random.key(0), (rows, LENGTH + 1), 0, VOCABULARY, jnp.int32)
    batch = dict(stream.feed.blank(rows)) | {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    shape = (rows, LENGTH)
    batch |= {"weights": jnp.ones(shape), "segment_ids": jnp.ones(shape, jnp.int32)}
    batch["positions"] = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), shape)
    where = state.layout(stage, coordinates, model, 0, mesh).where
    with jax.set_mesh(mesh):
        step = jit_step(make_step(stage, coordinates, model, 0, 0, {"lm": ("a",)}), where)
        step = step.lower(current, {"lm": batch}).compile()
    flops = step.cost_analysis()["flops"]
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim)  # noqa: E731
    free, moments, kept = size(current.free), size(current.opt_state), [current]

    def run() -> None:
        kept[0], _ = step(kept[0], {"lm": batch})
        jax.block_until_ready(kept[0].free)

    return flops, free, moments, run


def seconds(run: Callable[[], None]) -> float:
    """Seconds of a step, a mean over some."""
    start = time.perf_counter()
    for _ in range(STEPS):
        run()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1m", help="gin/models/llama_MODEL.gin")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    add_json(parser)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    model = build(shipped(options.model), VOCABULARY)
    found = {name: compiled(model, chosen, options.rows) for name, chosen in PARAMETRIZATIONS.items()}
    for *_, run in found.values():
        run()
    rounds = [{name: seconds(run) for name, (*_, run) in found.items()} for _ in range(options.rounds)]
    print(f"{model.config}, vocabulary {VOCABULARY}, {options.rows} x {LENGTH} tokens a step")
    print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(
        "| parametrization | MFLOP a step | free numbers | moments | ms a step | ratio |\n|---|---:|---:|---:|---:|---:|"
    )
    rows, whole = [], statistics.median(one["everything"] for one in rounds) * 1e3
    for name, (flops, free, moments, _) in found.items():
        own = statistics.median(one[name] for one in rounds) * 1e3
        ratio = statistics.median(one[name] / one["everything"] for one in rounds)
        print(f"| {name} | {flops / 1e6:.0f} | {free:,} | {moments:,} | {own:.1f} | {ratio:.2f} |")
        notes = f"{flops / 1e6:,.0f} MFLOP, {free:,} free numbers, {moments:,} moments; other: everything trains"
        rows.append(Row(f"llama_{options.model}: {name}", own, "ms", whole, 1 / ratio, notes))
    write(options.json, rows)


if __name__ == "__main__":
    main()
