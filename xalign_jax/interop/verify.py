"""Does transformers read and compute from the exported files what we do from the checkpoint?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from xalign_jax.data.vocabulary import Tokenizer, clone_index
from xalign_jax.errors import RunError, install
from xalign_jax.interop.exporting import Exported

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # relative to a level's largest value, at least 1
LENGTH = 64


def verify(output: Path, exported: Exported, texts: Sequence[np.ndarray], dtype: str) -> str:
    """Compare token ids, logits and every hidden state on some texts; returns the largest difference of each level.

    Both compute in float32, from the parameters as they were exported and as they are here: for "bfloat16" the difference
    is what rounding costs.

    Args:
      texts: token ids, each row read alone and cut to LENGTH.

    Raises:
      RunError: naming the tokenizer or the first level that differs. The files stay.
    """
    try:
        import torch
        import transformers
    except ImportError:
        return f"not verified: torch and transformers are missing ({install('hf')})"
    if not len(texts):
        return "not verified: the run has no validation text to compare on"
    _compare_tokenizers(output, exported.tokenizer, [exported.tokenizer.decode(ids[:LENGTH]) for ids in texts])
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


def _compare_tokenizers(output: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """The root tokenizer and those of the clones must give the ids of the run; of bare ids there is none."""
    from transformers import PreTrainedTokenizerFast

    if tokenizer.vocabulary.kind == "ids":
        return
    encoded = tokenizer.encode(texts)
    folders = {output: 0} | {f: clone_index(f.name.removeprefix("tokenizer_"))[1] for f in output.glob("tokenizer_*/")}
    for folder, k in folders.items():
        theirs = PreTrainedTokenizerFast.from_pretrained(folder)
        for text, ids in zip(texts, encoded, strict=True):
            ours, found = tokenizer.clone(ids, k).tolist(), theirs(text, add_special_tokens=False)["input_ids"]
            if ours != found:
                raise RunError(
                    f"{folder}: the tokenizer reads {text[:40]!r} as {found[:20]}, the run as {ours[:20]}; the files were kept"
                )
