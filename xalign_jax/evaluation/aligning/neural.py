"""Aligns words by the hidden states of a model: batches of similar length, one compiled program for each length."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment.extraction import (
    above,
    alignment_probabilities,
    directed_argmax,
    itermax,
    softmax_both_ways,
    unit_cosines,
)
from xalign_jax.alignment.scores import Calibration
from xalign_jax.alignment.symmetrise import SYMMETRISATIONS, heaviest_matching, symmetrise, word_links
from xalign_jax.alignment.transport import sinkhorn
from xalign_jax.data.tokens.vocabulary import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.pairs import Alignment, Pair, alignments
from xalign_jax.evaluation.encode import Batch, fetch, framed
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import Model

METHODS = ("argmax", "itermax", "match", "softmax", "ot")
DIRECTED = ("argmax", "softmax", "ot")  # methods whose two directions differ
CALIBRATION = Calibration(slope=1.0, intercept=0.0)
_TOKENS = 4096  # of each side in a batch, with padding
_KNOWN_WORDS = 2**20  # words whose tokens are remembered
_AHEAD = 2  # batches that are on their way to or from the device


@dataclasses.dataclass(frozen=True)
class Extraction:
    """How similarities become links.

    Attributes:
      level: whose states are compared; from 0 to L.
      method: one of METHODS.
      symmetrise: one of SYMMETRISATIONS, for methods with two directions.
      threshold: of "softmax".
      regularisation: of "ot".
      temperature: divides cosines before the softmax that gives probabilities. No method's links depend on it.
    """

    level: int
    method: str = "itermax"
    symmetrise: str = "intersection"
    threshold: float = 1e-3
    regularisation: float = 0.1
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method={self.method}: one of {', '.join(METHODS)}")
        if self.symmetrise not in SYMMETRISATIONS:
            raise UserError(f"--symmetrise={self.symmetrise}: one of {', '.join(SYMMETRISATIONS)}")
        if self.symmetrise != "intersection" and self.method not in DIRECTED:
            raise UserError(f"--symmetrise: --method={self.method} has no directions; leave --symmetrise out")


class _Encoded(NamedTuple):
    """The tokens of a sentence and the word of each, (n,) int32 each."""

    tokens: np.ndarray
    words: np.ndarray


class _Found(NamedTuple):
    """(B,M,N) each: links of both directions, and probabilities. "match" has similarities in place of links."""

    forward: jax.Array
    backward: jax.Array
    probability: jax.Array


class NeuralAligner:
    """Links words whose contextual states are similar. Source and target sentences are read apart from each other.

    The links do not depend on how pairs are batched, except for the rounding of sums.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        extraction: Extraction,
        *,
        spaced: bool = True,
        calibration: Calibration = CALIBRATION,
        batch_tokens: int = _TOKENS,
    ):
        """Args:
          model: with its parameters.
          spaced: words of scripts without spaces are encoded as after a space, as in texts whose words are apart.
          calibration: applied to the probabilities of links.
          batch_tokens: of each side in a batch, with padding. A batch has one sentence pair at least.

        Raises:
          UserError: the model has no such level.
        """
        if not 0 <= extraction.level <= model.num_layers:
            raise UserError(f"--level={extraction.level}: the model has levels 0 to {model.num_layers}")
        self.longer = 0
        self._model, self._tokenizer, self._extraction = model, tokenizer, extraction
        self._spaced, self._calibration, self._batch_tokens = spaced, calibration, batch_tokens
        self._known: dict[str, np.ndarray] = {}
        # Specials around a sentence, as `framed` puts them.
        specials = [] if model.causal else [tokenizer.bos, tokenizer.eos]
        self._before = int(bool(specials) and specials[0] is not None)
        self._room = model.max_length - sum(special is not None for special in specials)
        self._centre = np.zeros((2, model.width), np.float32)

    def centre_on(self, pairs: Sequence[Pair]) -> None:
        """Subtract, from now on, the mean state of all tokens of these sentences, for each side apart."""
        sums, count = np.zeros((2, self._model.width)), np.zeros((2, 1))
        for batch, words, _ in self._batches([self._encode(pair) for pair in pairs]):
            found, tokens = _sums(self._model, batch, words, self._extraction.level)
            # Copies that fill a batch count twice, which a mean over many sentences does not notice.
            sums, count = sums + fetch(found), count + fetch(tokens)
        self._centre = np.asarray(sums / np.maximum(count, 1), np.float32)

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair. A sentence without words has none."""
        encoded = [self._encode(pair) for pair in pairs]
        self.longer += sum(max(len(side.tokens) for side in both) > self._room for both in encoded)
        found: list[Alignment] = [Alignment()] * len(pairs)
        waiting: collections.deque[tuple[_Found, np.ndarray, np.ndarray]] = collections.deque()
        for batch, words, rows in self._batches(encoded):
            # The device computes while the host works on the batch before.
            waiting.append((_extract(self._model, batch, words, self._centre, self._extraction), words, rows))
            if len(waiting) > _AHEAD:
                self._collect(*waiting.popleft(), found)
        while waiting:
            self._collect(*waiting.popleft(), found)
        return found

    def _encode(self, pair: Pair) -> tuple[_Encoded, _Encoded]:
        """Both sentences as tokens. Each word is encoded by itself, as after a space."""
        new = [word for word in dict.fromkeys(pair.source + pair.target) if word not in self._known]
        if new:
            if len(self._known) > _KNOWN_WORDS:
                self._known.clear()
                new = list(dict.fromkeys(pair.source + pair.target))
            self._known.update(zip(new, self._tokenizer.encode_words(new, self._spaced), strict=True))
        return self._tokens(pair.source), self._tokens(pair.target)

    def _tokens(self, words: Sequence[str]) -> _Encoded:
        ids = [self._known[word] for word in words]
        tokens = np.concatenate([np.zeros(0, np.int32), *ids])
        return _Encoded(tokens, np.repeat(np.arange(len(ids), dtype=np.int32), [len(i) for i in ids]))

    def _batches(self, encoded: Sequence[tuple[_Encoded, _Encoded]]) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        """Inputs of 2 B rows of W tokens, B source sentences and then their B targets, with their words and numbers.

        Yields:
          the inputs; (2B,W) int32 word of each token, -1 where there is none; (b,) the numbers of the pairs.
        """
        lengths = np.array([[min(len(side.tokens), self._room) for side in both] for both in encoded]).reshape(-1, 2)
        # Pairs without a token on one side have no links. The longest come first, so that a batch knows its width.
        order = np.argsort(-lengths.max(1), kind="stable")
        order = order[lengths.min(1)[order] > 0]
        frame = self._model.max_length - self._room
        while len(order):
            width = min(_width(int(lengths[order[0]].max()) + frame), self._model.max_length)
            count = max(1, self._batch_tokens // width)
            rows, order = order[:count], order[count:]
            # One shape for each width: the last batch is filled with copies of its last pair.
            filled = rows[np.minimum(np.arange(count), len(rows) - 1)]
            sides = [encoded[row][side] for side in (0, 1) for row in filled]
            words = np.full((2 * count, width), -1, np.int32)
            for row, sentence in zip(words, sides, strict=True):
                kept = sentence.words[: self._room]
                row[self._before : self._before + len(kept)] = kept
            yield framed(self._model, self._tokenizer, [side.tokens for side in sides], width), words, rows

    def _collect(self, found: _Found, words: np.ndarray, rows: np.ndarray, into: list[Alignment]) -> None:
        """Fetch the links of a batch, and put those of each pair into its place."""
        # (2B,W) -> (2,b,W) words of real pairs; (b,W,W) links of tokens.
        source, target = words.reshape(2, -1, words.shape[1])[:, : len(rows)]
        forward, backward, probability = (fetch(part)[: len(rows)] for part in found)
        if self._extraction.method == "match":
            links = heaviest_matching(forward, source >= 0, target >= 0)
        else:
            links = symmetrise(forward, backward, self._extraction.symmetrise)
        found_words = word_links(links, probability, source, target)
        values = self._calibration(found_words.probability)
        of_rows = alignments(found_words.row, found_words.source, found_words.target, values, len(rows))
        for row, alignment in zip(rows.tolist(), of_rows, strict=True):
            into[row] = alignment


@functools.partial(jax.jit, static_argnames="extraction")
def _extract(model: Model, batch: Batch, words: jax.Array, centre: jax.Array, extraction: Extraction) -> _Found:
    """Links of tokens, from 2 B rows of W tokens, their words (2B,W), and the means (2,D) of both sides."""
    # (2B,W,D) -> two of (B,W,D), each without its side's mean.
    source, target = _states(model, batch, extraction.level) - centre[:, None, None]
    source_mask, target_mask = jnp.split(words >= 0, 2)
    similarity = unit_cosines(source, target)
    # The probability of a pair of tokens is the geometric mean of both directions' softmax.
    ways = softmax_both_ways((2 * similarity - 1) / extraction.temperature, source_mask, target_mask)
    probability = jnp.sqrt(ways[0] * ways[1])
    if extraction.method == "match":
        return _Found(similarity, similarity, probability)
    if extraction.method == "itermax":
        links = itermax(similarity, source_mask, target_mask)
        return _Found(links, links, probability)
    if extraction.method == "softmax":
        ways = alignment_probabilities(source, target, source_mask, target_mask)
        there = source_mask[:, :, None] & target_mask[:, None]
        forward, backward = (above(way, way, extraction.threshold) & there for way in ways)
        return _Found(forward, backward, probability)
    if extraction.method == "ot":
        cosine = 2 * similarity - 1
        similarity = sinkhorn(cosine, source_mask, target_mask, regularisation=extraction.regularisation)
    return _Found(*directed_argmax(similarity, similarity, source_mask, target_mask), probability)


@functools.partial(jax.jit, static_argnames="level")
def _sums(model: Model, batch: Batch, words: jax.Array, level: int) -> tuple[jax.Array, jax.Array]:
    """(2,D) sums of the states of words on both sides, and (2,1) how many tokens they are of."""
    own = (words >= 0).reshape(2, -1, words.shape[1], 1)
    return jnp.where(own, _states(model, batch, level), 0.0).sum((1, 2)), own.sum((1, 2))


def _states(model: Model, batch: Batch, level: int) -> jax.Array:
    """States of 2 B rows as (2,B,W,D) float32: sources, then targets."""
    states = model.hidden(Inputs.of(batch), levels=(level,))[level].astype(jnp.float32)
    return states.reshape(2, -1, *states.shape[1:])


def _width(length: int) -> int:
    """The width of rows for a length: four steps for each doubling, so that at most a quarter is padding."""
    step = 2 ** max(2, (length - 1).bit_length() - 3)
    return max(16, -(-length // step) * step)
