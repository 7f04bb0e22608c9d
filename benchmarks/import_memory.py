"""Peak anonymous memory and seconds of importing a 1.3 B Llama checkpoint, on 1 and on 8 simulated devices.

python benchmarks/import_memory.py [--scale=0.1] [--source_dtype=bfloat16] [--folder=DIR] [--json=FILE]

The checkpoint (random, sharded safetensors) is made first. Every import runs in a process of its own, whose RssAnon is
sampled. Memory that the process held before (interpreter, JAX, its devices) is subtracted. Orbax's save is included.
For comparison, `from_pretrained` of transformers reads the same files. Exits 1 above LIMIT times the parameters' bytes
in the destination dtype.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rows import Row, add_json, write

LIMIT, EVERY = 1.3, 0.01  # times the parameters' bytes, and seconds between samples
CONFIG: dict[str, Any] = {"class": "Llama", "layers": 24, "width": 2048, "heads": 16, "kv_heads": 16, "mlp_width": 5504}
ROWS, SEED = 32_000, 0


def main() -> None:
    """Make the checkpoint, measure each way of reading it, print a line for each."""
    options = argparse.ArgumentParser()
    options.add_argument("--scale", type=float, default=1.0, help="of the parameters, roughly; by the layers and rows")
    options.add_argument("--source_dtype", default="bfloat16")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--folder", type=Path, help="where there is room for the checkpoint and two copies")
    options.add_argument("--child", help=argparse.SUPPRESS)
    add_json(options)
    given = options.parse_args()
    if given.child:
        print(json.dumps(_child(given.child, given.folder, given.dtype)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        count = _make(Path(temporary) / "hf", given.scale, given.source_dtype)
        size = count * {"float32": 4, "bfloat16": 2, "float16": 2}[given.dtype]
        print(f"{count / 1e9:.3f} B parameters, {given.source_dtype} -> {given.dtype}: {size / 1e9:.2f} GB")
        failed, rows = False, []
        for way, devices in (("import", 1), ("import", 8), ("transformers", 1)):
            found = _measure(way, devices, Path(temporary), given.dtype)
            ratio = found["peak"] / size
            failed |= way == "import" and ratio > LIMIT
            print(
                f"{way:12} {devices} device{'s' * (devices > 1)}: peak {found['peak'] / 1e9:5.2f} GB = {ratio:.2f} x, "
                f"{found['seconds']:6.1f} s (beside a baseline of {found['baseline'] / 1e9:.2f} GB)",
                flush=True,
            )
            case = f"{count / 1e9:.2f} B parameters to {given.dtype}: {way}, {devices} device{'s' * (devices > 1)}"
            notes = f"{ratio:.2f} x the parameters; {found['seconds']:.1f} s"
            rows.append(Row(case, found["peak"] / 1e9, "GB at peak", notes=notes))
    write(given.json, rows)
    sys.exit(failed)


def _make(folder: Path, scale: float, dtype: str) -> int:
    """Write a random checkpoint; returns its number of parameters."""
    import numpy as np

    from xalign_jax.interop.architectures import table
    from xalign_jax.interop.weights import Tensor, write

    # Fewer layers and rows give the scale; widths stay, so that tensors are as large as real ones.
    config = CONFIG | {"layers": max(1, round(CONFIG["layers"] * scale))}
    rows = max(128, round(ROWS * scale))
    llama = table.config_from_json(config)
    architecture = table.of_config(llama)
    shapes: dict[str, tuple[int, ...]] = {}

    from xalign_jax.interop.importing import flat
    from xalign_jax.models.model import build

    model = flat(build(llama, rows).shapes)
    # Names and shapes of their tensors follow from the table by which they are read.
    for entry in architecture.table(llama, None):
        layers = range(llama.layers) if "{}" in entry.theirs else [None]
        shape = entry.view.theirs(model[entry.ours].shape[0 if layers == [None] else 1 :])
        shapes |= {entry.theirs.format(layer): shape for layer in layers}
    rng = np.random.default_rng(SEED)

    def drawn(shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
        return lambda: rng.standard_normal(shape, np.float32)

    tensors = [Tensor(name, shape, drawn(shape)) for name, shape in shapes.items()]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(architecture.write(llama, rows, {})))
    write(folder, tensors, dtype)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _measure(way: str, devices: int, folder: Path, dtype: str) -> dict[str, float]:
    """Run one import in a process of its own, on simulated devices; returns what it measured."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, f"--child={way}", f"--folder={folder}", f"--dtype={dtype}"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(printed.splitlines()[-1])


def _child(way: str, folder: Path, dtype: str) -> dict[str, float]:
    """The measuring process: import within `_sampled`."""
    if way == "transformers":
        import torch
        import transformers

        with _sampled() as found:
            kept = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=getattr(torch, dtype))
            # The sums make sure that pages are read, not only mapped.
            sum(float(parameter.detach().sum()) for parameter in kept.parameters())
        return found
    import jax

    from xalign_jax.interop.importing import import_model
    from xalign_jax.runtime.sharding import make_mesh

    # JAX and its devices are part of the baseline.
    mesh = make_mesh((1, -1, 1))
    jax.numpy.zeros(8).block_until_ready()
    with _sampled() as found:
        import_model(folder / "hf", folder / "run", mesh, dtype)
    shutil.rmtree(folder / "run")
    return found


@contextlib.contextmanager
def _sampled() -> Iterator[dict[str, float]]:
    """{"baseline", "peak" above it (bytes), "seconds"} of what runs inside."""
    found = {"baseline": float(_anonymous()), "peak": 0.0, "seconds": 0.0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(EVERY):
            found["peak"] = max(found["peak"], _anonymous() - found["baseline"])

    thread = threading.Thread(target=sample)
    thread.start()
    start = time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - start
    done.set()
    thread.join()


def _anonymous() -> int:
    """RssAnon of this process, bytes."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
