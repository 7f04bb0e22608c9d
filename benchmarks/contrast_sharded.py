"""The contrast alone at InfoXLM's size over simulated devices: is it the dense result, and what does a device hold?

    python benchmarks/contrast_sharded.py [--batch=16384] [--queue=131072] [--width=768] [--devices=8]
                                          [--json=FILE]

XlCo's contrast with masks by group: every row of the global batch and of the queue is a candidate, with gradients of
queries and keys. First a smaller contrast is compared with the one that has all logits at once. Then the large one
runs. The memory that its compiled program needs on a device is printed together with the parts that make it up.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np
from rows import Row, add_json, write

TAU, GROUPS = 0.25, 100_000
MB = 1e6


def draw(batch: int, queue: int, width: int) -> tuple[np.ndarray, ...]:
    """Unit vectors (queries, keys, queue) and groups (batch, queue)."""
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(n, width)).astype(np.float32) for n in (batch, batch, queue)]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    return *unit, *(rng.integers(0, GROUPS, n).astype(np.int32) for n in (batch, queue))


def dense(arrays: tuple[np.ndarray, ...]) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients in float64, from all logits at once: (loss, (B, D) of queries, (B, D) of keys)."""
    query, key, queue, group, queue_group = (a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays)
    own = np.eye(len(query), dtype=bool)
    # (B, B + Q) logits, without candidates that share the query's group. The own key stays.
    logits = query @ np.concatenate([key, queue]).T / TAU
    masked = np.concatenate([(group[:, None] == group) & ~own, group[:, None] == queue_group], axis=1)
    logits[masked] = -np.inf
    # Softmax; the loss is its logarithm minus the own key's logit, which is on the diagonal.
    high = logits.max(1, keepdims=True)
    weights = np.exp(logits - high)
    total = weights.sum(1, keepdims=True)
    loss = float((np.log(total) + high).sum() - np.trace(logits[:, : len(key)]))
    # The gradient of the logits: softmax minus one at the own key.
    weights /= total
    weights[:, : len(key)] -= own
    return loss, weights @ np.concatenate([key, queue]) / TAU, weights[:, : len(key)].T @ query / TAU


def place(arrays: tuple[np.ndarray, ...], mesh: Any) -> Any:
    """The arguments of `infonce`, with rows spread over the mesh."""
    import jax

    from xalign_jax.objectives.parts.candidates import Ids
    from xalign_jax.runtime.sharding import BATCH

    query, key, queue, group, queue_group = arrays

    def ids(own: Any, group: Any) -> Ids:
        nothing: Any = np.zeros((len(group), 0), np.int32)
        return Ids(own, group[:, None], nothing)

    pairs, past = ids(np.arange(len(query), dtype=np.int32), group), ids(np.full(len(queue), -2, np.int32), queue_group)
    return jax.device_put((query, key, queue, pairs, past), jax.sharding.NamedSharding(mesh, BATCH))


def parts(options: argparse.Namespace, chunk: int, block: int) -> dict[str, float]:
    """MB that a device must hold, by their use."""
    rows, past = options.batch // options.devices, options.queue // options.devices
    vector = 4 * options.width / MB
    return {
        "its queries and keys": 2 * rows * vector,
        "its part of the queue": past * vector,
        "everyone's queries": options.batch * vector,
        "their gradients": options.batch * vector,
        f"similarities of {chunk:,} queries and its {rows:,} keys": 4 * chunk * rows / MB,
        f"similarities of {chunk:,} queries and {block:,} rows of the queue": 4 * chunk * block / MB,
    }


def rows_of(options: argparse.Namespace, own: float, share: float, taken: float) -> list[Row]:
    """Rows of a device's temporaries beside its share of all logits (MB), and of the seconds of a pass."""
    case = f"batch {options.batch}, queue {options.queue} x {options.width}, {options.devices} simulated devices"
    row = Row(f"{case}: temporaries of a device", own, "MB", share, share / own, "other: its share of all logits")
    return [row, Row(f"{case}: one pass", taken, "s")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--queue", type=int, default=131_072)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--devices", type=int, default=8)
    add_json(parser)
    options = parser.parse_args()
    # Simulated devices take turns on few cores: XLA would call the ones that wait for the others stuck.
    flags = [f"--xla_force_host_platform_device_count={options.devices}"]
    flags += [f"--xla_cpu_collective_call_{what}_timeout_seconds=3600" for what in ("warn_stuck", "terminate")]
    os.environ["XLA_FLAGS"] = " ".join(flags)

    import jax

    from xalign_jax.objectives.parts import contrast
    from xalign_jax.runtime.sharding import make_mesh

    def loss(query, key, queue, ids, queue_ids):
        return contrast.infonce(query, key, ids, ids, TAU, queue=queue, queue_ids=queue_ids).loss

    mesh = make_mesh((options.devices // 2, 2, 1))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        # A sixteenth of the size, which fits all logits at once.
        small = draw(options.batch // 16, options.queue // 16, options.width)
        expected = dense(small)
        found = step(*place(small, mesh))
        np.testing.assert_allclose(float(found[0]), expected[0], rtol=1e-5)
        for gradient, other in zip(found[1], expected[1:], strict=True):
            np.testing.assert_allclose(np.asarray(gradient), other, atol=1e-5)
        print(
            f"batch {len(small[0]):,}, queue {len(small[2]):,} x {options.width}: loss {float(found[0]):.3f}, ", end=""
        )
        print(f"dense {expected[0]:.3f}; gradients within 1e-5")

        large = place(draw(options.batch, options.queue, options.width), mesh)
        compiled = step.lower(*large).compile()
        begun = time.perf_counter()
        value, _ = jax.block_until_ready(compiled(*large))
        taken = time.perf_counter() - begun
        print(
            f"batch {options.batch:,}, queue {options.queue:,} x {options.width} on {options.devices} devices: ", end=""
        )
        print(f"loss a query {float(value) / options.batch:.4f}, {taken:.0f} s")
    memory = compiled.memory_analysis()
    assert memory is not None
    print(f"a device: arguments {memory.argument_size_in_bytes / MB:.0f} MB, ", end="")
    print(f"results {memory.output_size_in_bytes / MB:.0f}, temporaries {memory.temp_size_in_bytes / MB:.0f}; of these")
    # As `infonce` cuts its work: chunks of queries, and blocks of the queue for each.
    chunk = min(options.batch, contrast.BATCH_ELEMENTS // (options.batch // options.devices))
    for name, size in parts(options, chunk, max(1, contrast.QUEUE_ELEMENTS["cpu"] // chunk)).items():
        print(f"  {size:8.1f} MB  {name}")
    logits = 4 * options.batch * (options.batch + options.queue) / MB
    print(f"all logits at once would be {logits:,.0f} MB, a device's share of them {logits / options.devices:,.0f} MB")
    write(options.json, rows_of(options, memory.temp_size_in_bytes / MB, logits / options.devices, taken))


if __name__ == "__main__":
    main()
