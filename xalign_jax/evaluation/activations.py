"""One pass over texts that captures everything that probes read: pooled states, token states, neurons.

Texts are sorted by length and cut into batches of few shapes, so that little is compiled and little is padding. Each
batch is spread over the mesh in context and its results go to the host at once. So the memory of a device holds one
batch, and the host holds no more than the caller keeps.

Shapes: N texts, B rows of a batch, T tokens of a row, D the width of a level or the size of a site, P poolings.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from xalign_jax.arrays import ROW_AXES
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import SECONDS_BEFORE_A_BAR, Batch, compiled_scores, fetch, padded
from xalign_jax.evaluation.language_maps import Mapped, Stack
from xalign_jax.interfaces import Inputs
from xalign_jax.models.layers import Sites
from xalign_jax.models.model import Model

POOLINGS = ("mean", "weighted", "first", "last")
PROMPTED = (*POOLINGS, "mask")  # of texts that stand in a prompt
Key = int | tuple[str, int]  # a level, or a site of a block: 8, ("mlp", 8)

NUMBERS_AT_ONCE = 2**25  # of captured states on all devices together, 128 MiB of float32
TOKENS_AT_ONCE = 2**13  # most tokens of a batch


@dataclasses.dataclass(frozen=True)
class Want:
    """What a pass captures.

    Attributes:
      levels: from 0, the embedding output, to L, the last block after the final norm.
      poolings: how the states of a text become one vector. "mean" is the mean over its own tokens, without bos and eos.
        "weighted" is sum_t t h_t / sum_t t over all tokens t = 1..T that the model reads (Muennighoff 2022, SGPT, arXiv
        2202.08904). "first" and "last" are the first and the last token that the model reads, "mask" is the one mask token
        of a prompt.
      sites: within blocks, "mlp" (the feed-forward neurons after the activation) or "attention" (its output), of each
        of the levels from 1 on. They are pooled in the same ways.
      tokens: keep the states of all tokens too.
      specials: "mean" is over all tokens that the model reads, as some encoders were trained (e5).
    """

    levels: tuple[int, ...]
    poolings: tuple[str, ...] = ("mean",)
    sites: tuple[str, ...] = ()
    tokens: bool = False
    specials: bool = False

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is captured: levels, then sites."""
        return (*self.levels, *((site, level) for site in self.sites for level in self.levels if level))

    def check(self, model: Model) -> None:
        """Raise UserError for levels, poolings and sites that do not exist."""
        for level in self.levels:
            if isinstance(level, bool) or not isinstance(level, int | np.integer) or not 0 <= level <= model.num_layers:
                raise UserError(
                    f"level {level!r}: the model has levels 0 (embeddings) to {model.num_layers} (the last)"
                )
        if not self.levels:
            raise UserError("no level: name at least one")
        for what, names, known in (("pooling", self.poolings, PROMPTED), ("site", self.sites, Sites._fields)):
            if unknown := [name for name in names if name not in known]:
                raise UserError(f"{what} {unknown[0]!r}: one of {', '.join(known)}")
        if "mask" in self.poolings and model.mask_id is None:
            raise UserError(f"pooling 'mask': the vocabulary has no mask token; one of {', '.join(POOLINGS)}")

    def check_masks(self, model: Model, rows: Iterable[np.ndarray], where: str = "the prefix or the suffix") -> None:
        """Raise UserError for a row (T,) of ids without a mask token, or with several, if its state is wanted.

        Args:
          where: what the user should change.
        """
        for row in rows if "mask" in self.poolings else ():
            if (masks := np.count_nonzero(row == model.mask_id)) != 1:
                raise UserError(
                    f"pooling 'mask': a text has {masks} mask tokens, and one is needed; write [MASK] once in {where}"
                )


class Part(NamedTuple):
    """What was captured of some texts.

    Attributes:
      numbers: (B,) int64, the numbers of the texts.
      pooled: {pooling: {key: (B,D) float32}}.
      tokens: for each of the B texts, {key: (T,D) float32}; [] unless `Want.tokens`.
    """

    numbers: np.ndarray
    pooled: dict[str, dict[Key, np.ndarray]]
    tokens: list[dict[Key, np.ndarray]]


def capture(
    model: Model,
    rows: Sequence[np.ndarray],
    want: Want,
    around: tuple[int, int] = (0, 0),
    name: str = "texts",
    mapped: Mapped | None = None,
) -> Iterator[Part]:
    """Read all rows and yield what was captured, in parts, from the shortest text to the longest.

    Args:
      model: with its parameters. They lie on the mesh in context (`jax.set_mesh`), if there is one.
      rows: (T,) int32 ids of each text, as the model reads it (`inputs.texts.TextReader`).
      around: how many ids of each row stand before and after the text itself: bos and eos.
      name: of the progress bar, which appears where the pass takes long.
      mapped: maps of the rows' languages at a level (`language_maps`). None = the model as it is.

    Raises:
      UserError: a level, a pooling or a site does not exist, maps are not defined there, or a state is not finite.
    """
    want.check(model)
    want.check_masks(model, rows)
    if mapped is not None:
        mapped.check(want)
    stack = None if mapped is None else mapped.maps.stack
    pending: tuple[np.ndarray, Batch, list[jax.Array], list[jax.Array]] | None = None
    most = NUMBERS_AT_ONCE // (model.width * (len(want.levels) + 4 * len(want.sites) * len(want.levels)))
    for index, batch in length_batches(rows, model.max_length, most, name):
        real = batch["segment_ids"] > 0
        end = real.sum(1, keepdims=True) - around[1]
        batch["own"] = real & (batch["positions"] >= around[0]) & (batch["positions"] < end)
        if mapped is not None:
            # Rows that fill the batch are copies of the last one.
            batch["numbers"] = np.pad(mapped.numbers[index], (0, len(real) - len(index)), mode="edge")
        # The device computes this batch while the host takes the one before.
        started = index, batch, *_states(model, batch, want, stack)
        if pending is not None:
            yield _part(*pending, want)
        pending = started
    if pending is not None:
        yield _part(*pending, want)


def pooled(
    model: Model,
    rows: Sequence[np.ndarray],
    want: Want,
    around: tuple[int, int] = (0, 0),
    name: str = "texts",
    mapped: Mapped | None = None,
) -> dict[str, dict[Key, np.ndarray]]:
    """`capture` of pooled states for all texts in their order: {pooling: {key: (N,D) float32}}."""
    found: dict[str, dict[Key, np.ndarray]] = {pooling: {} for pooling in want.poolings}
    for part in capture(model, rows, want, around, name, mapped):
        for pooling, by_key in part.pooled.items():
            for key, vectors in by_key.items():
                if key not in found[pooling]:
                    found[pooling][key] = np.empty((len(rows), vectors.shape[1]), np.float32)
                found[pooling][key][part.numbers] = vectors
    return found


def token_losses(model: Model, rows: Sequence[np.ndarray], around: tuple[int, int], name: str) -> list[np.ndarray]:
    """The loss -log p of each token of each text, given those before it, in nats: (n,) float32 each.

    The first token is scored if the model reads an id before it, such as bos; otherwise nothing predicts it. Ids after
    a text are not scored.

    Args:
      rows, around, name: as in `capture`. The model is causal.

    Raises:
      UserError: a loss is not finite.
    """
    before, after = around
    found: dict[int, np.ndarray] = {}
    # `compiled_scores` also sums the probability of a set of ids: here all of them.
    everything = np.ones(model.vocabulary_size, bool)
    for index, batch in length_batches(rows, model.max_length, TOKENS_AT_ONCE, name):
        # What each place predicts; the last place predicts nothing.
        batch["targets"] = np.pad(batch["tokens"][:, 1:], ((0, 0), (0, 1)))
        nll = fetch(compiled_scores(model, batch, everything)[0])
        for number, losses in zip(index, nll, strict=False):
            # Place t predicts token t + 1, so the first scored token is `first`.
            first, last = max(before, 1), len(rows[number]) - after
            found[int(number)] = losses[first - 1 : last - 1]
            if not np.isfinite(found[int(number)]).all():
                raise UserError(
                    f"text {number} (counted from 0): its probability is not finite; the parameters are damaged"
                )
    return [found[number] for number in range(len(rows))]


def length_batches(
    rows: Sequence[np.ndarray], longest: int, most: int, name: str
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Batches of rows of similar length: (numbers of the rows (B,), arrays (B',T) with B' >= B rows).

    The rows from B on are copies of the last one: all batches of one length T have one shape. T is one of a few lengths.

    Args:
      longest: most tokens of a row.
      most: tokens of a batch, if a row is not longer by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ways = math.prod(mesh.shape[axis] for axis in ROW_AXES if axis in mesh.axis_names)
    lengths = np.array([min(bucket(len(row)), longest) for row in rows], np.int64)
    with tqdm(total=len(rows), desc=name, unit="text", delay=SECONDS_BEFORE_A_BAR, leave=False) as bar:
        for length in np.unique(lengths):
            of_length = np.flatnonzero(lengths == length)
            # As many rows as the memory allows, or fewer where there are fewer: a power of two, on each device.
            room = max(1, min(most, TOKENS_AT_ONCE) // int(length) // ways)
            each = min(1 << (room.bit_length() - 1), 1 << (-(-len(of_length) // ways) - 1).bit_length())
            for start in range(0, len(of_length), each * ways):
                index = of_length[start : start + each * ways]
                filled = np.pad(index, (0, each * ways - len(index)), mode="edge")
                yield index, padded([rows[number] for number in filled], int(length))
                bar.update(len(index))


def bucket(length: int) -> int:
    """The next of the lengths 16, 32, 48, 64, 96, 128, 192, 256, 384, 512 and so on."""
    power = max(16, 1 << (length - 1).bit_length())
    between = power * 3 // 4
    return between if power > 32 and length <= between else power


@functools.partial(jax.jit, static_argnames="want")
def _states(model: Model, batch: Batch, want: Want, stack: Stack | None) -> tuple[list[jax.Array], list[jax.Array]]:
    """By key, in the order of `want.keys`: (P,B,D) pooled states, and (B,T,D) token states if they are wanted."""
    edit = {} if stack is None else stack.edits(batch["numbers"])
    states = model.hidden(Inputs.of(batch), levels=want.levels, capture=want.sites, edit=edit)
    weights = jnp.stack([_weights(batch, pooling, want.specials, model.mask_id) for pooling in want.poolings])
    # In float32: a mean over many tokens loses digits in bfloat16.
    found = [states[key].astype(jnp.float32) for key in want.keys]
    vectors = [jnp.einsum("pbt,btd->pbd", weights, h, precision="highest") for h in found]
    if stack is not None and not stack.inside:
        # Maps of vectors: (P,B,D) -> (B,P,D) -> (P,B,E), at their level alone.
        through = lambda v: stack(v.swapaxes(0, 1), batch["numbers"]).swapaxes(0, 1)  # noqa: E731
        vectors = [through(v) if key == stack.level else v for key, v in zip(want.keys, vectors, strict=True)]
    return vectors, found if want.tokens else []


def _weights(batch: Batch, pooling: str, specials: bool, mask_id: int | None) -> jax.Array:
    """(B,T) float32 weights of a row's tokens in its vector; they sum to 1."""
    real, at = batch["segment_ids"] > 0, batch["positions"]
    if pooling == "mean":
        weights = jnp.asarray(real if specials else batch["own"], jnp.float32)
    elif pooling == "weighted":
        weights = jnp.where(real, at + 1.0, 0.0)
    elif pooling == "mask":
        weights = jnp.asarray(batch["tokens"] == mask_id, jnp.float32)
    else:
        there = at == 0 if pooling == "first" else at == real.sum(1, keepdims=True) - 1
        weights = jnp.asarray(there, jnp.float32)
    return weights / weights.sum(1, keepdims=True)


def _part(
    index: np.ndarray, batch: Batch, vectors: Iterable[jax.Array], states: Iterable[jax.Array], want: Want
) -> Part:
    """The results of a batch on this host, without the rows that filled it."""
    by_key = {key: fetch(found)[:, : len(index)] for key, found in zip(want.keys, vectors, strict=True)}
    for key, found in by_key.items():
        # A state that is not finite makes every mean over it so.
        if not (finite := np.isfinite(found).all((0, 2))).all():
            where = f"level {key}" if isinstance(key, int) else f"{key[0]} of block {key[1]}"
            raise UserError(
                f"{where} is not finite for text {index[~finite][0]} (counted from 0): the model's parameters are "
                "damaged, or its dtype overflows (try float32)"
            )
    by_pooling = {p: {key: found[i] for key, found in by_key.items()} for i, p in enumerate(want.poolings)}
    if not want.tokens:
        return Part(index, by_pooling, [])
    whole = [fetch(found) for found in states]
    lengths = batch["segment_ids"].sum(1)
    rows = range(len(index))
    # Copies, so that a caller who keeps one text does not keep the batch.
    tokens = [{k: h[row, : lengths[row]].copy() for k, h in zip(want.keys, whole, strict=True)} for row in rows]
    return Part(index, by_pooling, tokens)
