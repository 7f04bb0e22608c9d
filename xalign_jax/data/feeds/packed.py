"""Feeds of packed texts: TextFeed (masked LM), TranslationFeed (translation LM), ContrastFeed (contrast)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin

from xalign_jax.data.feeds.packing import Batch, Form, PackedRows, blank_rows
from xalign_jax.data.feeds.pairs import PairExamples, PairItems, Pairs, Pieces
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Feed
from xalign_jax.recipe import at_least_one, freeze

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.store.store import Mixture


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFeed(Feed):
    """Texts for a masked language model: documents are cut into pieces that fit a row, and the pieces are packed.

    The mixture's rates are shares of pieces.

    Attributes:
      length: T, tokens of a row.   slots: S, most pieces of a row.
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "slots")

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: the rates do not fit the mixture, a row is too short for a token, or there is no text.
        """
        mixture = reads(self, mixture)
        own = int(hash64(seed, "TextFeed"))
        # A document is cut into pieces that fill a row together with their specials. The feed's own key keeps its
        # random choices apart from the choices of other feeds with the same seed.
        most = self.length - _specials(corpus, 1)
        if most < 1:
            raise UserError(f"TextFeed.length = {self.length}: no room for a token between bos and eos; raise it")
        pieces = Pieces(corpus.members(mixture, split), mixture, most, own)
        return PackedRows(pieces, mixture, Form(self.length, self.slots), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, Form(self.length, self.slots), "texts")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TranslationFeed(Feed):
    """Translation pairs for a translation language model, packed: "bos a eos b eos", in random order.

    The mixture's rates are shares of pairs. They draw the language of one text; its partner is drawn afterwards.

    Attributes:
      length: T, tokens of a row.   slots: S, most pairs of a row.
      side: most tokens of each text; longer texts are cut and counted.
      pivot: the language of one of the two texts; None = any two languages.
      reset_positions: positions restart at b (XLM, Lample and Conneau 2019, section 3.3).
      language_types: the batch has token types, the language's number in the feed's `languages` (XLM).
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    side: int = gin.REQUIRED
    pivot: str | None = None
    reset_positions: bool = False
    language_types: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "side", "slots")

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: there are no translation pairs, a language of the rates has none, or the sides do not fit a row.
        """
        _check_side(self, 2, corpus)
        own = int(hash64(seed, "TranslationFeed"))
        # One view: both texts of a pair lie one after another in the same row.
        items = PairItems(_examples(self, corpus, mixture, own, split), 1, False, self.side, own)
        return PackedRows(items, reads(self, mixture), self._form(), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "pairs")

    def _form(self) -> Form:
        return Form(self.length, self.slots, self.reset_positions, self.language_types)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ContrastFeed(Feed):
    """Translation pairs for a contrast, as queries and keys in separate rows. The side that is the query is random.

    The mixture's rates are shares of pairs. They draw the language of one text; its partner is drawn afterwards.

    Attributes:
      length: T, tokens of a row.   slots: S, most items of a row.
      side: most tokens of each text; longer texts are cut and counted.
      pivot: the language of one of the two texts; None = any two languages.
      mixup: an item holds two pairs: query "bos s1 eos s2 eos", key "bos t1 eos t2 eos". Each of the two has its own
        random order (InfoXLM, Chi et al. 2021, section 3.3).
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    side: int = gin.REQUIRED
    pivot: str | None = None
    mixup: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "side", "slots")

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: there are no translation pairs, a language of the rates has none, or the sides do not fit a row.
        """
        _check_side(self, 2 if self.mixup else 1, corpus)
        own = int(hash64(seed, "ContrastFeed"))
        # Two views: queries and keys are packed into separate rows, an item into the same slot of both.
        items = PairItems(_examples(self, corpus, mixture, own, split), 2, self.mixup, self.side, own)
        return PackedRows(items, reads(self, mixture), Form(self.length, self.slots), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, Form(self.length, self.slots), "pairs", views=2, texts=2 if self.mixup else 1)


def _specials(corpus: Corpus, texts: int) -> int:
    """The specials of a sequence of so many texts: an eos for each, and a bos if the vocabulary has one."""
    return texts + (corpus.tokenizer.bos is not None)


def reads(feed: Any, mixture: Mixture | None) -> Mixture:
    """The mixture of a feed that reads text. Raises UserError where there is none."""
    if mixture is None:
        raise UserError(f"Stream.mixture: a {type(feed).__name__} reads text; bind a Mixture")
    return mixture


def _check_side(feed: Any, texts: int, corpus: Corpus) -> None:
    """Raise UserError if a sequence of so many texts of `side` tokens is longer than a row."""
    name, needed = type(feed).__name__, texts * feed.side + _specials(corpus, texts)
    if needed > feed.length:
        raise UserError(
            f"{name}.side = {feed.side}: {texts} of them with their specials take {needed} tokens, more than "
            f"{name}.length = {feed.length}; lower the side or raise the length"
        )


def _examples(feed: Any, corpus: Corpus, mixture: Mixture | None, seed: int, split: str) -> PairExamples:
    """The translation pairs of a mixture. Raises UserError if there are none, or none with the pivot."""
    name, mixture = type(feed).__name__, reads(feed, mixture)
    if by_source := [member for member in mixture.named if ":" in member]:
        raise UserError(f"Mixture.rates names {by_source[0]!r}: a {name} draws pairs by language, so name languages")
    # Pairs are of base languages, because clones have no texts of their own.
    languages = {member.text for member in corpus.members(mixture, split)}
    stores = [
        store
        for task in mixture.tasks
        for language, store in corpus.stores[task].get(split, {}).items()
        if language in languages
    ]
    known = sorted({store.language for store in stores})
    # Without the pivot's text, and without any two texts of one group, there is no pair.
    if feed.pivot is not None and feed.pivot not in known:
        raise UserError(f"{name}.pivot = {feed.pivot!r}: the mixture's {split} text is in {', '.join(known) or 'none'}")
    pairs = Pairs(stores, feed.pivot) if stores else None
    if pairs is None or not len(pairs.group):
        raise UserError(
            f"Mixture.tasks = {mixture.tasks}: no {split} text has a translation in these tasks, which a {name} needs; "
            f"add parallel text ({'of the pivot ' + repr(feed.pivot) if feed.pivot else 'tsv:, pairs:, or group_id'})"
        )
    return PairExamples(pairs, mixture, seed)
