"""Dictionaries as token tables: which words mean the same, which of them training may use, which are held out."""

from __future__ import annotations

import dataclasses
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np

from xalign_jax.data.lexicon.entries import (
    Entry,
    account,
    in_texts,
    linked_entries,
    most_frequent,
    read_entries,
    word_shares,
)
from xalign_jax.data.lexicon.filenames import named_languages
from xalign_jax.data.lexicon.frequencies import WordTypes, count_types
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.store.store import Stores, training_stores
from xalign_jax.data.tokens.vocabulary import Tokenizer, clone_index
from xalign_jax.data.tokens.words import marks_words
from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, one_of, resolve, with_paths, within


def _located(path: Any) -> Any:
    """A path, or (path, languages), absolute."""
    return resolve(path) if isinstance(path, str) else (resolve(path[0]), *path[1:])


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Lexicon:
    """What a recipe says of its dictionary.

    Attributes:
      source: "clone" (identity on the corpus's most frequent words), "file" or "cldr" (names in Babel's locales).
      paths: files for "file". A file's words are in the languages that (path, languages) or else its own name says
        ("en-de.tsv"), else in the base languages in order.
      languages: source language first; clones may be among them and take their base language's words.
      size: at most this many concepts, the most frequent in the corpus first.
      heldout: share of the concepts held out. Concepts whose source words differ in case only stay together.
      coverage: share of the training concepts that is kept.
      shuffle: the control: in the training table, each target language's words are permuted between concepts; a number
        in (0, 1) permutes those of that share of the concepts only, a dictionary with wrong entries.
      homographs: share of the training concepts that list, besides their own, the target words of another as well: a
        second sense, which no text uses.
      one_to_one: of a file's or CLDR's words, keep one for each concept and language, no word twice: the pairs whose
        frequencies in the texts of their languages are most alike (`_linked`).
      max_tokens: longer words are dropped and counted.
    """

    source: str = "clone"
    paths: tuple = dataclasses.field(default=(), metadata=with_paths(lambda paths: tuple(map(_located, paths))))
    languages: tuple = ("en", "en_clone")
    size: int = 2000
    heldout: float = 0.2
    coverage: float = 1.0
    shuffle: bool | float = False
    homographs: float = 0.0
    one_to_one: bool = False
    max_tokens: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "source", ("clone", "file", "cldr"))
        if (self.source == "file") != bool(self.paths):
            raise UserError('Lexicon.paths names the files of Lexicon.source = "file" and is empty otherwise')
        if len(set(self.languages)) < max(2, len(self.languages)):
            raise UserError(f"Lexicon.languages = {self.languages}: name two or more different languages")
        if self.source == "clone" and len(self.bases) > 1:
            raise UserError(
                f'Lexicon.languages = {self.languages}: with Lexicon.source = "clone" all clone one language'
            )
        at_least_one(self, "size", "max_tokens")
        within(self, "[0, 1)", "heldout")
        within(self, "(0, 1]", "coverage")
        within(self, "[0, 1]", "shuffle", "homographs")
        within(self, "[0, inf)", "seed")
        for path, languages, _ in self.files:
            if len({*languages} & {*self.bases}) < 2:
                raise UserError(f"Lexicon.paths: {path} is in {languages}, less than two of {self.bases}")

    @property
    def files(self) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
        """(path, the languages of its words, whether it says them itself). Raises UserError for other things in `paths`."""
        files = []
        for item in self.paths:
            path, languages = (item, None) if isinstance(item, str) else item if len(item) == 2 else (None, None)
            if not isinstance(path, str) or not isinstance(languages, tuple | None):
                raise UserError(
                    f'Lexicon.paths: {item!r} is not a file; write ("a.tsv", "b.tsv") or (("a.tsv", ("en", "fr")),)'
                )
            said = languages or named_languages(path, self.bases)
            files.append((path, said or self.bases, bool(said)))
        return tuple(files)

    @property
    def bases(self) -> tuple[str, ...]:
        """The base languages, in order of first mention."""
        return tuple(dict.fromkeys(clone_index(language)[0] for language in self.languages))


@dataclasses.dataclass(frozen=True)
class Word:
    """A word of a concept: `language` indexes Lexicon.languages, `ids` are final (the clone's)."""

    concept: int
    language: int
    ids: tuple[int, ...]
    text: str

    @property
    def spelling(self) -> tuple[int, str]:
        """What makes two words the same word, whatever their case."""
        return self.language, self.text.casefold()


@dataclasses.dataclass(frozen=True)
class Concepts:
    """A flat table of words, sorted by concept, then language.

    Attributes:
      ids: (n,) int32; word w has ids[starts[w]:starts[w + 1]], its language's clone applied.  starts: (W + 1,) int64.
      concept: (W,) int32, the same number in all tables of a lexicon.  language: (W,) int32 index into `languages`.
      text_hash: (W,) uint32 of the ids.  words: their spellings.  languages: names, the source language first.
    """

    ids: np.ndarray
    starts: np.ndarray
    concept: np.ndarray
    language: np.ndarray
    text_hash: np.ndarray
    words: tuple[str, ...]
    languages: tuple[str, ...]

    def tokens(self, word: int) -> np.ndarray:
        """(n,) int32 ids of a word."""
        return self.ids[self.starts[word] : self.starts[word + 1]]


def concept_table(words: Iterable[Word], languages: tuple[str, ...]) -> Concepts:
    """The table of some words."""
    rows = sorted(words, key=lambda word: (word.concept, word.language))
    tokens = [np.array(word.ids, np.int32) for word in rows]
    return Concepts(
        ids=np.concatenate([*tokens, np.zeros(0, np.int32)]),
        starts=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        concept=np.array([word.concept for word in rows], np.int32),
        language=np.array([word.language for word in rows], np.int32),
        text_hash=np.array([zlib.crc32(ids.tobytes()) for ids in tokens], np.uint32),
        words=tuple(word.text for word in rows),
        languages=languages,
    )


@dataclasses.dataclass(frozen=True)
class LexiconTable:
    """A lexicon made for a vocabulary and a corpus.

    Attributes:
      train: what training reads (shuffled under the control).   dictionary: the true words of the same concepts.
      heldout: true words of held-out concepts; none of them, in any case, is a word in training (a piece of one it may be).
      report: counts of `entries`, of those used (`dictionary_concepts`, `heldout_concepts`) and of the others by reason
        (`entries.REASONS`): they add up. What a dictionary's `lines` lack is counted as `dictionaries.Dictionary` says.
      notes: lines about files of whose words the texts have few.
    """

    train: Concepts
    dictionary: Concepts
    heldout: Concepts
    report: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> list[str]:
        """How much of the dictionary is used and why not more, in a line, and the notes."""
        return [f"dictionary: {account(self.report, self.languages)}", *(f"dictionary {note}" for note in self.notes)]

    @property
    def languages(self) -> tuple[str, ...]:
        """Language names, the source language first."""
        return self.dictionary.languages

    def save(self, directory: str | Path) -> None:
        """Writes `lexicon.tsv` (concept, split, language, word) and `report.tsv`."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        lines = ["concept\tsplit\tlanguage\tword"]
        for split in ("train", "dictionary", "heldout"):
            table = getattr(self, split)
            for concept, language, word in zip(table.concept, table.language, table.words, strict=True):
                lines.append(f"{concept}\t{split}\t{table.languages[language]}\t{word}")
        (Path(directory) / "lexicon.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        report = "".join(f"{name}\t{count}\n" for name, count in self.report.items())
        (Path(directory) / "report.tsv").write_text(report, encoding="utf-8")


def build_lexicon(lexicon: Lexicon, tokenizer: Tokenizer, stores: Stores) -> LexiconTable:
    """The lexicon's tables over a vocabulary; frequencies are those of the training stores of the source language.

    Args:
      stores: task -> split -> base language -> Store.
    Raises:
      UserError: a clone that the vocabulary lacks, a vocabulary that does not show where words begin, files that cannot
        be read or lead the other way, or no word that the corpus has.
    """
    most = max(clone_index(language)[1] for language in lexicon.languages)
    if most > tokenizer.clones:
        raise UserError(f"Lexicon.languages = {lexicon.languages} needs Vocabulary.clones >= {most}")
    if not marks_words(tokenizer):
        raise UserError(
            'Vocabulary.path: no piece of the vocabulary begins a word (a leading space, "▁" or "Ġ"), so no word of a '
            "lexicon can be found in the texts; use a vocabulary that marks spaces, or no Recipe.lexicon"
        )
    report: Counter[str] = Counter()
    notes: list[str] = []
    texts = {base: training_stores(stores, base) for base in lexicon.bases}
    if lexicon.source == "clone":
        types = count_types(texts[lexicon.bases[0]], tokenizer, lexicon.max_tokens)
        entries = _frequent_words(types, tokenizer, lexicon.size, lexicon.bases[0])
        report["entries"] = len(entries)
    else:
        entries, notes = read_entries(lexicon, tokenizer, texts, report)
        counted = lexicon.bases if lexicon.one_to_one else lexicon.bases[:1]
        shares = word_shares(entries, {base: texts[base] for base in counted}, tokenizer, lexicon.max_tokens)
        entries = in_texts(entries, shares, report)
        if lexicon.one_to_one:
            entries = linked_entries(entries, shares, report)
        entries = most_frequent(entries, shares, lexicon.size, report)
    concepts = _concepts(entries, tokenizer, lexicon, report)
    if not concepts:
        raise UserError(
            "; ".join(
                [
                    f"Lexicon (source {lexicon.source!r}): {account(report, lexicon.languages)}",
                    *notes,
                    "check Lexicon.paths, Lexicon.languages and Mixture.tasks",
                ]
            )
        )
    return _split(concepts, lexicon, report, notes)


def _frequent_words(types: WordTypes, tokenizer: Tokenizer, size: int, language: str) -> list[Entry]:
    """The most frequent alphabetic types of two letters or more that the tokenizer writes so after a space."""
    entries: list[Entry] = []
    for ids in types.tuples():
        if len(entries) == size:
            break
        text = tokenizer.decode(np.array(ids, np.int32)).strip()
        if len(text) > 1 and _is_alphabetic(text) and tuple(tokenizer.encode_words([text])[0].tolist()) == ids:
            entries.append([(language, text)])
    return entries


def _is_alphabetic(text: str) -> bool:
    """Letters alone, with the marks that many scripts write vowels with."""
    return any(map(str.isalpha, text)) and all(unicodedata.category(character)[0] in "LM" for character in text)


def _concepts(
    entries: list[Entry], tokenizer: Tokenizer, lexicon: Lexicon, report: Counter[str]
) -> dict[int, list[Word]]:
    """Concept number -> its words in every lexicon language: tokenised, short enough, distinct; two languages at least."""
    encoded = iter(tokenizer.encode_words([word for entry in entries for _, word in entry]))
    found: dict[int, list[Word]] = {}
    for number, entry in enumerate(entries):
        words: dict[tuple[int, ...], Word] = {}
        problems: list[str] = []
        tokens = [(base, text, next(encoded)) for base, text in entry]
        for language, (base, k) in enumerate(map(clone_index, lexicon.languages)):
            for _, text, ids in (row for row in tokens if row[0] == base):
                final = tuple(tokenizer.clone(ids, k).tolist())
                if problem := _problem(ids, lexicon.max_tokens, tokenizer.unk):
                    problems.append(problem)
                else:
                    words.setdefault(final, Word(number, language, final, text))
        if _is_concept(words.values()):
            found[number] = list(words.values())
        else:
            report[[*problems, "no_translation"][0]] += 1
    return found


def _problem(ids: np.ndarray, most: int, unknown: int | None) -> str:
    if len(ids) > most:
        return "too_long"
    return "unknown_piece" if not len(ids) or unknown in ids.tolist() else ""


def _is_concept(words: Iterable[Word]) -> bool:
    """True if there is a source word and a translation."""
    languages = {word.language for word in words}
    return 0 in languages and len(languages) > 1


def _split(concepts: dict[int, list[Word]], lexicon: Lexicon, report: Counter[str], notes: list[str]) -> LexiconTable:
    groups: dict[str, list[int]] = {}
    for number, words in concepts.items():
        groups.setdefault(words[0].text.casefold(), []).append(number)
    heldout, training = _share(list(groups), lexicon.heldout, lexicon.seed, "heldout")
    kept, left_out = _share(training, lexicon.coverage, lexicon.seed, "coverage")
    if not kept:
        raise UserError(f"Lexicon: no training concept is left of {len(groups)}; lower Lexicon.heldout")
    seen = {word.spelling for group in training for number in groups[group] for word in concepts[number]}
    true = [word for group in kept for number in groups[group] for word in concepts[number]]
    unseen = []
    for number in (number for group in heldout for number in groups[group]):
        words = [word for word in concepts[number] if word.spelling not in seen]
        if _is_concept(words):
            unseen += words
        else:
            report["heldout_in_training"] += 1
    report["left_out"] = sum(len(groups[group]) for group in left_out)
    dictionary, held = concept_table(true, lexicon.languages), concept_table(unseen, lexicon.languages)

    def some(share: float, purpose: str) -> set[int]:
        return {number for group in _share(kept, share, lexicon.seed, purpose)[0] for number in groups[group]}

    trained = true
    if lexicon.shuffle:
        trained = _shuffle(true, some(lexicon.shuffle, "wrong"), lexicon.seed)
    if lexicon.homographs:
        senses = _shuffle(true, some(lexicon.homographs, "homographs"), lexicon.seed + 1)
        trained = trained + sorted(set(senses) - set(true), key=lambda word: (word.concept, word.language, word.ids))
    for name, table in (("dictionary", dictionary), ("heldout", held)):
        report[f"{name}_concepts"] = len(np.unique(table.concept))
    return LexiconTable(concept_table(trained, lexicon.languages), dictionary, held, dict(report), tuple(notes))


def _share(names: Sequence[str], share: float, seed: int, purpose: str) -> tuple[list[str], list[str]]:
    """The share of names with the smallest keyed hashes, and the rest: as stable as can be when names come and go."""
    ranked = sorted(names, key=lambda name: (int(hash64(seed, purpose, name)), name))
    count = round(share * len(names))
    return ranked[:count], ranked[count:]


def _shuffle(words: list[Word], concepts: set[int], seed: int) -> list[Word]:
    """Every one of the concepts gets the target words of another: along one random cycle for each target language."""
    result = [word for word in words if word.language == 0 or word.concept not in concepts]
    words = [word for word in words if word.concept in concepts]
    for language in sorted({word.language for word in words} - {0}):
        targets = [word for word in words if word.language == language]
        order = np.random.default_rng([seed, language]).permutation(sorted({word.concept for word in targets}))
        if len(order) < 2:
            raise UserError("Lexicon.shuffle and Lexicon.homographs need two or more training concepts each")
        other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        result += [dataclasses.replace(word, concept=other[word.concept]) for word in targets]
    return result
