"""Vocabularies in the cache: loaded, or trained on a sample of a recipe's training text."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xalign_jax.data.store.cache import damage, make
from xalign_jax.data.store.store import directory_name
from xalign_jax.data.text.files import keyed_hash
from xalign_jax.data.tokens import segmenter
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

SAMPLE_BYTES = 12_000_000  # of text that a vocabulary is trained on, in equal shares of the languages
_SENTENCE_BYTES = 4000  # SentencePiece skips longer sentences


def prepare_vocabulary(vocabulary: Vocabulary, readers: Sequence[Any], cache: Path) -> tuple[Path, Tokenizer]:
    """The directory of a vocabulary in the cache, which is made if it is missing, and its tokenizer without clones.

    Raises:
      UserError: the vocabulary's file cannot be read, or there is no text to train on.
    """
    # Clones do not count: stores hold base ids.
    base = Vocabulary(
        vocabulary.kind, vocabulary.path, vocabulary.size, vocabulary.model_type, vocabulary.lowercase,
        words=vocabulary.words,
    )  # fmt: skip
    folder = cache / "vocabularies"
    if not vocabulary.trained:
        tokenizer = Tokenizer.of(base)
        directory = folder / directory_name(tokenizer.base_fingerprint)
    else:
        if not readers:
            raise UserError(
                "Vocabulary.path: set it (or Vocabulary.kind = 'bytes'): the recipe has no text to train on"
            )
        # A trained vocabulary is identified by its settings and its texts, without training it.
        prints = sorted(reader.fingerprint() for reader in readers)
        words = [base.words, segmenter.version()] if base.words else []
        directory = folder / directory_name(base.size, base.model_type, base.lowercase, prints, *words)
        if damage(directory) is None:
            return directory, Tokenizer.load(directory)
        print(f"training a vocabulary of {base.size} pieces", file=sys.stderr)
        sentences = _sample(readers, bool(base.words))
        model = train_sentencepiece(sentences, base.size, base.model_type, base.lowercase, bool(base.words))
        tokenizer = Tokenizer(SentencePieces(model), base)
    make(directory, tokenizer.save)
    return directory, tokenizer


def _sample(readers: Sequence[Any], borders: bool) -> list[str]:
    """Sorted lines to train on: each language gives the texts of smallest hash, up to its share of SAMPLE_BYTES.

    Args:
      borders: mark borders between words in scripts without spaces.
    """
    kept: dict[str, dict[int, str]] = {}
    sizes: dict[str, int] = {}
    for example in itertools.chain.from_iterable(reader.read("train") for reader in readers):
        text, language = example.document.text, example.document.language
        texts = kept.setdefault(language, {})
        texts[keyed_hash(text)] = text
        sizes[language] = sizes.get(language, 0) + len(text)
        if sizes[language] > 2 * SAMPLE_BYTES:  # so that a language never takes much more memory than that
            kept[language] = _smallest(texts, SAMPLE_BYTES)
            sizes[language] = sum(map(len, kept[language].values()))
    # Equal shares, so that a large language does not take all pieces.
    chosen = [t for texts in kept.values() for t in _smallest(texts, SAMPLE_BYTES // len(kept)).values()]
    if not chosen:
        raise UserError("Mixture.tasks: there is no training text to train a vocabulary on")
    if borders:
        chosen = list(map(segmenter.mark_borders, chosen))
    return sorted(piece for text in chosen for line in text.splitlines() for piece in _cut(line.strip()) if piece)


def _smallest(texts: dict[int, str], budget: int) -> dict[int, str]:
    """The texts of smallest hash, up to the first one that exceeds `budget` bytes in all. A longer text is cut."""
    kept, total = {}, 0
    for key in sorted(texts):
        # A text that is longer than the budget is cut; a character that the cut divides is dropped.
        text = texts[key].encode()
        kept[key] = texts[key] if len(text) <= budget else text[:budget].decode(errors="ignore")
        total += len(text)
        if total >= budget:
            break
    return kept


def _cut(line: str) -> list[str]:
    """A line in parts that are short enough for SentencePiece, cut at spaces or borders if there are any."""
    parts, start, most = [], 0, _SENTENCE_BYTES // 4
    # A quarter of the limit in characters is at most the limit in bytes, since UTF-8 has up to four for each.
    while len(line) - start > _SENTENCE_BYTES or len(line[start:].encode()) > _SENTENCE_BYTES:
        end = max(line.rfind(mark, start, start + most) for mark in (" ", segmenter.BORDER))
        end = end if end > start else start + most
        parts.append(line[start:end])
        start = end
        while line[start : start + 1].isspace():
            start += 1
    return [*parts, line[start:]]
