"""What probes share: rows of results, batches of one shape, and the compiled passes over a model.

A probe calls these functions with numpy arrays on the host and gets numpy arrays back. `model` has its parameters
bound; they may be sharded. Nothing larger than a few million logits is ever held at once.

Shapes: N rows in all, B rows of a batch, T tokens of a row, D the width, V the vocabulary, L the number of blocks.
Level 0 is the embedding output and level L the last block after the final norm, so that there are L+1 levels.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from jax.tree_util import PyTreeDef
from numpy.typing import ArrayLike
from tqdm import tqdm

from xalign_jax.alignment.pooling import pooled_tokens, segment_means
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs, ModelConfig, ProbedRun, Row
from xalign_jax.models.model import Model, Params
from xalign_jax.runtime.compilation import jit_once

Batch = dict[str, np.ndarray]
LOGITS_AT_ONCE = 2**22  # numbers, 16 MiB of float32
SECONDS_BEFORE_A_BAR = 5.0  # most passes are done sooner, and a bar would only flicker


def row(probe: str, metric: str, value: float, n: int, **about: Any) -> Row:
    """A row of `results.json` without stage, step, seed and settings, which are added when it is stored.

    Args:
      n: what the value is a mean of.
      about: any of language, level, split, control, data; low and high, the ends of an interval of 95 %.
    """
    # Every row has every key, so that rows are compared key by key.
    absent = dict.fromkeys(("language", "level", "split", "control", "data", "low", "high"))
    return {"probe": probe, "metric": metric, "value": float(value), "n": int(n), **absent, **about}


def fingerprint(*columns: ArrayLike) -> str:
    """12 hex digits that identify the data of a row: a hash of integer arrays of any shape, or of numbers."""
    digest = hashlib.sha256()
    for column in columns:
        # The shape counts too: the same numbers cut in another way are other data.
        values = np.asarray(column, np.int64)
        digest.update(np.asarray(values.shape, np.int64).tobytes() + values.tobytes())
    return digest.hexdigest()[:12]


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """(N,) int64 numbers that are equal where texts are (crc32)."""
    return np.asarray([zlib.crc32(text.encode()) for text in texts], np.int64)


def require_causal(model: ModelConfig | Model, probe: str) -> None:
    """Refuse a bidirectional model, which would see the token it predicts."""
    if not model.causal:
        raise UserError(f"{probe}: scores the next token and needs a causal model; take it out of Stage.probes")


def require_length(model: ModelConfig | Model, probe: str, length: int) -> None:
    """Refuse windows that the model has no positions for."""
    if length > model.max_length:
        raise UserError(f"{probe}.length = {length}: longer than the model's max_length = {model.max_length}")


def require_frame(model: ModelConfig | Model, probe: str, length: int) -> None:
    """Refuse sentences so short that bos and eos leave no room for a token."""
    if length < 3 and not model.causal:
        raise UserError(f"{probe}.length = {length}: at least 3, bos and eos count")


def untrained(model: Model, seed: int) -> Model:
    """The control "untrained": the model with fresh parameters of this seed, sharded like its own.

    A run starts from these parameters, unless it has `Recipe.init_from`.
    """
    leaves, structure = jax.tree.flatten(model.params)
    where = tuple(leaf.sharding for leaf in leaves)
    return model.bind(_initializer(model.unbound, structure, where)(jax.random.key(seed)), {})


def with_untrained(run: ProbedRun, wanted: bool) -> Iterator[tuple[str | None, ProbedRun]]:
    """(control, run): the run as it is, and then the control "untrained" if it is wanted, which shows no pictures."""
    yield None, run
    if wanted:
        yield "untrained", run._replace(model=untrained(run.model, run.seed), show=lambda picture: None)


@functools.lru_cache(maxsize=4)
def _initializer(model: Model, structure: PyTreeDef, where: tuple[Sharding, ...]) -> Callable[[jax.Array], Params]:
    """`model.init`, compiled once for all probes. The arguments are hashable, which trees of shardings are not."""
    return jit_once(model.init, out_shardings=jax.tree.unflatten(structure, where))


def fetch(array: jax.Array) -> np.ndarray:
    """An array on this host, even if its parts lie in other processes."""
    # Every process reaches the same branch, because all of them see the same sharding.
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def batches(arrays: Batch, rows: int, name: str) -> Iterator[tuple[Batch, int]]:
    """Cut arrays along the first axis into batches of exactly `rows` rows, with the number of real rows in each.

    The last batch is filled with copies of its last row: one shape means one compilation. A progress bar appears where
    the whole takes long.
    """
    total = len(next(iter(arrays.values())))
    starts = range(0, total, rows)
    with tqdm(total=len(starts), desc=name, delay=SECONDS_BEFORE_A_BAR, leave=False) as bar:
        for start in starts:
            # Indices past the end become the last row.
            index = np.minimum(np.arange(start, start + rows), total - 1)
            yield {key: value[index] for key, value in arrays.items()}, min(rows, total - start)
            bar.update()


def padded(sequences: Sequence[np.ndarray], length: int) -> Batch:
    """Token sequences as rows of one shape: tokens, positions, segment_ids (N, length) int32. Longer ones are cut."""
    # (N,) tokens kept of each text.
    lengths = np.minimum([len(s) for s in sequences], length)
    # (N, length), 0, 1, 2 and so on in every row. One text a row, so segment 1 is the text and segment 0 is padding.
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (len(sequences), length))
    segment_ids = (positions < lengths[:, None]).astype(np.int32)
    tokens = np.zeros((len(sequences), length), np.int32)
    if len(sequences):
        # A boolean index runs row by row, in the order of the concatenated texts.
        tokens[segment_ids > 0] = np.concatenate([s[:length] for s in sequences])
    return {"tokens": tokens, "positions": positions, "segment_ids": segment_ids}


def levels(model: Model) -> tuple[int, ...]:
    """All levels of a model, from 0 (embedding output) to L (after the final norm)."""
    return tuple(range(model.num_layers + 1))


def hidden_levels(model: Model, batch: Batch) -> jax.Array:
    """Hidden states of all levels, (L+1, B, T, D) float32."""
    every = levels(model)
    states = model.hidden(Inputs.of(batch), levels=every)
    return jnp.stack([states[level].astype(jnp.float32) for level in every])


def next_token_scores(model: Model, batch: Batch, rows: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Scores of a causal model at every position, under the full softmax.

    Args:
      batch: tokens, positions, segment_ids, targets (B, T).
      rows: (V,) bool, a set of vocabulary rows.

    Returns:
      (nll, log_mass), both (B, T) float32: -log p(target), and the log of the probability that falls on `rows`.
      The loss renormalised over `rows` is nll + log_mass.
    """
    # (B, T, D) states of the last level, then what meets the head's rows.
    top = model.num_layers
    states = model.hidden(Inputs.of(batch), levels=(top,))
    inputs = model.head_input(states[top])

    def scores(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        everything = jax.nn.logsumexp(logits)
        # The log of a sum over some rows, relative to the sum over all of them.
        return everything - logits[target], jax.nn.logsumexp(logits, where=rows) - everything

    return map_logits(model, inputs, jnp.asarray(batch["targets"]), scores)


def map_logits(
    model: Model,
    inputs: jax.Array,
    targets: jax.Array,
    compute: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """Two scalars for each place, from the logits (V,) float32 and the target there; no more logits than fit.

    Args:
      inputs: (B, T, D) what meets the head's rows (`Model.head_input`).
      targets: (B, T) int32.

    Returns:
      both results, (B, T) each.
    """
    # (V, D) and (V,) or None, in float32: a sum over the vocabulary loses digits in bfloat16.
    weight, bias = model.head_weight().astype(jnp.float32), model.head_bias()

    # One position at a time, mapped over chunks of positions. Without the checkpoint, a gradient would keep all logits.
    @jax.checkpoint
    def one(item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # (V,) logits of one position.
        logits = weight @ item[0].astype(jnp.float32)
        return compute(logits if bias is None else logits + bias, item[1])

    # (B*T, D) inputs and (B*T,) targets. `batch_size` positions are computed together, as many as LOGITS_AT_ONCE
    # allows.
    flat = (inputs.reshape(-1, inputs.shape[-1]), targets.reshape(-1))
    first, second = jax.lax.map(one, flat, batch_size=max(1, LOGITS_AT_ONCE // model.vocabulary_size))
    return first.reshape(targets.shape), second.reshape(targets.shape)


# For probes that only need the scores. The gradient probe differentiates `next_token_scores` itself.
compiled_scores = jax.jit(next_token_scores)


def score(model: Model, arrays: Batch, rows: np.ndarray, batch: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`next_token_scores` of any number of rows (N, T), in batches of one shape: nll and log_mass, (N, T) each."""
    # Other arrays, such as weights, stay on the host.
    inputs = {key: arrays[key] for key in ("tokens", "positions", "segment_ids", "targets")}
    found = []
    for cut, real in batches(inputs, batch, name):
        # The copies that filled the last batch are dropped.
        found.append([fetch(part)[:real] for part in compiled_scores(model, cut, rows)])
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


@jax.jit
def _text_vectors(model: Model, batch: dict[str, Any]) -> dict[str, jax.Array]:
    """By pooling: (L+1,B,D) float32 vectors of rows that hold one text each."""
    states = hidden_levels(model, batch)  # (L+1,B,T,D)
    found = {}
    for pooling in ("mean", "first"):
        # (B,T) the segment to whose vector a token belongs: 1, the only segment, or 0 for none.
        own = pooled_tokens(batch["segment_ids"], batch["positions"], batch["special"], pooling)
        # Level by level: (B,T,D) -> (B,1,D), the mean of each segment.
        found[pooling] = jax.vmap(segment_means, (0, None, None))(states, own, 1)[:, :, 0]
    return found


def text_vectors(
    model: Model, tokenizer: Tokenizer, sentences: Sequence[np.ndarray], length: int, batch: int, name: str
) -> dict[str, np.ndarray]:
    """Vectors of texts (words or sentences) by pooling, (L+1, N, D) float32 each. Every text stands alone.

    "mean" is the mean over a text's own tokens, without bos and eos. "first" is the state of the first token read.
    """
    arrays = framed(model, tokenizer, sentences, length)
    # (N, length) bool, tokens that are no part of the text.
    arrays["special"] = tokenizer.special[arrays["tokens"]]
    # Batch by batch, {pooling: (L+1, real rows, D)}, joined along N.
    parts = [
        {pooling: fetch(found)[:, :real] for pooling, found in _text_vectors(model, cut).items()}
        for cut, real in batches(arrays, batch, name)
    ]
    return {pooling: np.concatenate([part[pooling] for part in parts], axis=1) for pooling in parts[0]}


def framed(model: Model, tokenizer: Tokenizer, sentences: Sequence[np.ndarray], length: int) -> Batch:
    """Texts x as the model reads them, a row each, like `padded`. Whether x already ends with eos makes no difference.

    A bidirectional model reads bos x eos, with x cut to what `length` leaves. bos or eos is missing where the
    vocabulary has none. A causal model reads x alone.
    """
    # Documents of a store end with eos, and sentences of a file do not.
    own = [s[: len(s) - bool(len(s) and s[-1] == tokenizer.eos)] for s in sentences]
    if model.causal:
        return padded(own, length)
    start, end = ([] if special is None else [special] for special in (tokenizer.bos, tokenizer.eos))
    room = max(0, length - len(start) - len(end))
    return padded([np.concatenate([start, s[:room], end]).astype(np.int32) for s in own], length)


@jax.jit
def _pooled_head(model: Model, batch: Batch) -> jax.Array:
    """(B, D) mean of the head's rows over each row's tokens."""
    # (B, T, 1) mask of tokens, then (B, T, D) rows of the head.
    real = (batch["segment_ids"] > 0)[..., None]
    rows = jnp.where(real, model.head_weight()[batch["tokens"]].astype(jnp.float32), 0.0)
    return rows.sum(1) / jnp.maximum(real.sum(1), 1)


def pool_head(model: Model, sequences: Sequence[np.ndarray], length: int, batch: int) -> np.ndarray:
    """Mean output-head rows of token sequences, (N, D) float32, as vectors of words next to their hidden states."""
    cuts = batches(padded(sequences, length), batch, "head")
    return np.concatenate([fetch(_pooled_head(model, cut))[:real] for cut, real in cuts])


@jax.jit
def _level_sums(model: Model, batch: Batch) -> jax.Array:
    """(L+1, B, D) sums of hidden states over the places `own` of each row."""
    real = batch["own"][None, :, :, None]
    return jnp.where(real, hidden_levels(model, batch), 0.0).sum(2)


def language_means(model: Model, rows: Batch, batch: int) -> np.ndarray:
    """Mean hidden state per level over the places `own` (N,T) bool of some rows, (L+1, D) float32.

    Centring subtracts this mean.
    """
    cuts = batches(rows, batch, "language means")
    # Sums over rows in float64: a mean over millions of places would lose digits in float32.
    total = sum(fetch(_level_sums(model, cut))[:, :real].sum(1, dtype=np.float64) for cut, real in cuts)
    return np.asarray(total / rows["own"].sum(), np.float32)
