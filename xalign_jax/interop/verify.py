"""Does transformers read and compute from the exported files the same as we do from the checkpoint?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import RunError, install
from xalign_jax.interfaces import Inputs
from xalign_jax.interop.exporting import Exported
from xalign_jax.interop.tokenizers.check import SAMPLES, difference, texts_around_unusual, texts_of_pieces, unusual_ids
from xalign_jax.models.model import Model, Params

# dtype of the files -> the largest difference allowed, relative to a level's largest value (at least 1).
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
LENGTH, ROWS = 64, 4  # tokens of a compared row, and the number of random rows


class Missing(str):
    """The reason why there are no validation texts."""


def verify(output: Path, exported: Exported, texts: Sequence[np.ndarray] | Missing, dtype: str) -> str:
    """Compare token ids, logits and every hidden state; returns what was compared and each level's largest difference.

    The texts are the vocabulary's own pieces, sample texts, and validation texts if there are any. Both sides compute
    in float32, or in float64 on rows that amplify rounding. They use the exported parameters and the checkpoint's. For
    "bfloat16" the difference is therefore the cost of rounding.

    Args:
      texts: token ids of validation texts, each row read alone and cut to LENGTH.

    Raises:
      RunError: the message names the tokenizer or the first level that differs. The files stay.
    """
    # Tokenizers first: numbers are then compared on ids that both sides agree on.
    tokenizer, validation = exported.tokenizer, [] if isinstance(texts, Missing) else list(texts)
    read = _compare_tokenizers(output, tokenizer, [tokenizer.decode(ids[:LENGTH]) for ids in validation])
    lacking = f"; not read: validation texts ({texts})" if isinstance(texts, Missing) else ""
    rows = {"validation texts": validation, "rows of ids": rows_of_ids(tokenizer)}
    rows = {name: some for name, some in rows.items() if some}
    # Without torch, what could be compared is reported, and what could not.
    try:
        computed = _compare_numbers(output, exported, [row for some in rows.values() for row in some], dtype)
    except ImportError:
        return f"{read}; logits not verified: torch and transformers are missing ({install('hf')}){lacking}"
    what = " and ".join(f"{len(some)} {name}" for name, some in rows.items())
    return f"verified: {read}; of {what} the largest difference, relative to the largest value: {computed}{lacking}"


def rows_of_ids(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids without text: the first ROWS * LENGTH unusual pieces, and as many random ids of all clones.

    Padding is left out: XLM-R gives it no position.
    """
    unusual = [i for ids in unusual_ids(tokenizer).values() for i in ids if i != tokenizer.pad]
    drawn = np.random.default_rng(0).choice(np.flatnonzero(~tokenizer.special), ROWS * LENGTH)
    firsts = np.array(unusual[: ROWS * LENGTH], np.int32)
    # Cut into rows of LENGTH.
    return [some[i : i + LENGTH] for some in (firsts, drawn) for i in range(0, len(some), LENGTH)]


def _compare_numbers(output: Path, exported: Exported, texts: Sequence[np.ndarray], dtype: str) -> str:
    """The largest difference of each level, in words. Raises ImportError without torch and transformers."""
    import torch
    import transformers

    theirs = (
        getattr(transformers, exported.auto)
        .from_pretrained(output, dtype=torch.float32, trust_remote_code=False)
        .eval()
    )
    names = [*(f"level {level}" for level in range(exported.model.num_layers + 1)), "logits"]
    # (L+2,) one number for each level and one for the logits.
    # One model for each dtype, so that each is compiled once for all rows.
    models = {kind: exported.model.in_dtype(kind) for kind in ("float32", "float64")}
    worst, amplified = np.zeros(len(names)), 0
    for ids in texts:
        found = _differences(theirs, models["float32"], exported.params, ids, "float32")
        # On some rows, mostly of rare pieces, a deep model amplifies rounding. Only float64 tells rounding from a
        # fault.
        if not (found <= TOLERANCE[dtype]).all():
            found = _differences(theirs, models["float64"], exported.params, ids, "float64")
            amplified += 1
        worst = np.maximum(worst, found)
    # Written so that a NaN is bad too.
    bad = [i for i in range(len(names)) if not worst[i] <= TOLERANCE[dtype]]
    if bad:
        raise RunError(
            f"{output}: transformers differs first at {names[bad[0]]}: {worst[bad[0]]:.2g} of the largest value, "
            f"tolerance {TOLERANCE[dtype]:g} for {dtype}; the files were kept"
        )
    rows = f" ({amplified} rows amplify rounding and were compared in float64)" if amplified else ""
    return ", ".join(f"{name} {value:.1e}" for name, value in zip(names, worst, strict=True)) + rows


def _differences(theirs: Any, model: Model, params: Params, ids: np.ndarray, dtype: str) -> np.ndarray:
    """(L+2,) largest difference of each level and of the logits on one row, over the largest value (at least 1)."""
    import torch

    ids = np.asarray(ids[:LENGTH][: model.max_length], np.int32)
    with torch.no_grad():
        network = theirs.to(getattr(torch, dtype))
        found = network(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
        expected = [array[0].double().numpy() for array in (*found.hidden_states, found.logits)]
    with jax.enable_x64(dtype == "float64"):
        # One shape for all rows: short ones are padded with segment 0, which nothing else sees.
        rows = np.zeros((3, 1, min(LENGTH, model.max_length)), np.int32)
        rows[:, 0, : len(ids)] = ids, np.arange(len(ids)), np.ones(len(ids))
        bound = model.bind(jax.tree.map(lambda array: jnp.asarray(array, dtype), params))
        states, logits = _levels_and_logits(bound, Inputs(*rows))
        ours = [np.asarray(array[0, : len(ids)], np.float64) for array in (*states, logits)]
    # A NaN would lose every comparison, so it counts as infinitely far.
    largest = [float(np.abs(mine - other).max()) for mine, other in zip(ours, expected, strict=True)]
    scale = [max(1.0, float(np.abs(other).max())) for other in expected]
    return np.nan_to_num(np.asarray(largest) / scale, nan=np.inf)


@jax.jit
def _levels_and_logits(model: Model, inputs: Inputs) -> tuple[list[jax.Array], jax.Array]:
    """States of all levels, (B,T,D) each, and logits (B,T,V)."""
    every = range(model.num_layers + 1)
    states = model.hidden(inputs, levels=tuple(every))
    logits, bias = model.head_input(states[every[-1]]) @ model.head_weight().T, model.head_bias()
    return [states[level] for level in every], logits if bias is None else logits + bias


def _compare_tokenizers(output: Path, tokenizer: Tokenizer, validation: Sequence[str]) -> str:
    """Check that the root tokenizer and those of the clones give the run's ids; returns on which texts, in words."""
    # Bare ids have no tokenizer.
    if tokenizer.vocabulary.kind == "ids":
        return "no tokenizer"
    # Pieces that mean more than their letters are the likeliest to be read differently, alone and inside text.
    around = texts_around_unusual(tokenizer)
    texts = {"pieces": texts_of_pieces(tokenizer), "sample texts": SAMPLES}
    found = difference(output, tokenizer, {**texts, **around, "validation texts": validation})
    if found:
        raise RunError(f"{output}: {found}; the files were kept")
    kinds = ", ".join(f"{len(ids)} {kind}" for kind, ids in unusual_ids(tokenizer).items())
    alone = f"{len(texts['pieces'])} pieces alone, unusual ones ({kinds}) within text as well"
    return f"equal ids for {alone}, {len(texts['sample texts'])} sample texts and {len(validation)} validation texts"
