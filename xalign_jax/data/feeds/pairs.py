"""The index of groups, and the texts of an item: pieces, translation pairs, mixed pairs, all texts of whole groups.

All are pure functions of item numbers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from xalign_jax.data.corpus import FACTS, Member
from xalign_jax.data.feeds.items import Items, Numbered
from xalign_jax.data.feeds.members import Members
from xalign_jax.data.feeds.packing import ranges
from xalign_jax.data.sampling.hashing import hash64, permute, uniform
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Blocks, Epochs, MemberRows, member_rows
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store.store import Store
from xalign_jax.errors import UserError


class Pieces(Numbered):
    """Documents cut into pieces of at most `most` tokens. Every piece is an item and comes once in an epoch.

    The mixture's rates are shares of items. A language and its clones share one cursor, so no piece comes in two
    languages within an epoch. Empty documents are left out and counted, and so are those that `Mixture.where` leaves out.
    """

    unit = "texts"
    units = 1

    def __init__(self, members: Sequence[Member], mixture: Mixture, most: int, seed: int) -> None:
        pieces = {member.name: sum(int(_cuts(s, most).sum()) for s in _sizes(member)) for member in members}
        self._texts = {member.name: member.text for member in members}
        self._pieces = pieces
        self.rows = self._drawn(mixture)
        self._most, self._members = most, Members(members, self.rows, seed)
        self.languages, self.tokens = self._members.languages, self._members.tokens
        self.tasks = self._members.tasks
        # (D,) documents of all arrays: first token, tokens without eos. `_first` (D + 1,): each document's first piece.
        offsets = [offsets for member in self._members.texts for offsets in member.offsets]
        self._starts = np.concatenate([offset[:-1] for offset in offsets])
        sizes = [size for member in self._members.texts for size in _sizes(member)]
        self._sizes = np.concatenate(sizes)
        self._store_documents = np.cumsum([0, *(len(offset) - 1 for offset in offsets)])
        self._first = np.cumsum(np.concatenate([[0], *(_cuts(size, most) for size in sizes)]))
        # (C + 1,): the first piece of each text, by way of its first token array and that array's first document.
        first = self._first[self._store_documents[self._members.arrays]]
        self._epochs = Epochs(self._members.blocks(seed), first[:-1], np.diff(first), self._members.key)
        every = int(np.count_nonzero(np.concatenate([np.diff(offset) for offset in offsets]) > 1))
        used = int(np.count_nonzero(self._sizes))
        self.report = {"documents": used, "pieces": int(self._first[-1]), "empty": len(self._sizes) - every}
        if mixture.where:
            self.report["left out by Mixture.where"] = every - used

    def _drawn(self, mixture: Mixture) -> MemberRows:
        """Pieces of each member in the blocks of a mixture. A piece is a row of its text."""
        items = {text: self._pieces[name] for name, text in self._texts.items()}
        return limited_rows(self._pieces, mixture, self._texts, items, only_explicit=(FACTS,))

    def drawn_by(self, mixture: Mixture) -> Pieces:
        """A copy that draws the same members at other rates."""
        other = copy.copy(self)
        other.rows = self._drawn(mixture)
        other._epochs = with_rows(self._epochs, self.rows.names, other.rows)
        return other

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0; V = P = 1."""
        # (I,): item -> piece -> document and the piece's start within it -> token array and start there.
        member, _, piece, _ = self._epochs.locate(number)
        document = np.searchsorted(self._first, piece, side="right") - 1
        before = (piece - self._first[document]) * self._most
        size = np.minimum(self._sizes[document] - before, self._most)
        store = np.searchsorted(self._store_documents, document, side="right") - 1
        start, language, k = self._starts[document] + before, self._members.language[member], self._members.k[member]
        store, start, size, language, k = (column[:, None, None] for column in (store, start, size, language, k))
        cut, none = (self._sizes[document] > self._most).astype(np.int64), np.zeros((len(number), 0))
        return Items(store, start, size, language, k, cut, np.ones_like(size), none, none)


def with_rows(epochs: Epochs, names: tuple[str, ...], rows: MemberRows) -> Epochs:
    """The epochs of the members `names` with other numbers of rows; those that `rows` lacks have none."""
    counts = np.zeros((len(rows.start), len(names)), np.int64)
    counts[:, [names.index(name) for name in rows.names]] = rows.counts
    return dataclasses.replace(epochs, blocks=dataclasses.replace(epochs.blocks, counts=counts, start=rows.start))


def _sizes(member: Member) -> list[np.ndarray]:
    """For each array of a member (D,) int64: tokens of each document without its eos, 0 for those that are not read."""
    sizes = [np.diff(offsets) - 1 for offsets in member.offsets]
    return [s if c is None else np.where(c, s, 0) for s, c in zip(sizes, member.chosen, strict=True)]


def _cuts(sizes: np.ndarray, most: int) -> np.ndarray:
    """(D,) int64: pieces of documents of (D,) tokens."""
    return -(-sizes // most)


class Choice(NamedTuple):
    """Which texts of a group may stand together.

    Attributes:
      pivot: one of the languages of every pair; None = any two languages.
      pairs: the only pairs of languages, (first, second) each; () = all pairs.
      least: languages that a group must have.
    """

    pivot: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    least: int = 2


class Pairs:
    """D documents that have a translation, sorted by group, then language, and a way to draw a partner for each.

    Attributes:
      tokens, tasks: token arrays of the stores, and the task of each.
      languages: all languages of the stores, sorted.
      report: counts of documents: used, empty, without a translation.
      degrees: {n: number of groups that have texts in n languages}, whether they are used or not.
      store, start, size: (D,) int64, each document's token array, its first token there, its tokens without eos.
      text: (D,) uint32, hash of its text.
      language: (D,) int64, index into `languages`.
      group: (D,) int32, equal for documents that translate each other.
      by_language: (D,) int64, the documents sorted by language.
      per_language: (L,) int64, documents of each language.
      first: (L, L) bool, a text in language a comes before one in language b, where the choice gives an order.
      group_first, group_count: (G,) int64, the first document of each group, and how many it has.
    """

    def __init__(self, stores: Sequence[Store], choice: Choice, where: Any = ()) -> None:
        self.tokens, self.tasks = [store.tokens for store in stores], [store.task for store in stores]
        self.languages = tuple(sorted({store.language for store in stores}))
        self.first = _directions(self.languages, choice)
        self._allowed = self.first | self.first.T
        # Columns over all documents of all stores, one store after another.
        size = np.concatenate([np.diff(store.offsets) - 1 for store in stores])
        group = _dense_groups(stores)
        count = [len(store.offsets) - 1 for store in stores]
        language = np.repeat([self.languages.index(store.language) for store in stores], count)
        # Documents that count -> their numbers, sorted by group and, within a group, by language.
        chosen = [store.selected(where) for store in stores]
        left_out = np.concatenate([np.zeros(n, bool) if c is None else ~c for n, c in zip(count, chosen, strict=True)])
        used = (size > 0) & (group >= 0) & ~left_out
        used[used], self.degrees = _translated(group[used], language[used], self._allowed, choice.least)
        order = np.flatnonzero(used)
        order = order[np.lexsort((language[order], group[order]))]
        empty = int(np.count_nonzero((size == 0) & ~left_out))
        alone = int(np.count_nonzero(~left_out)) - empty - len(order)
        self.report = {"documents": len(order), "empty": empty, "without translation": alone}
        if where:
            self.report["left out by Mixture.where"] = int(np.count_nonzero(left_out))
        self.store = np.repeat(np.arange(len(stores)), count)[order]
        self.start = np.concatenate([store.offsets[:-1] for store in stores])[order]
        self.text = np.concatenate([store.text_hash for store in stores])[order]
        self.size, self.language = size[order], language[order]
        self.group = np.unique(group[order], return_inverse=True)[1].astype(np.int32)
        self.group_first = np.unique(self.group, return_index=True)[1]
        self.group_count = np.diff(self.group_first, append=len(self.group))
        self.by_language = np.argsort(self.language, kind="stable")
        self.per_language = np.bincount(self.language, minlength=len(self.languages))

    def mates(self, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All documents of groups (I,): the number of the group in this list, and the document; (sum of counts,)."""
        count = self.group_count[group]
        return np.repeat(np.arange(len(group)), count), ranges(self.group_first[group], count)

    def partner(self, document: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """A translation of each document: (I,) int64 documents, (I,) uint64 draws -> (I,) int64 documents.

        It is any document of the group in a language that the choice allows.
        """
        # (N,) all documents of the groups -> those in an allowed language -> the n-th of each document's own ones.
        owner, other = self.mates(self.group[document])
        fits = self._allowed[self.language[document[owner]], self.language[other]]
        owner, other = owner[fits], other[fits]
        count = np.bincount(owner, minlength=len(document))
        nth = (draw % count.astype(np.uint64)).astype(np.int64)
        return other[np.cumsum(count) - count + nth]


def _directions(languages: Sequence[str], choice: Choice) -> np.ndarray:
    """(L, L) bool: a pair of these two languages is allowed in this order. Without a pivot or pairs, in both."""
    first = np.zeros((len(languages), len(languages)), bool)
    if choice.pairs:
        for one, other in choice.pairs:
            first[languages.index(one), languages.index(other)] = True
    elif choice.pivot is not None:
        first[languages.index(choice.pivot)] = True
    else:
        first[:] = True
    np.fill_diagonal(first, False)
    return first


def _dense_groups(stores: Sequence[Store]) -> np.ndarray:
    """(D,) int64: groups of all documents, numbered so that no two tasks share a number; -1 = no group."""
    first: dict[str, int] = {}
    total = 0
    for task in dict.fromkeys(store.task for store in stores):
        first[task] = total
        total += 1 + max(int(store.group.max(initial=-1)) for store in stores if store.task == task)
    return np.concatenate(
        [np.where(store.group >= 0, store.group.astype(np.int64) + first[store.task], -1) for store in stores]
    )


def _translated(
    group: np.ndarray, language: np.ndarray, allowed: np.ndarray, least: int
) -> tuple[np.ndarray, dict[int, int]]:
    """(D,) bool: the document's group has `least` languages, and one that is allowed with the document's own.

    Args:
      group: (D,) int64.   language: (D,) int64.   allowed: (L, L) bool.

    Returns:
      The booleans, and {n: number of groups in n languages}.
    """
    # (D,) groups as 0, 1, ... -> (R,) runs: distinct pairs of group and language.
    dense = np.unique(group, return_inverse=True)[1]
    runs, run = np.unique(dense * len(allowed) + language, return_inverse=True)
    run_group, run_language = np.divmod(runs, len(allowed))
    degree = np.bincount(run_group)
    # (R,) bool, one language after another: the run's group has it, and it is allowed with the run's.
    paired = np.zeros(len(runs), bool)
    for other in range(len(allowed)):
        has = np.zeros(len(degree), bool)
        has[run_group[run_language == other]] = True
        paired |= has[run_group] & allowed[run_language, other]
    counts = np.bincount(degree)
    degrees = {n: int(count) for n, count in enumerate(counts.tolist()) if count}
    return (paired & (degree[run_group] >= least))[run], degrees


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
        other._epochs = with_rows(self._epochs, self.rows.names, other.rows)
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
