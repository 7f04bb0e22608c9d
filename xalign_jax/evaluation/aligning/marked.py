"""Aligns words by a head that gold links trained: each word is marked in turn, and the head judges its translation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment import marking, spans
from xalign_jax.alignment.scores import Calibration
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.marked import Both, Marking, WordEncoder, words_to_mark
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.neural import row_width, tokens_of_batch
from xalign_jax.evaluation.aligning.pairs import Alignment
from xalign_jax.evaluation.encode import Batch, batches, fetch, padded
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import Model


class Judge(NamedTuple):
    """A kind of head.

    Attributes:
      method: its name for `xalign align`.
      head: its name in a run, and the name of the recipe that trains it.
      threshold: what the probability of a link must exceed, unless a user says otherwise.
      judge: states (B,T,D), the head, and which tokens are the translation's (B,T) bool -> (B,T) float32, the probability
        that each of these tokens translates the marked word.
    """

    method: str
    head: str
    threshold: float
    judge: Callable[[jax.Array, Mapping[str, jax.Array], jax.Array], jax.Array]


def _of_tokens(states: jax.Array, head: Mapping[str, jax.Array], translation: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(marking.marked_scores(states, head))


# The binary classifier of Latouche et al. 2024 (arXiv 2407.12881), and the spans of Nagata et al. 2020 (arXiv 2004.14516).
WORDS = Judge("marked", marking.HEAD, 0.5, _of_tokens)
SPANS = Judge("spans", spans.HEAD, 0.4, spans.best_spans)
JUDGES = {judge.method: judge for judge in (WORDS, SPANS)}


class MarkedAligner:
    """Links words by a trained head.

    The probability that word j translates the marked word i is the largest one of j's tokens. Both directions are run,
    and two words are linked if the mean of their two probabilities exceeds the threshold.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        marker: str,
        level: int,
        judge: Judge = WORDS,
        *,
        threshold: float | None = None,
        spaced: bool = True,
        calibration: Calibration | None = None,
        batch_tokens: int | None = None,
        name: str = "the model",
    ):
        """Args:
          model: with its parameters and the head.
          marker, level: those of the training.
          judge: the kind of head.
          threshold: None = the judge's.
          spaced: as in `NeuralAligner`.
          calibration: applied to the probabilities of links; None = they stay as they are.
          batch_tokens: of a batch, with padding, counted as for `NeuralAligner` on each of two sides; None = its default.
          name: of the model, for the user.

        Raises:
          UserError: the model has no such head, or its vocabulary has no token for the marker.
        """
        if judge.head not in model.heads:
            raise UserError(
                f"{name}: no head {judge.head!r} there; train recipes/{judge.head}.gin, or choose another --method"
            )
        self.longer, self.way, self.calibration = 0, f"{name}, level {level}, {judge.method}", calibration
        self._model, self._level, self._judge = model.up_to(level), level, judge
        self._threshold = judge.threshold if threshold is None else threshold
        self._encoder, self._marking = WordEncoder(tokenizer, spaced), Marking(tokenizer, marker, "MarkedFeed.marker")
        self._batch_tokens = 2 * (batch_tokens or tokens_of_batch())

    def align(self, pairs: Sequence[Pair]) -> list[Alignment]:
        """The links of each pair. A sentence without words has none."""
        both = self._encoder.encode(pairs)
        lengths = [sum(len(side.tokens) for side in one) + self._marking.frame for one in both]
        self.longer += sum(length > self._model.max_length for length in lengths)
        # (m,n) and (n,m): the probability of each word of the translation, for each marked word of either side.
        found = [
            (np.zeros(shape := (len(p.source), len(p.target)), np.float32), np.zeros(shape[::-1], np.float32))
            for p in pairs
        ]
        for (pair, side, word), words, values in self._judged(both):
            np.maximum.at(found[pair][side][word], words[words >= 0], values[words >= 0])
        return [self._links((forward + backward.T) / 2) for forward, backward in found]

    def _links(self, probability: np.ndarray) -> Alignment:
        """The links of a pair, from probabilities (m,n)."""
        places = np.argwhere(probability > self._threshold)
        values = probability[tuple(places.T)]
        values = self.calibration(values) if self.calibration else values
        return Alignment(tuple((i, j) for i, j in places.tolist()), tuple(values.tolist()))

    def _judged(self, pairs: Sequence[Both]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """(pair, side, word), and for each token of its row the word of the translation and the probability; (W,) each."""
        examples = words_to_mark(pairs)
        sizes = np.array([sum(len(side.tokens) for side in both) for both in pairs], np.int64)[examples[:, 0]]
        order = np.argsort(-sizes, kind="stable")
        while len(order):
            width = min(row_width(int(sizes[order[0]]) + self._marking.frame), self._model.max_length)
            count = max(1, self._batch_tokens // width)
            chosen, order = examples[order[:count]].tolist(), order[count:]
            rows = [self._marking.row(pairs[pair], side, word) for pair, side, word in chosen]
            words = np.full((len(rows), width), -1, np.int32)
            for own, row in zip(words, rows, strict=True):
                own[: len(row.words)] = row.words[:width]
            # One shape for each width: `batches` fills the batch with copies of its last row.
            arrays = padded([row.tokens for row in rows], width) | {"translation": words >= 0}
            ((batch, real),) = batches(arrays, count, "align")
            values = fetch(_probabilities(self._model, batch, self._level, self._judge))[:real]
            if not np.isfinite(values).all():
                raise UserError("the head's probabilities are not finite; try float32, or another --step")
            yield from zip(chosen, words, values, strict=True)


@functools.partial(jax.jit, static_argnames=("level", "judge"))
def _probabilities(model: Model, batch: Batch, level: int, judge: Judge) -> jax.Array:
    """(B,T) float32: that each token translates the marked word of its row."""
    states = model.hidden(Inputs.of(batch), levels=(level,))[level]
    return judge.judge(states, model.heads[judge.head], jnp.asarray(batch["translation"]))
