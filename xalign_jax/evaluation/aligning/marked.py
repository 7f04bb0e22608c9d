"""Aligns words by a head that gold links trained: each word is marked in turn, and the head judges its translation."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from xalign_jax.alignment.marking import HEAD, marked_scores
from xalign_jax.alignment.scores import Calibration
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.marked import Both, MarkedRow, Marking, WordEncoder, words_to_mark
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.neural import row_width, tokens_of_batch
from xalign_jax.evaluation.aligning.pairs import Alignment
from xalign_jax.evaluation.encode import Batch, batches, fetch, padded
from xalign_jax.interfaces import Inputs
from xalign_jax.models.model import Model

THRESHOLD = 0.5


class MarkedAligner:
    """Links words by a trained head (Latouche et al. 2024, arXiv 2407.12881).

    The probability that word j translates the marked word i is the largest one of j's tokens. Both directions are run,
    and two words are linked if the mean of their two probabilities exceeds the threshold.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        marker: str,
        level: int,
        *,
        threshold: float = THRESHOLD,
        spaced: bool = True,
        calibration: Calibration | None = None,
        batch_tokens: int | None = None,
        name: str = "the model",
    ):
        """Args:
          model: with its parameters and the head.
          marker, level: those of the training.
          spaced: as in `NeuralAligner`.
          calibration: applied to the probabilities of links; None = they stay as they are.
          batch_tokens: of a batch, with padding, counted as for `NeuralAligner` on each of two sides; None = its default.
          name: of the model, for the user.

        Raises:
          UserError: the model has no such head, or its vocabulary has no token for the marker.
        """
        if HEAD not in model.heads:
            raise UserError(
                f"{name}: no head {HEAD!r} there; train recipes/marked_words.gin, or choose another --method"
            )
        self.longer, self.way, self.calibration = 0, f"{name}, level {level}, marked", calibration
        self._model, self._level, self._threshold = model.up_to(level), level, threshold
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
        for (pair, side, word), row, values in self._judged(both):
            judged = row.words[: len(values)] >= 0
            np.maximum.at(found[pair][side][word], row.words[: len(values)][judged], values[judged])
        return [self._links((forward + backward.T) / 2) for forward, backward in found]

    def _links(self, probability: np.ndarray) -> Alignment:
        """The links of a pair, from probabilities (m,n)."""
        places = np.argwhere(probability > self._threshold)
        values = probability[tuple(places.T)]
        values = self.calibration(values) if self.calibration else values
        return Alignment(tuple((i, j) for i, j in places.tolist()), tuple(values.tolist()))

    def _judged(self, pairs: Sequence[Both]) -> Iterator[tuple[list[int], MarkedRow, np.ndarray]]:
        """(pair, side, word), the marked row, and the probability of each token that the model reads; (n,) float32."""
        examples = words_to_mark(pairs)
        sizes = np.array([sum(len(side.tokens) for side in both) for both in pairs], np.int64)[examples[:, 0]]
        order = np.argsort(-sizes, kind="stable")
        while len(order):
            width = min(row_width(int(sizes[order[0]]) + self._marking.frame), self._model.max_length)
            count = max(1, self._batch_tokens // width)
            chosen, order = examples[order[:count]].tolist(), order[count:]
            rows = [self._marking.row(pairs[pair], side, word) for pair, side, word in chosen]
            # One shape for each width: `batches` fills the batch with copies of its last row.
            ((batch, real),) = batches(padded([row.tokens for row in rows], width), count, "align")
            values = fetch(_probabilities(self._model, batch, self._level))[:real]
            if not np.isfinite(values).all():
                raise UserError("the head's probabilities are not finite; try float32, or another --step")
            for example, row, own in zip(chosen, rows, values, strict=True):
                yield example, row, own[: len(row.tokens)]


@functools.partial(jax.jit, static_argnames="level")
def _probabilities(model: Model, batch: Batch, level: int) -> jax.Array:
    """(B,T) float32: that each token translates the marked word of its row."""
    states = model.hidden(Inputs.of(batch), levels=(level,))[level]
    return jax.nn.sigmoid(marked_scores(states, model.heads[HEAD]))
