"""Does transformers compute from the exported files what we compute from the checkpoint?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from xalign_jax.errors import RunError
from xalign_jax.interop.exporting import Exported

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # relative to a level's largest value, at least 1
LENGTH = 64


def verify(output: Path, exported: Exported, texts: Sequence[np.ndarray], dtype: str) -> str:
    """Compare logits and every hidden state on some texts; returns the largest difference of each level as text.

    Both compute in float32, from the parameters as they were exported and as they are here: for "bfloat16" the difference
    is what rounding costs.

    Args:
      texts: token ids, each row read alone and cut to LENGTH.

    Raises:
      RunError: naming the first level that differs. The files stay.
    """
    try:
        import torch
        import transformers
    except ImportError:
        return 'not verified: torch and transformers are missing (pip install "xalign_jax[hf]")'
    if not len(texts):
        return "not verified: the run has no validation text to compare on"
    theirs = getattr(transformers, exported.auto).from_pretrained(output, dtype=torch.float32).eval()
    model, last = exported.model, exported.model.num_layers
    run = jax.jit(lambda params, *rows: model.hidden(params, *rows, levels=tuple(range(last + 1))))
    worst = np.zeros(last + 2)
    for ids in texts:
        ids = np.asarray(ids[: min(LENGTH, model.max_length)], np.int32)
        rows = np.zeros((3, 1, min(LENGTH, model.max_length)), np.int32)
        rows[0, 0, : len(ids)], rows[1, 0, : len(ids)], rows[2, 0, : len(ids)] = ids, np.arange(len(ids)), 1
        ours = run(exported.params, *rows)
        logits = model.head_input(exported.params, ours[last]) @ model.head_weight(exported.params).T
        bias = model.head_bias(exported.params)
        logits = logits if bias is None else logits + bias
        with torch.no_grad():
            found = theirs(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
        expected = [h.numpy() for h in (*found.hidden_states, found.logits)]
        for level, array in enumerate([*(ours[i] for i in range(last + 1)), logits]):
            mine, other = np.asarray(array)[0, : len(ids)], expected[level][0]
            scale = max(1.0, float(np.abs(other).max()))
            difference = float(np.abs(mine - other).max()) / scale
            worst[level] = max(worst[level], np.inf if np.isnan(difference) else difference)
    names = [*(f"level {i}" for i in range(last + 1)), "logits"]
    bad = [i for i in range(len(names)) if not worst[i] <= TOLERANCE[dtype]]
    if bad:
        raise RunError(
            f"{output}: transformers differs first at {names[bad[0]]}: {worst[bad[0]]:.2g} of the largest value, "
            f"tolerance {TOLERANCE[dtype]:g} for {dtype}; the files were kept"
        )
    shown = ", ".join(f"{name} {value:.1e}" for name, value in zip(names, worst, strict=True))
    return f"verified on {len(texts)} texts: largest difference, relative to the largest value: {shown}"
