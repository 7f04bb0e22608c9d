"""The texts of an item: pieces of documents, translation pairs, mixed pairs. All are pure functions of item numbers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from xalign_jax.data.corpus import FACTS, Member
from xalign_jax.data.feeds.members import Members
from xalign_jax.data.feeds.packing import Items
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.sampling.limits import limited_rows
from xalign_jax.data.sampling.mixing import Blocks, Epochs, MemberRows
from xalign_jax.data.store.store import Mixture, Store
from xalign_jax.errors import UserError


class Pieces:
    """Documents cut into pieces of at most `most` tokens. Every piece is an item and comes once in an epoch.

    The mixture's rates are shares of items. A language and its clones share one cursor, so no piece comes in two
    languages within an epoch. Empty documents are left out and counted.
    """

    unit = "texts"
    units = 1

    def __init__(self, members: Sequence[Member], mixture: Mixture, most: int, seed: int) -> None:
        pieces = {member.name: sum(int(_cuts(o, most).sum()) for o in member.offsets) for member in members}
        self._texts = {member.name: member.text for member in members}
        self._pieces = pieces
        self.rows = self._drawn(mixture)
        self._most, self._members = most, Members(members, self.rows, seed)
        self.languages, self.tokens = self._members.languages, self._members.tokens
        self.tasks = self._members.tasks
        # (D,) documents of all arrays: first token, tokens without eos. `_first` (D + 1,): each document's first piece.
        offsets = [offsets for member in self._members.texts for offsets in member.offsets]
        self._starts = np.concatenate([offset[:-1] for offset in offsets])
        self._sizes = np.concatenate([np.diff(offset) for offset in offsets]) - 1
        self._store_documents = np.cumsum([0, *(len(offset) - 1 for offset in offsets)])
        self._first = np.cumsum(np.concatenate([[0], *(_cuts(offset, most) for offset in offsets)]))
        # (C + 1,): the first piece of each text, by way of its first token array and that array's first document.
        first = self._first[self._store_documents[self._members.arrays]]
        self._epochs = Epochs(self._members.blocks(seed), first[:-1], np.diff(first), self._members.key)
        empty = int(np.count_nonzero(self._sizes == 0))
        self.report = {"documents": len(self._sizes) - empty, "pieces": int(self._first[-1]), "empty": empty}

    def _drawn(self, mixture: Mixture) -> MemberRows:
        """Pieces of each member in the blocks of a mixture. A piece is a row of its text."""
        items = {text: self._pieces[name] for name, text in self._texts.items()}
        return limited_rows(self._pieces, mixture, self._texts, items, only_explicit=(FACTS,))

    def drawn_by(self, mixture: Mixture) -> Pieces:
        """A copy that draws the same members at other rates."""
        other = copy.copy(self)
        other.rows = self._drawn(mixture)
        other._epochs = _with_rows(self._epochs, self.rows.names, other.rows)
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
        none = np.zeros((len(number), 0))
        return Items(store, start, size, language, k, (self._sizes[document] > self._most).astype(np.int64), none, none)


def _with_rows(epochs: Epochs, names: tuple[str, ...], rows: MemberRows) -> Epochs:
    """The epochs of the members `names` with other numbers of rows; those that `rows` lacks have none."""
    counts = np.zeros((len(rows.start), len(names)), np.int64)
    counts[:, [names.index(name) for name in rows.names]] = rows.counts
    return dataclasses.replace(epochs, blocks=dataclasses.replace(epochs.blocks, counts=counts, start=rows.start))


def _cuts(offsets: np.ndarray, most: int) -> np.ndarray:
    """(D,) int64: pieces of each document, without its eos. `offsets` is (D + 1,)."""
    return -(-(np.diff(offsets) - 1) // most)


class Pairs:
    """D documents that have a translation, sorted by group, then language, and a way to draw a partner for each.

    Attributes:
      tokens, tasks: token arrays of the stores, and the task of each.
      languages: all languages of the stores, sorted.
      report: counts of documents: used, empty, without a translation.
      store, start, size: (D,) int64, each document's token array, its first token there, its tokens without eos.
      text: (D,) uint32, hash of its text.
      language: (D,) int64, index into `languages`.
      group: (D,) int32, equal for documents that translate each other.
      by_language: (D,) int64, the documents sorted by language.
      per_language: (L,) int64, documents of each language.
    """

    def __init__(self, stores: Sequence[Store], pivot: str | None) -> None:
        self.tokens, self.tasks = [np.asarray(store.tokens) for store in stores], [store.task for store in stores]
        self.languages = tuple(sorted({store.language for store in stores}))
        self._pivot = -1 if pivot is None else self.languages.index(pivot)
        # Columns over all documents of all stores, one store after another.
        size = np.concatenate([np.diff(store.offsets) - 1 for store in stores])
        group = _dense_groups(stores)
        count = [len(store.offsets) - 1 for store in stores]
        language = np.repeat([self.languages.index(store.language) for store in stores], count)
        # Documents that count -> their numbers, sorted by group and, within a group, by language.
        used = (size > 0) & (group >= 0)
        used[used] = _translated(group[used], language[used], self._pivot)
        order = np.flatnonzero(used)
        order = order[np.lexsort((language[order], group[order]))]
        empty = int(np.count_nonzero(size == 0))
        self.report = {"documents": len(order), "empty": empty, "without translation": len(used) - empty - len(order)}
        self.store = np.repeat(np.arange(len(stores)), count)[order]
        self.start = np.concatenate([store.offsets[:-1] for store in stores])[order]
        self.text = np.concatenate([store.text_hash for store in stores])[order]
        self.size, self.language = size[order], language[order]
        self.group = np.unique(group[order], return_inverse=True)[1].astype(np.int32)
        self._bounds()

    def _bounds(self) -> None:
        """Index the documents by group and by run. A run is the documents of one group in one language."""
        # (R,) first document and size of each run; `_run` (D,): the run of each document.
        key = self.group.astype(np.int64) * len(self.languages) + self.language
        _, first, self._run, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        self._run_first, self._run_count = first, count
        # (G,) first document and size of each group.
        self._group_first = np.unique(self.group, return_index=True)[1]
        self._group_count = np.diff(self._group_first, append=len(self.group))
        # (G,) the run of each group that is in the pivot's language; 0 without a pivot, where it is not read.
        is_pivot = self.language[first] == self._pivot
        self._pivot_run = np.zeros(len(self._group_first), np.int64)
        self._pivot_run[self.group[first[is_pivot]]] = np.flatnonzero(is_pivot)
        self.by_language = np.argsort(self.language, kind="stable")
        self.per_language = np.bincount(self.language, minlength=len(self.languages))

    def partner(self, document: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """A translation of each document: (I,) int64 documents, (I,) uint64 draws -> (I,) int64 documents.

        With a pivot, a document in another language gets one in the pivot's language. A document in the pivot's
        language, and every document without a pivot, gets any document of its group in another language.
        """
        run, group = self._run[document], self.group[document]
        others = self._group_count[group] - self._run_count[run]
        # The n-th document of the group that is not of the own run: numbers from the run's start on skip the run.
        chosen = self._group_first[group] + (draw % others.astype(np.uint64)).astype(np.int64)
        chosen += np.where(chosen >= self._run_first[run], self._run_count[run], 0)
        if self._pivot < 0:
            return chosen
        # The n-th document of the pivot's run.
        pivot = self._pivot_run[group]
        of_pivot = self._run_first[pivot] + (draw % self._run_count[pivot].astype(np.uint64)).astype(np.int64)
        return np.where(self.language[document] == self._pivot, chosen, of_pivot)


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


def _translated(group: np.ndarray, language: np.ndarray, pivot: int) -> np.ndarray:
    """(D,) bool: the document's group holds another language (and the pivot, if there is one).

    Args:
      group: (D,) int64.   language: (D,) int64.   pivot: its number; -1 = there is none.
    """
    # (D,) groups as 0, 1, ... -> (R,) distinct pairs of group and language -> (G,) groups of two languages or more.
    dense = np.unique(group, return_inverse=True)[1]
    languages = int(language.max(initial=0)) + 1
    runs = np.unique(dense * languages + language)
    good = np.bincount(runs // languages) >= 2
    if pivot >= 0:
        good &= np.bincount(dense, language == pivot) > 0
    return good[dense]


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
        self.rows = _drawn_pairs(texts, mixture)
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
        other.rows = _drawn_pairs(self._texts, mixture)
        other._epochs = _with_rows(self._epochs, self.rows.names, other.rows)
        return other

    def draw(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two documents of the examples with these numbers (I,) int64 >= 0; (I,) int64 each."""
        document = self.pairs.by_language[self._epochs.locate(number).item]
        return document, self.pairs.partner(document, hash64(self._seed, "partner", number))


def _drawn_pairs(texts: Mapping[str, int], mixture: Mixture) -> MemberRows:
    """Pairs of each language in the blocks of a mixture. `texts`: the documents of each language."""
    return limited_rows(texts, mixture, {name: name for name in texts}, texts)


class PairItems:
    """Items of one pair (a text and its translation) or, with `mixup`, of two pairs.

    With one view, the pair is one sequence in a random order. With two views, one side is the query and the other the
    key, at random. With `mixup` the order of the two texts in the query and in the key is drawn as well: InfoXLM's
    eight modes.

    Args:
      side: most tokens of a text; longer texts are cut.
    """

    unit = "pairs"

    def __init__(self, examples: PairExamples, views: int, mixup: bool, side: int, seed: int) -> None:
        self._examples, self._views, self._side, self._seed = examples, views, side, seed
        self.units = 2 if mixup else 1
        self.tokens, self.languages = examples.pairs.tokens, examples.pairs.languages
        self.tasks = examples.pairs.tasks
        self.report, self.rows = examples.pairs.report, examples.rows

    def drawn_by(self, mixture: Mixture) -> PairItems:
        """A copy that draws the same languages at other rates."""
        other = copy.copy(self)
        other._examples = self._examples.drawn_by(mixture)
        other.rows = other._examples.rows
        return other

    def items(self, number: np.ndarray) -> Items:
        """The items with these numbers, (I,) int64 >= 0."""
        # (I,) items -> (I * pairs,) examples -> (I, 2 sides, pairs) documents.
        example = (number[:, None] * self.units + np.arange(self.units)).ravel()
        document = np.stack(self._examples.draw(example), axis=1).reshape(len(number), self.units, 2)
        document = document.transpose(0, 2, 1)
        # (I, 1, 3) bool, three coins: exchange the sides; exchange the query's two texts; exchange the key's.
        lot = hash64(self._seed, "order", number)[:, None, None] >> np.arange(3, dtype=np.uint64) & np.uint64(1) > 0
        document = np.where(lot[:, :, :1], document[:, ::-1], document)
        if self.units == 2:
            document = np.where(lot[:, 0, 1:, None], document[:, :, ::-1], document)
        pairs = self._examples.pairs
        # (I, 2, pairs) columns are (I, V, P) for two views; one view has both sides as its texts, (I, 1, 2).
        size = np.minimum(pairs.size[document], self._side)
        cut = np.count_nonzero(pairs.size[document] > self._side, axis=(1, 2))
        spans = (pairs.store[document], pairs.start[document], size, pairs.language[document], np.zeros_like(size))
        if self._views == 1:
            spans = tuple(column.transpose(0, 2, 1) for column in spans)
        return Items(*spans, cut, pairs.group[document[:, 0]], pairs.text[document])
