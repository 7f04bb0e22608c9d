"""A masked-LM training step of an XLM-R encoder against Hugging Face's XLMRobertaForMaskedLM in PyTorch's eager mode.

    python benchmarks/masked_lm.py [--shape=small] [--rounds=12] [--json=FILE]

Both sides take the same step: the same weights, rows without padding, forward, backward, AdamW; float32, no dropout,
--threads each. The first losses are checked to be equal. Ours chooses and corrupts tokens within the time. The other
side gets inputs and labels made beforehand, and its own choice of attention (scaled_dot_product_attention, no mask).
Rounds of the two alternate in one process; a ratio is the median over rounds of (theirs / ours), of wall and of process
time. OpenMP threads wait passively: waiting actively on a busy machine would count in our favour.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import jax
import numpy as np
import optax
import torch
from rows import Row, add_json, write
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from xalign_jax.interfaces import Batch, Objective
from xalign_jax.models.model import Model, build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.masked_lm import MaskedLM
from xalign_jax.objectives.parts.corruption import corrupt

# Name -> (layers, width, heads, mlp_width), pieces, rows, length. "base" has a third of XLM-R base's depth, to fit.
SHAPES = {
    "small": ((4, 128, 4, 512), 8192, 32, 128),
    "base": ((4, 768, 12, 3072), 32_768, 4, 128),
}
RATE, DECAY, BATCHES, STEPS = 1e-4, 0.01, 8, 2
ORDINARY, MASK, IGNORED = 5, 4, -100
Step = Callable[[], float]


def batch(number: int, pieces: int, rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows of one segment of ordinary pieces."""
    tokens = np.random.default_rng(number).integers(ORDINARY, pieces, (rows, length), dtype=np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {"tokens": tokens, "positions": positions, "segment_ids": np.ones_like(tokens)}


def ours(model: Model, objective: Objective, start: Any, batches: Sequence[Batch], held: dict[str, Any]) -> Step:
    """Our step: loss, gradient, AdamW. `held` is the objective's state."""
    optimizer = optax.adamw(RATE, weight_decay=DECAY)

    def update(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        def loss(p: Any) -> jax.Array:
            return objective.loss(model.bind(p), batch, held, key)[0] / objective.count(model, batch, key)

        value, grads = jax.value_and_grad(loss)(params)
        changes, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, changes), state, value

    compiled = jax.jit(update, donate_argnums=(0, 1))
    state = [jax.tree.map(jax.numpy.array, start), jax.jit(optimizer.init)(start)]
    taken = iter(range(10**9))

    def step() -> float:
        at = next(taken) % len(batches)
        state[0], state[1], value = compiled(*state, batches[at], jax.random.key(at))
        return float(value)

    return step


def theirs(network: XLMRobertaForMaskedLM, batches: list[dict[str, torch.Tensor]]) -> Step:
    """The other side's own forward pass and loss, with its gradient and AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    taken = iter(range(10**9))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = network(**batches[next(taken) % BATCHES]).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def labelled(model: Model, batches: list[dict[str, np.ndarray]]) -> list[dict[str, torch.Tensor]]:
    """The tokens as our step corrupts them, with their labels."""
    found = []
    for at, own in enumerate(batches):
        rng, settings = jax.random.key(at), MaskedLM().corruption
        given, segment_ids = jax.numpy.asarray(own["tokens"]), jax.numpy.asarray(own["segment_ids"])
        tokens, chosen = corrupt(rng, given, segment_ids, settings, model.special, MASK)
        labels = np.where(chosen, own["tokens"], IGNORED)
        found.append({"input_ids": torch.tensor(np.asarray(tokens)).long(), "labels": torch.tensor(labels).long()})
    return found


def hugging_face(shape: XLMRoberta, pieces: int, start: Any) -> XLMRobertaForMaskedLM:
    """An XLMRobertaForMaskedLM with the same weights."""
    network = XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=pieces,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.mlp_width,
            max_position_embeddings=shape.max_length + 2,
            type_vocab_size=1,
            layer_norm_eps=shape.norm_eps,
            pad_token_id=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).float()
    # The head shares the embedding's rows.
    weights: dict[str, Any] = {"lm_head.decoder.weight": start["embedding"]}
    weights |= {"lm_head.decoder.bias": start["head_bias"], "lm_head.bias": start["head_bias"]}
    for theirs, own in (("word", "embedding"), ("position", "positions"), ("token_type", "types")):
        weights[f"roberta.embeddings.{theirs}_embeddings.weight"] = start[own]

    def add(name: str, weight: Any, bias: Any) -> None:
        # Ours are (in, out), theirs (out, in).
        weights.update({f"{name}.weight": weight.T, f"{name}.bias": bias})

    add("roberta.embeddings.LayerNorm", start["embedding_norm"]["scale"], start["embedding_norm"]["bias"])
    for i in range(shape.layers):
        at, block = f"roberta.encoder.layer.{i}", jax.tree.map(lambda a, i=i: a[i], start["layers"])
        attention = block["attention"]
        for name in ("query", "key", "value"):
            weight = attention[name].reshape(shape.width, -1)
            add(f"{at}.attention.self.{name}", weight, attention[f"{name}_bias"])
        add(f"{at}.attention.output.dense", attention["output"].reshape(-1, shape.width), attention["output_bias"])
        for theirs, own in (("intermediate.dense", "up"), ("output.dense", "down")):
            add(f"{at}.{theirs}", block[own]["weight"], block[own]["bias"])
        for theirs, own in (("attention.output.LayerNorm", "attention_norm"), ("output.LayerNorm", "mlp_norm")):
            add(f"{at}.{theirs}", block[own]["scale"], block[own]["bias"])
    add("lm_head.dense", start["head"]["weight"], start["head"]["bias"])
    add("lm_head.layer_norm", start["head_norm"]["scale"], start["head_norm"]["bias"])
    tensors = {name: torch.tensor(np.asarray(array)) for name, array in weights.items()}
    assert not network.load_state_dict(tensors, strict=False).unexpected_keys
    return network


def seconds(step: Step) -> tuple[float, float]:
    """Wall seconds and process seconds, over all threads, per step."""
    wall, busy = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - wall) / STEPS, (time.process_time() - busy) / STEPS


def compared(case: str, steps: dict[str, Step], rounds: int, tolerance: float, notes: str) -> list[Row]:
    """Check that the first losses of "ours" and "theirs" are equal, then time both in turn, and print the ratios."""
    # The first step of each side compiles, too.
    first = {name: step() for name, step in steps.items()}
    np.testing.assert_allclose(first["theirs"], first["ours"], rtol=tolerance)
    print(f"{case}: first loss {first['ours']:.4f} on both sides")
    timed = [{name: seconds(step) for name, step in steps.items()} for _ in range(rounds)]
    found = []
    for kind, clock in enumerate(("wall", "process")):
        own, other = (statistics.median(one[name][kind] for one in timed) * 1e3 for name in steps)
        ratio = statistics.median(one["theirs"][kind] / one["ours"][kind] for one in timed)
        print(f"{clock:8} ours {own:8.1f} ms a step   theirs {other:8.1f}   ratio {ratio:.2f}", flush=True)
        found.append(Row(f"{case}, {clock} time", own, "ms", other, ratio, notes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    add_json(parser)
    options = parser.parse_args()
    # JAX takes the number of its threads from this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]

    sizes, pieces, rows, length = SHAPES[options.shape]
    shape = XLMRoberta(*sizes, max_length=length)
    model = build(shape, pieces, special=np.arange(pieces) < ORDINARY, mask_id=MASK)
    start = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    batches = [batch(number, pieces, rows, length) for number in range(BATCHES)]
    steps = {
        "ours": ours(model, MaskedLM(), start, batches, {}),
        "theirs": theirs(hugging_face(shape, pieces, start), labelled(model, batches)),
    }
    case, notes = f"{options.shape}, {rows} x {length} tokens", "other: XLMRobertaForMaskedLM, eager"
    print(f"{pieces} pieces; {shape}")
    found = compared(case, steps, options.rounds, 1e-4, notes)
    print(f"{options.threads} threads; load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    write(options.json, found)


if __name__ == "__main__":
    main()
