"""`Vocabulary`: which vocabulary a recipe has, and how many clones, as a gin file gives them; names of clones."""

from __future__ import annotations

import dataclasses
import re

import gin

from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, resolve, with_paths, within

_KINDS = ("sentencepiece", "bytes", "huggingface", "ids")
_MODEL_TYPES = ("unigram", "bpe", "word")
_CLONE = re.compile(r"(.+)_clone(\d*)")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A recipe's vocabulary.

    Attributes:
      kind: "sentencepiece", "bytes" (5 specials + 256), "huggingface" (a tokenizer.json or its directory) or "ids" (an
        imported model's token ids, without text).
      path: the vocabulary to load; None trains one on the recipe's own training texts (sentencepiece only). A loaded
        vocabulary keeps its own ids, and a special that it lacks is None.
      size: number of pieces to train, V.
      model_type: algorithm of a trained vocabulary: "unigram", "bpe" or "word".
      lowercase: train with case folding.
      clones: number of clone languages of each base language.
      clone_specials: False shares all specials, True clones all but pad.
      anchors: share of the ordinary pieces that all clones share, which are drawn at random.
      anchor_seed: selects these pieces. With one seed, a larger share includes a smaller one.
      compact: no rows for clones of shared pieces. They would take part in every softmax, and no text contains them.
      tie_clones: a clone's rows use the parameters of the base rows (the oracle).
      rows: rows of the model's table; None = one for each id, rounded up to a multiple of 128.
      words: "icu" finds the words of scripts without spaces by ICU's dictionaries (extra `words`). Pieces of a
        vocabulary that is trained here then never reach from word to word. A loaded vocabulary keeps its pieces, and
        only words that begin and end with pieces are found. None: every piece of these scripts is a word.
    """

    kind: str = "sentencepiece"
    path: str | None = dataclasses.field(default=None, metadata=with_paths(lambda path: path and resolve(path)))
    size: int = 8192
    model_type: str = "unigram"
    lowercase: bool = False
    clones: int = 0
    clone_specials: bool = False
    anchors: float = 0.0
    tie_clones: bool = False
    rows: int | None = None
    words: str | None = None
    anchor_seed: int = 0
    compact: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        if self.kind not in _KINDS:
            raise UserError(f"Vocabulary.kind = {self.kind!r}: one of {', '.join(_KINDS)}")
        if self.model_type not in _MODEL_TYPES:
            raise UserError(f"Vocabulary.model_type = {self.model_type!r}: one of {', '.join(_MODEL_TYPES)}")
        # Only SentencePiece can be trained here, and bytes need no file.
        if self.kind in ("huggingface", "ids") and self.path is None:
            file = {"huggingface": "tokenizer.json", "ids": "ids.json"}[self.kind]
            raise UserError(f'Vocabulary.path: name the {file} of Vocabulary.kind = "{self.kind}"')
        if self.words not in (None, "icu"):
            raise UserError(f'Vocabulary.words = {self.words!r}: "icu" or None')
        if self.words and self.kind == "ids":
            raise UserError('Vocabulary.words finds words in text, and a vocabulary of kind "ids" has none')
        at_least_one(self, "size", "rows")
        within(self, "[0, inf)", "clones", "anchor_seed")
        within(self, "[0, 1]", "anchors")

    @property
    def trained(self) -> bool:
        """True if the vocabulary is trained on the recipe's own texts."""
        return self.kind == "sentencepiece" and self.path is None


def clone_index(language: str) -> tuple[str, int]:
    """Base language and clone: ("en", 0) for "en", ("en", 1) for "en_clone", ("en", 2) for "en_clone2"."""
    match = _CLONE.fullmatch(language)
    return (match[1], int(match[2] or 1)) if match else (language, 0)


def clone_name(language: str, k: int) -> str:
    """The name of clone k of a base language; k = 0 is the language itself."""
    return language + ("", "_clone", f"_clone{k}")[min(k, 2)]
