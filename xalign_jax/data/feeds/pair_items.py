"""The texts of an item that is made of translations: pairs, mixed pairs, all texts of whole groups.

All are pure functions of item numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Self

import numpy as np

from xalign_jax.data.feeds.items import Items, Numbered
from xalign_jax.data.feeds.pairs import Pairs
from xalign_jax.data.sampling.hashing import hash64, permute, uniform
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Blocks, Epochs, MemberRows, member_rows
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.errors import UserError


class PairExamples:
    """Translation pairs by number. The mixture's rates draw the language of the first text, then its partner is drawn.

    Within a language's epoch, every text that has a translation is the first text of one pair.
    """

    def __init__(self, pairs: Pairs, mixture: Mixture, seed: int) -> None:
        texts = dict(zip(pairs.languages, pairs.per_language.tolist(), strict=True))
        lacking = [name for name, drawn in mixture.named.items() if drawn and texts.get(name) == 0]
        if lacking:
            raise UserError(
                f"Mixture.rates gives {lacking[0]!r} a rate, but no text in it has a translation; remove it"
            )
        self.rows = rows_by_language(texts, mixture)
        self.pairs, self._seed, self._texts = pairs, seed, texts
        # Each language is a cursor over its part of `by_language`.
        names = self.rows.names
        blocks = Blocks(self.rows.counts, np.arange(len(names)), seed, self.rows.start)
        language = [pairs.languages.index(name) for name in names]
        size = pairs.per_language
        key = np.stack([hash64(seed, "language", name) for name in names])
        self._epochs = Epochs(blocks, (np.cumsum(size) - size)[language], size[language], key)

    def drawn_by(self, mixture: Mixture) -> PairExamples:
        """A copy that draws the same languages at other rates."""
        other = copy.copy(self)
        other.rows = rows_by_language(self._texts, mixture)
        other._epochs = self._epochs.with_rows(self.rows.names, other.rows)
        return other

    def draw(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two documents of the examples with these numbers (I,) int64 >= 0; (I,) int64 each."""
        document = self.first(number)
        return document, self.pairs.partner(document, hash64(self._seed, "partner", number))

    def first(self, number: np.ndarray) -> np.ndarray:
        """The first document of the examples with these numbers; (I,) int64 both."""
        return self.pairs.by_language[self._epochs.locate(number).item]


def rows_by_language(items: Mapping[str, int], mixture: Mixture) -> MemberRows:
    """Items of each language in the blocks of a mixture whose members are languages. `items`: how many each one has."""
    return limited_rows(items, mixture, {name: name for name in items}, items)


class ExampleItems(Numbered):
    """Items that are made of `PairExamples`."""

    def __init__(self, examples: PairExamples) -> None:
        pairs = examples.pairs
        self._examples, self.rows, self.languages = examples, examples.rows, pairs.languages
        self.report, self.degrees = pairs.report, pairs.degrees

    def drawn_by(self, mixture: Mixture) -> Self:
        """A copy that draws the same languages at other rates."""
        other = copy.copy(self)
        other._examples = self._examples.drawn_by(mixture)
        other.rows = other._examples.rows
        return other


class PairItems(ExampleItems):
    """Items of one pair (a text and its translation) or, with `mixup`, of two pairs.

    With one view, the pair is one sequence in a random order. With two views, one side is the query and the other the
    key, at random. With `mixup` the order of the two texts in the query and in the key is drawn as well: InfoXLM's
    eight modes.

    Args:
      side: most tokens of a text; longer texts are cut.
      reverse: the share of pairs whose order is not the one of `Pairs.first`; None = each order is equally likely.
      mismatched: the share of items whose second text is drawn from all texts of its language, so that it seldom
        translates the first. For items of one pair.
    """

    unit = "pairs"

    def __init__(
        self, examples: PairExamples, views: int, mixup: bool, side: int, seed: int, reverse: float | None = None,
        mismatched: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(examples)
        self._views, self._side, self._seed, self._reverse = views, side, seed, reverse
        self._mismatched = mismatched
        self.units = 2 if mixup else 1
        self.tokens, self.tasks = examples.pairs.tokens, examples.pairs.tasks

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0."""
        # (I,) items -> (I * pairs,) examples -> (I, 2 sides, pairs) documents.
        example = (number[:, None] * self.units + np.arange(self.units)).ravel()
        first, second = self._examples.draw(example)
        if self._mismatched:
            second = self._exchanged(second, number)
        document = np.stack([first, second], axis=1).reshape(len(number), self.units, 2)
        return self.of(document.transpose(0, 2, 1), number)

    def _exchanged(self, document: np.ndarray, number: np.ndarray) -> np.ndarray:
        """(I,) int64: documents, some of which are replaced by others of the same language, by their numbers (I,)."""
        pairs = self._examples.pairs
        language = pairs.language[document]
        count = pairs.per_language[language]
        first = (np.cumsum(pairs.per_language) - pairs.per_language)[language]
        other = first + (hash64(self._seed, "other text", number) % count.astype(np.uint64)).astype(np.int64)
        chosen = uniform(self._seed, "mismatched", number) < self._mismatched
        return np.where(chosen, pairs.by_language[other], document)

    def of(self, document: np.ndarray, number: np.ndarray) -> Items:
        """The items of pairs of documents (I, 2, pairs), whose order is drawn by their numbers (I,); int64."""
        pairs = self._examples.pairs
        # (I, 1, 3) bool, three coins: exchange the sides; exchange the query's two texts; exchange the key's.
        lot = hash64(self._seed, "order", number)[:, None, None] >> np.arange(3, dtype=np.uint64) & np.uint64(1) > 0
        exchange = lot[:, :, :1]
        if self._reverse is not None:
            # (I, 1, pairs): exchange what stands in the choice's order and is drawn to be reversed, or neither.
            reversed_ = uniform(self._seed, "reverse", number[:, None, None], np.arange(self.units)) < self._reverse
            language = pairs.language[document]
            exchange = pairs.first[language[:, :1], language[:, 1:]] == reversed_
        document = np.where(exchange, document[:, ::-1], document)
        if self.units == 2:
            document = np.where(lot[:, 0, 1:, None], document[:, :, ::-1], document)
        # (I, 2, pairs) columns are (I, V, P) for two views; one view has both sides as its texts, (I, 1, 2).
        size = np.minimum(pairs.size[document], self._side)
        cut = np.count_nonzero(pairs.size[document] > self._side, axis=(1, 2))
        spans = (pairs.store[document], pairs.start[document], size, pairs.language[document], np.zeros_like(size))
        group, text = pairs.group[document[:, 0]], pairs.text[document]
        if self._views == 1:
            spans = tuple(column.transpose(0, 2, 1) for column in spans)
            group, text = pairs.group[document[:, :, 0]], text.transpose(0, 2, 1)
        return Items(*spans, cut, np.ones_like(spans[2]), group, text)


class WholeGroups:
    """Batches of whole groups. Every text of a group is an item, or the first text of a pair.

    A group comes once in an epoch. An epoch leaves out groups that do not fill its last batch, as `WordFeed` does with
    concepts. So no group comes twice in a batch, and all languages have as many rows as they have texts.

    Args:
      side: most tokens of a text; longer texts are cut.
      items: makes the items of pairs; None = the items are single texts.
    """

    units = 1
    whole_groups = True

    def __init__(self, pairs: Pairs, side: int, seed: int, items: PairItems | None) -> None:
        self._pairs, self._side, self._seed, self._items = pairs, side, seed, items
        self.unit = "texts" if items is None else "pairs"
        self.tokens, self.tasks = pairs.tokens, pairs.tasks
        self.languages, self.degrees = pairs.languages, pairs.degrees
        self.report = {**pairs.report, "groups": len(pairs.group_first)}
        self.rows = member_rows(dict(zip(pairs.languages, pairs.per_language.tolist(), strict=True)), Mixture())

    def drawn_by(self, mixture: Mixture) -> WholeGroups:
        """Itself: rates do not choose among the texts of whole groups."""
        return self

    def block(self, number: int, size: int) -> Items:
        """The items of block `number`, which has `size` groups."""
        # Block -> epoch and place in its order of groups -> groups -> all their documents (I,).
        groups = len(self._pairs.group_first)
        epoch, index = divmod(number, groups // size)
        chosen = permute(index * size + np.arange(size), groups, hash64(self._seed, "groups", epoch))
        pairs, document = self._pairs, self._pairs.mates(chosen)[1]
        lot = np.int64(epoch) * len(self._pairs.group) + document
        if self._items is not None:
            partner = pairs.partner(document, hash64(self._seed, "partner", lot))
            return self._items.of(np.stack([document, partner], axis=1)[:, :, None], lot)
        # (I,) columns -> (I, 1, 1).
        document = document[:, None, None]
        most = np.minimum(pairs.size[document], self._side)
        where = pairs.store[document], pairs.start[document], most, pairs.language[document], np.zeros_like(most)
        cut = (pairs.size[document] > self._side).astype(np.int64).ravel()
        return Items(*where, cut, np.ones_like(most), pairs.group[document[:, 0]], pairs.text[document])
