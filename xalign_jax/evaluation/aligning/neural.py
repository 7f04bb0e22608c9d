"""Aligns words by the hidden states of a model: batches of similar length, one compiled program for each length."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax import target
from xalign_jax.alignment.methods import Extraction, Found, extract, links
from xalign_jax.alignment.scores import Calibration
from xalign_jax.alignment.symmetrise import word_links
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.marked import Both, WordEncoder
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.aligning.pairs import Alignment, alignments
from xalign_jax.evaluation.encode import Batch, fetch, framed
from xalign_jax.evaluation.language_maps import LanguageMaps, Stack
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import Model

# How well it carries to other pairs of languages is in docs/alignment.md.
CALIBRATION = Calibration(0.875, 0.579, "multilingual-e5-small, level 7, itermax, 200 pairs of en-cs")
# Tokens of each side in a batch, with padding. On CPUs, small batches fit the caches and have sentences of equal length.
_BATCH_TOKENS = {"cpu": 512}
_MORE_TOKENS = 2**15
_AHEAD = 2  # batches that are on their way to or from the device


class Way(NamedTuple):
    """A way to link words.

    Attributes:
      level: whose states are compared; from 0 to L.
      extraction: how states become links.
      centred: subtract each side's mean state. Means are taken over the sentence pairs of the first call of `align`.
    """

    level: int
    extraction: Extraction
    centred: bool = False


class _Batch(NamedTuple):
    """B sentence pairs, of which b are real and the others copies.

    Attributes:
      inputs: 2 B rows of W tokens: B source sentences, then their targets.
      words: (2,B,W) int32, the word of each token; -1 at specials and padding.
      rows: (b,) the numbers of the pairs.
    """

    inputs: Batch
    words: np.ndarray
    rows: np.ndarray


class NeuralAligner:
    """Links words whose contextual states are similar. Source and target sentences are read apart from each other.

    Links do not depend on how pairs are batched, except for the rounding of sums.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        ways: Sequence[Way],
        *,
        spaced: bool = True,
        calibration: Calibration = CALIBRATION,
        batch_tokens: int | None = None,
        maps: LanguageMaps | None = None,
        languages: tuple[str, str] | None = None,
        projection: jax.Array | None = None,
        name: str = "the model",
    ):
        """Args:
          model: with its parameters.
          ways: one or more. All of them read the same pass over the model.
          spaced: words of scripts without spaces are encoded as after a space, as in texts whose words are apart.
          calibration: applied to the probabilities of links.
          batch_tokens: of each side in a batch, with padding; None = 512 on CPUs, 32,768 on accelerators. A batch has one
            sentence pair at least.
          maps: states go through the maps of `languages`, (source, target); None = the model as it is.
          projection: (D,d), which states are multiplied with; None = none.
          name: of the model, for the user.

        Raises:
          UserError: the model has no such level, or the maps do not suit the model, the languages or states of tokens.
        """
        for way in ways:
            if not 0 <= way.level <= model.num_layers:
                raise UserError(f"--level={way.level}: the model has levels 0 to {model.num_layers}")
        # Languages of a source and of a target, as numbers of the maps.
        self._stack, self._numbers = None, np.zeros(2, np.int32)
        if maps is not None:
            if languages is None:
                raise UserError(f"align: the model maps by language; say which two of {', '.join(maps.languages)}")
            maps.check(model)
            mapped = maps.of(languages, 2)
            mapped.check(Want(tuple(way.level for way in ways), tokens=True))
            self._stack, self._numbers = maps.stack, mapped.numbers
        self.longer, self._projection = 0, projection
        self._levels = tuple(sorted({way.level for way in ways}))
        self._model, self._tokenizer, self._ways = model.up_to(self._levels[-1]), tokenizer, tuple(ways)
        self.way = f"{name}, level {ways[0].level}, {ways[0].extraction.method}"
        self._encoder, self.calibration = WordEncoder(tokenizer, spaced), calibration
        self._batch_tokens = batch_tokens or tokens_of_batch()
        # Specials around a sentence, as `framed` puts them.
        specials = [] if model.causal else [tokenizer.bos, tokenizer.eos]
        self._before = int(bool(specials) and specials[0] is not None)
        self._room = model.max_length - sum(special is not None for special in specials)
        self._means: dict[int, np.ndarray] | None = None

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair in the first way. A sentence without words has none."""
        return self.align_ways(pairs)[0]

    def align_ways(self, pairs: Sequence[Pair]) -> list[list[Alignment]]:
        """For each way, the links of each pair."""
        encoded = self._encoder.encode(pairs)
        self.longer += sum(max(len(side.tokens) for side in both) > self._room for both in encoded)
        if self._means is None and any(way.centred for way in self._ways):
            self._means = self._measure_means(encoded)
        into = [[Alignment()] * len(pairs) for _ in self._ways]
        waiting: collections.deque[tuple[_Batch, list[Found]]] = collections.deque()
        for batch in self._batches(encoded):
            # The device computes while the host works on an earlier batch.
            waiting.append((batch, self._dispatch(batch)))
            if len(waiting) > _AHEAD:
                self._collect(*waiting.popleft(), into)
        while waiting:
            self._collect(*waiting.popleft(), into)
        return into

    def _batches(self, encoded: Sequence[Both]) -> Iterator[_Batch]:
        """Batches of pairs of similar length, the longest first, so that each batch knows its width at once."""
        lengths = np.array([[min(len(side.tokens), self._room) for side in both] for both in encoded]).reshape(-1, 2)
        # Pairs without a token on one side have no links.
        order = np.argsort(-lengths.max(1), kind="stable")
        order = order[lengths.min(1)[order] > 0]
        frame = self._model.max_length - self._room
        while len(order):
            width = min(row_width(int(lengths[order[0]].max()) + frame), self._model.max_length)
            count = max(1, self._batch_tokens // width)
            rows, order = order[:count], order[count:]
            # One shape for each width: the last batch is filled with copies of its last pair.
            filled = rows[np.minimum(np.arange(count), len(rows) - 1)]
            sides = [encoded[row][side] for side in (0, 1) for row in filled]
            words = np.full((2 * count, width), -1, np.int32)
            for row, sentence in zip(words, sides, strict=True):
                kept = sentence.words[: self._room]
                row[self._before : self._before + len(kept)] = kept
            inputs = framed(self._model, self._tokenizer, [side.tokens for side in sides], width)
            yield _Batch(inputs, words.reshape(2, count, width), rows)

    def _dispatch(self, batch: _Batch) -> list[Found]:
        """Start the computation of a batch: what was found in each way, on the device."""
        states, masks = self._read(batch), batch.words >= 0
        found = []
        for way in self._ways:
            both = states[way.level]
            if way.centred and self._means is not None:
                both = both - self._means[way.level]
            found.append(extract(both[0], both[1], masks[0], masks[1], way.extraction))
        return found

    def _read(self, batch: _Batch) -> dict[int, jax.Array]:
        """The states of a batch."""
        numbers = np.repeat(self._numbers, len(batch.inputs["tokens"]) // 2)
        return _states(self._model, batch.inputs, self._levels, self._stack, numbers, self._projection)

    def _collect(self, batch: _Batch, found: list[Found], into: list[list[Alignment]]) -> None:
        """Fetch the links of a batch, and put those of each pair into its place."""
        # (2,b,W) words of real pairs, then (b,W,W) links of tokens.
        words = batch.words[:, : len(batch.rows)]
        for way, part, places in zip(self._ways, found, into, strict=True):
            forward, backward, probability = (fetch(array)[: len(batch.rows)] for array in part)
            if not np.isfinite(probability).all():
                raise UserError(f"level {way.level}: the model's states are not finite; try another level or float32")
            chosen = links(forward, backward, words[0] >= 0, words[1] >= 0, way.extraction)
            linked = word_links(chosen, probability, words[0], words[1])
            values = self.calibration(linked.probability)
            each = alignments(linked.row, linked.source, linked.target, values, len(batch.rows))
            for row, alignment in zip(batch.rows.tolist(), each, strict=True):
                places[row] = alignment

    def _measure_means(self, encoded: Sequence[Both]) -> dict[int, np.ndarray]:
        """{level: (2,1,1,D)} mean states of all tokens of words, for each side apart."""
        width = self._model.width if self._projection is None else self._projection.shape[1]
        sums = {level: np.zeros((2, width)) for level in self._levels}
        count = np.zeros(2)
        for batch in self._batches(encoded):
            # (2,B,W) tokens of real pairs.
            own = (batch.words >= 0) & (np.arange(batch.words.shape[1]) < len(batch.rows))[:, None]
            states = self._read(batch)
            sums = {level: total + fetch(_sums(states[level], own)) for level, total in sums.items()}
            count += own.sum((1, 2))
        return {
            level: np.asarray(total / np.maximum(count, 1)[:, None], np.float32)[:, None, None]
            for level, total in sums.items()
        }


def default_level(model: Model) -> int:
    """The level whose states are compared unless a user says otherwise: two thirds of the way up."""
    return round(model.num_layers * 2 / 3)


@functools.partial(jax.jit, static_argnames="levels")
def _states(
    model: Model,
    inputs: Batch,
    levels: tuple[int, ...],
    stack: Stack | None,
    numbers: np.ndarray,
    projection: jax.Array | None,
) -> dict[int, jax.Array]:
    """{level: (2,B,W,D) float32} states of 2 B rows: sources, then targets. `numbers` (2 B,) are their languages."""
    edit = {} if stack is None else stack.edits(numbers)
    hidden = model.hidden(Inputs.of(inputs), levels=levels, edit=edit)
    states = {level: hidden[level].astype(jnp.float32) for level in levels}
    if projection is not None:
        states = {level: jnp.matmul(found, projection) for level, found in states.items()}
    return {level: found.reshape(2, -1, *found.shape[1:]) for level, found in states.items()}


@jax.jit
def _sums(states: jax.Array, own: jax.Array) -> jax.Array:
    """(2,D) sums of states (2,B,W,D) where `own` (2,B,W) is True."""
    return jnp.where(own[..., None], states, 0.0).sum((1, 2))


def tokens_of_batch() -> int:
    """Tokens of each side in a batch, unless a user says otherwise."""
    return _BATCH_TOKENS.get(target.platform(), _MORE_TOKENS)


def row_width(length: int) -> int:
    """The width of rows for a length: four steps for each doubling, so that at most a quarter is padding."""
    step = 2 ** max(2, (length - 1).bit_length() - 3)
    return max(16, -(-length // step) * step)
