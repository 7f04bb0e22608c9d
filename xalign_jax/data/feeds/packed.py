"""Feeds of packed texts: TextFeed (masked LM), TranslationFeed (LM on pairs), ContrastFeed (contrast)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gin

from xalign_jax.data.feeds.packing import Batch, Form, PackedRows, blank_rows
from xalign_jax.data.feeds.pair_items import PairExamples, PairItems, WholeGroups
from xalign_jax.data.feeds.pairs import Choice, Pairs
from xalign_jax.data.feeds.pieces import Pieces
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.prompts import prompt
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Feed
from xalign_jax.recipe import at_least_one, freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.sampling.mixture import Mixture


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFeed(Feed):
    """Texts for a masked language model: documents are cut into pieces that fit a row, and the pieces are packed.

    The mixture's rates are shares of pieces.

    Attributes:
      length: T, tokens of a row.   slots: S, most pieces of a row.
      whole_groups: a batch holds all texts of its groups, each one an item. Texts without a translation are left out.
        The batch names the groups, so that `TranslationRanking` can pull all texts of a group together.
      side: most tokens of a text of whole groups; longer texts are cut and counted. None = what a row holds.
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    whole_groups: bool = False
    side: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "slots", "side")
        if self.side is not None and not self.whole_groups:
            raise UserError(f"TextFeed.side = {self.side}: only whole groups are cut; set TextFeed.whole_groups = True")

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
        if self.whole_groups:
            pairs = group_index(self, corpus, mixture, split, Choice())
            side = most if self.side is None else min(self.side, most)
            return _whole(self, WholeGroups(pairs, side, own, None), mixture, self._form(), corpus, rows, own)
        pieces = Pieces(corpus.members(mixture, split), mixture, most, own)
        return PackedRows(pieces, mixture, self._form(), corpus.tokenizer, rows, own)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "texts")

    def _form(self) -> Form:
        return Form(self.length, self.slots, groups=int(self.whole_groups))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TranslationFeed(Feed):
    """Translation pairs for a masked or causal language model, packed: "bos a eos b eos", in random order.

    The mixture's rates are shares of pairs. They draw the language of one text; its partner is drawn afterwards.

    Attributes:
      length: T, tokens of a row.   slots: S, most pairs of a row.
      side: most tokens of each text; longer texts are cut and counted.
      pivot: the language of one of the two texts; None = any two languages.
      pairs: the only pairs of languages, (("en", "de"), ("en", "fr")); () = all, or all with the pivot.
      reverse: the share of pairs whose second text comes first. A pair's first text is the pivot's, or the one that
        `pairs` names first. None = a random order.
      whole_groups: a batch holds all texts of its groups, each once as a pair's first draw.
      reset_positions: positions restart at b (XLM, Lample and Conneau 2019, section 3.3).
      language_types: the batch has token types, the language's number in the feed's `languages` (XLM).
      targets: which tokens a causal language model predicts: "second" = those of b, each given a and the tokens of b
        before it (cross-lingual mapping); "all" = those of a too. None = the batch has no targets.
      mismatched: the share of pairs whose second text is any text of its language. Above 0, the batch names the groups
        of both texts, which are equal where they translate each other (`ParallelSentences`).
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    side: int = gin.REQUIRED
    pivot: str | None = None
    pairs: tuple = ()
    reverse: float | None = None
    whole_groups: bool = False
    reset_positions: bool = False
    language_types: bool = False
    targets: str | None = None
    mismatched: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "side", "slots")
        within(self, "[0, 1]", "mismatched")
        if self.targets is not None:
            one_of(self, "targets", ("second", "all"))
        _check_pairs(self)
        if self.mismatched and self.whole_groups:
            raise UserError(
                "TranslationFeed.mismatched draws texts of other groups: set TranslationFeed.whole_groups = False"
            )

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
        return _pair_rows(self, 1, False, self._form(), corpus, mixture, rows, own, split, self.mismatched)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "pairs")

    def _form(self) -> Form:
        has, second = self.targets is not None, self.targets == "second"
        groups = 2 if self.mismatched else 0
        return Form(self.length, self.slots, self.reset_positions, self.language_types, groups, has, second)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ContrastFeed(Feed):
    """Translation pairs for a contrast, as queries and keys in separate rows. The side that is the query is random.

    The mixture's rates are shares of pairs. They draw the language of one text; its partner is drawn afterwards.

    Attributes:
      length: T, tokens of a row.   slots: S, most items of a row.
      side: most tokens of each text; longer texts are cut and counted.
      pivot: the language of one of the two texts; None = any two languages.
      pairs: the only pairs of languages, (("en", "de"), ("en", "fr")); () = all, or all with the pivot.
      reverse: the share of pairs whose second text is the query. A pair's first text is the pivot's, or the one that
        `pairs` names first. None = a random order.
      whole_groups: a batch holds all texts of its groups, each once as a pair's first draw.
      mixup: an item holds two pairs: query "bos s1 eos s2 eos", key "bos t1 eos t2 eos". Each of the two has its own
        random order (InfoXLM, Chi et al. 2021, section 3.3).
      prefix, suffix: words that stand before and after every text, as the model was trained to read it, such as "query: "
        (e5). [MASK] in them is the mask token, which `pooling = "mask"` reads. They enclose the two texts of a mixup.
    """

    length: int = gin.REQUIRED
    slots: int = gin.REQUIRED
    side: int = gin.REQUIRED
    pivot: str | None = None
    pairs: tuple = ()
    reverse: float | None = None
    whole_groups: bool = False
    mixup: bool = False
    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "length", "side", "slots")
        _check_pairs(self)
        if self.mixup and self.whole_groups:
            raise UserError(
                "ContrastFeed.mixup = True joins texts of two groups: set ContrastFeed.whole_groups = False"
            )

    def check(self, mixture: Mixture | None, lexicon: bool) -> None:
        """Raise UserError if the recipe lacks something that the feed reads. `lexicon`: True if the recipe has one."""
        reads(self, mixture)

    def build(self, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int, split: str = "train") -> PackedRows:
        """The feed over a mixture, `rows` rows a step.

        Raises:
          UserError: there are no translation pairs, a language of the rates has none, the sides do not fit a row, or the
            prompt has a mask that the vocabulary lacks.
        """
        before, after = map(tuple, prompt(corpus.tokenizer, "ContrastFeed", self.prefix, self.suffix))
        _check_side(self, 2 if self.mixup else 1, corpus, len(before) + len(after))
        own = int(hash64(seed, "ContrastFeed"))
        # Two views: queries and keys are packed into separate rows, an item into the same slot of both.
        form = self._form()._replace(before=before, after=after)
        return _pair_rows(self, 2, self.mixup, form, corpus, mixture, rows, own, split)

    def blank(self, rows: int) -> Batch:
        """The arrays of `rows` rows without text, where only shapes matter."""
        return blank_rows(rows, self._form(), "pairs", views=2)

    def _form(self) -> Form:
        return Form(self.length, self.slots, groups=2 if self.mixup else 1)


def _specials(corpus: Corpus, texts: int) -> int:
    """The specials of a sequence of so many texts: an eos for each, and a bos if the vocabulary has one."""
    return texts + (corpus.tokenizer.bos is not None)


def reads(feed: Any, mixture: Mixture | None) -> Mixture:
    """The mixture of a feed that reads text. Raises UserError where there is none."""
    if mixture is None:
        raise UserError(f"Stream.mixture: a {type(feed).__name__} reads text; bind a Mixture")
    return mixture


def _check_side(feed: Any, texts: int, corpus: Corpus, others: int = 0) -> None:
    """Raise UserError if a sequence of so many texts of `side` tokens, with `others`, is longer than a row."""
    name, needed = type(feed).__name__, texts * feed.side + _specials(corpus, texts) + others
    if needed > feed.length:
        raise UserError(
            f"{name}.side = {feed.side}: {texts} of them with their specials take {needed} tokens, more than "
            f"{name}.length = {feed.length}; lower the side or raise the length"
        )


def check_choice(feed: Any) -> None:
    """Raise UserError if a feed's `pairs` are not pairs of two languages, or if it has a pivot as well."""
    name = type(feed).__name__
    seen: set[frozenset[str]] = set()
    for pair in feed.pairs:
        two = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(language, str) for language in pair)
        if not two or pair[0] == pair[1]:
            raise UserError(f'{name}.pairs has {pair!r}: expected two languages, (("en", "de"), ("en", "fr"))')
        if frozenset(pair) in seen:
            raise UserError(f"{name}.pairs names {pair[0]!r} and {pair[1]!r} twice; {name}.reverse sets both orders")
        seen.add(frozenset(pair))
    if feed.pairs and feed.pivot is not None:
        raise UserError(f"{name}.pivot = {feed.pivot!r}: {name}.pairs lists the pairs already; remove one of the two")


def _check_pairs(feed: Any) -> None:
    """`check_choice`, and raise UserError if `reverse` has no order to reverse."""
    name = type(feed).__name__
    check_choice(feed)
    within(feed, "[0, 1]", "reverse")
    if feed.reverse is not None and feed.pivot is None and not feed.pairs:
        raise UserError(
            f"{name}.reverse = {feed.reverse}: which order is the reverse? Bind {name}.pivot or {name}.pairs"
        )


def group_index(feed: Any, corpus: Corpus, mixture: Mixture, split: str, choice: Choice, limit: str = "") -> Pairs:
    """The groups of a mixture's texts.

    Args:
      limit: the binding that gives `choice.least`, where it is more than 2.

    Raises:
      UserError: no text has the translations that the choice asks for, or the texts lack one of its languages.
    """
    name = type(feed).__name__
    if by_source := [member for member in mixture.named if ":" in member]:
        raise UserError(f"Mixture.rates names {by_source[0]!r}: a {name} draws pairs by language, so name languages")
    # Groups are of base languages, because clones have no texts of their own.
    languages = {member.text for member in corpus.members(mixture, split)}
    stores = [
        store
        for task in mixture.tasks
        for language, store in corpus.stores[task].get(split, {}).items()
        if language in languages
    ]
    known = sorted({store.language for store in stores})
    asked = [("pivot =", choice.pivot)] if choice.pivot is not None else []
    asked += [("pairs names", language) for pair in choice.pairs for language in pair]
    for what, language in asked:
        if language not in known:
            raise UserError(
                f"{name}.{what} {language!r}: the mixture's {split} text is in {', '.join(known) or 'none'}"
            )
    pairs = Pairs(stores, choice, mixture.where) if stores else None
    if pairs is not None and limit and not len(pairs.group) and max(pairs.degrees, default=0) >= 2:
        pivot = "" if choice.pivot is None else f", {choice.pivot} among them"
        raise UserError(
            f"{limit}: no group of the {split} text is in {choice.least} languages{pivot}; "
            f"the largest is in {max(pairs.degrees)}"
        )
    if pairs is None or not len(pairs.group):
        raise UserError(
            f"Mixture.tasks = {mixture.tasks}: no {split} text has a translation in these tasks, which a {name} needs; "
            f"add parallel text ({'of the pivot ' + repr(choice.pivot) if choice.pivot else 'tsv:, pairs:, or group_id'})"
        )
    return pairs


def _pair_rows(
    feed: Any, views: int, mixup: bool, form: Form, corpus: Corpus, mixture: Mixture | None, rows: int, seed: int,
    split: str, mismatched: float = 0.0,
) -> PackedRows:  # fmt: skip
    """The rows of a feed of translation pairs."""
    mixture = reads(feed, mixture)
    pairs = group_index(feed, corpus, mixture, split, Choice(feed.pivot, feed.pairs))
    items = PairItems(PairExamples(pairs, mixture, seed), views, mixup, feed.side, seed, feed.reverse, mismatched)
    if feed.whole_groups:
        return _whole(feed, WholeGroups(pairs, feed.side, seed, items), mixture, form, corpus, rows, seed)
    return PackedRows(items, mixture, form, corpus.tokenizer, rows, seed)


def _whole(
    feed: Any, groups: WholeGroups, mixture: Mixture, form: Form, corpus: Corpus, rows: int, seed: int
) -> PackedRows:
    """The rows of whole groups.

    Raises:
      UserError: rates would choose among the texts of a group, or a batch does not hold the largest group.
    """
    name = type(feed).__name__
    for setting, plain in (("rates", ()), ("alpha", 1.0), ("cap", None), ("epochs", None)):
        if (value := getattr(mixture, setting)) != plain:
            raise UserError(
                f"Mixture.{setting} = {value!r}: {name}.whole_groups takes all texts of a group, so rates cannot choose "
                f"among them; bind {plain!r}"
            )
    found = PackedRows(groups, mixture, form, corpus.tokenizer, rows, seed)
    if not found.block_size:
        raise UserError(
            f"{name}.whole_groups: {rows} rows of {form.length} tokens and {form.slots} slots do not hold every group; "
            f"raise Stream.batch_size, lower {name}.side, or name fewer Mixture.languages"
        )
    return found
