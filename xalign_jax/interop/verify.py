"""Does transformers read and compute from the exported files what we do from the checkpoint?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from xalign_jax.data.tokens.vocabulary import Tokenizer
from xalign_jax.errors import RunError, install
from xalign_jax.interfaces import Inputs
from xalign_jax.interop.exporting import Exported
from xalign_jax.interop.tokenizers.check import SAMPLES, difference, texts_around_unusual, texts_of_pieces, unusual_ids

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # relative to a level's largest value, at least 1
LENGTH, ROWS = 64, 4


class Missing(str):
    """Why there are no validation texts."""


def verify(output: Path, exported: Exported, texts: Sequence[np.ndarray] | Missing, dtype: str) -> str:
    """Compare token ids, logits and every hidden state; returns what was compared and the largest difference of each level.

    Read are the vocabulary's own pieces, sample texts, and the validation texts where there are any. Both compute in
    float32, from the parameters as they were exported and as they are here: for "bfloat16" the difference is what rounding
    costs.

    Args:
      texts: token ids of validation texts, each row read alone and cut to LENGTH.

    Raises:
      RunError: naming the tokenizer or the first level that differs. The files stay.
    """
    tokenizer, validation = exported.tokenizer, [] if isinstance(texts, Missing) else list(texts)
    read = _compare_tokenizers(output, tokenizer, [tokenizer.decode(ids[:LENGTH]) for ids in validation])
    lacking = f"; not read: validation texts ({texts})" if isinstance(texts, Missing) else ""
    rows = {"validation texts": validation, "rows of ids": rows_of_ids(tokenizer)}
    rows = {name: some for name, some in rows.items() if some}
    try:
        computed = _compare_numbers(output, exported, [row for some in rows.values() for row in some], dtype)
    except ImportError:
        return f"{read}; logits not verified: torch and transformers are missing ({install('hf')}){lacking}"
    what = " and ".join(f"{len(some)} {name}" for name, some in rows.items())
    return f"verified: {read}; of {what} the largest difference, relative to the largest value: {computed}{lacking}"


def rows_of_ids(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids without text: of unusual pieces, the first ROWS * LENGTH of them, and as many rows at random over all clones.

    Padding is left out: XLM-R gives it no position.
    """
    unusual = [i for ids in unusual_ids(tokenizer).values() for i in ids if i != tokenizer.pad]
    drawn = np.random.default_rng(0).choice(np.flatnonzero(~tokenizer.special), ROWS * LENGTH)
    firsts = np.array(unusual[: ROWS * LENGTH], np.int32)
    return [some[i : i + LENGTH] for some in (firsts, drawn) for i in range(0, len(some), LENGTH)]


def _compare_numbers(output: Path, exported: Exported, texts: Sequence[np.ndarray], dtype: str) -> str:
    """The largest difference of each level, in words. Raises ImportError without torch and transformers."""
    import torch
    import transformers

    theirs = getattr(transformers, exported.auto).from_pretrained(output, dtype=torch.float32).eval()
    model, last = exported.model, exported.model.num_layers
    run = jax.jit(lambda params, *rows: model.bind(params).hidden(Inputs(*rows), levels=tuple(range(last + 1))))
    worst = np.zeros(last + 2)
    for ids in texts:
        ids = np.asarray(ids[: min(LENGTH, model.max_length)], np.int32)
        rows = np.zeros((3, 1, min(LENGTH, model.max_length)), np.int32)
        rows[0, 0, : len(ids)], rows[1, 0, : len(ids)], rows[2, 0, : len(ids)] = ids, np.arange(len(ids)), 1
        ours = run(exported.params, *rows)
        logits = model.bind(exported.params).head_input(ours[last]) @ model.bind(exported.params).head_weight().T
        bias = model.bind(exported.params).head_bias()
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
    return ", ".join(f"{name} {value:.1e}" for name, value in zip(names, worst, strict=True))


def _compare_tokenizers(output: Path, tokenizer: Tokenizer, validation: Sequence[str]) -> str:
    """The root tokenizer and those of the clones must give the ids of the run; says on what. There is none of bare ids."""
    if tokenizer.vocabulary.kind == "ids":
        return "no tokenizer"
    around = texts_around_unusual(tokenizer)
    texts = {"pieces": texts_of_pieces(tokenizer), "sample texts": SAMPLES}
    found = difference(output, tokenizer, {**texts, **around, "validation texts": validation})
    if found:
        raise RunError(f"{output}: {found}; the files were kept")
    kinds = ", ".join(f"{len(ids)} {kind}" for kind, ids in unusual_ids(tokenizer).items())
    alone = f"{len(texts['pieces'])} pieces alone, unusual ones ({kinds}) within text as well"
    return f"equal ids for {alone}, {len(texts['sample texts'])} sample texts and {len(validation)} validation texts"
