"""Dictionaries as token tables: words that mean the same, those that training may use, and those that are held out."""

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
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.data.tokens.words import marks_words
from xalign_jax.errors import UserError, one_line
from xalign_jax.recipe import at_least_one, freeze, one_of, resolve, with_paths, within


def _located(path: Any) -> Any:
    """A path, or (path, languages), absolute."""
    return resolve(path) if isinstance(path, str) else (resolve(path[0]), *path[1:])


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Lexicon:
    """A recipe's dictionary.

    Attributes:
      source: "clone" (the corpus's most frequent words, each its own translation), "file", or "cldr" (names in Babel's
        locales).
      paths: the files of source "file". An entry (path, languages) says the languages of the file's words. Otherwise
        the file's name may say them ("en-de.tsv"); otherwise they are the base languages in order.
      languages: the source language first. A clone takes the words of its base language.
      size: most concepts that are used; the most frequent in the corpus come first.
      heldout: share of the concepts that are held out. Concepts whose source words differ only in case stay together.
      coverage: share of the training concepts that is kept.
      shuffle: the control. True permutes the words of each target language between the concepts of the training table.
        A number in (0, 1) does so for that share of the concepts: a dictionary with wrong entries.
      homographs: share of the training concepts that also list the target words of another concept: a second sense,
        which no text uses.
      one_to_one: True keeps one word for each concept and language of a file or CLDR, and no word twice. It keeps the
        pairs whose frequencies in the texts of their languages are most alike (`entries.linked_entries`).
      max_tokens: words of more tokens are dropped and counted.
      seed: of all random choices.
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
                f'Lexicon.languages = {self.languages}: with Lexicon.source = "clone", all must clone one language'
            )
        at_least_one(self, "size", "max_tokens")
        within(self, "[0, 1)", "heldout")
        within(self, "(0, 1]", "coverage")
        within(self, "[0, 1]", "shuffle", "homographs")
        within(self, "[0, inf)", "seed")
        # A file is useful only if it has words of two languages of the recipe.
        for path, languages, _ in self.files:
            if len({*languages} & {*self.bases}) < 2:
                raise UserError(f"Lexicon.paths: {path} is in {languages}, which has fewer than two of {self.bases}")

    @property
    def files(self) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
        """For each file: path, languages of its words, True if they are said and not assumed.

        Raises:
          UserError: an entry of `paths` is neither a path nor (path, languages).
        """
        files = []
        for item in self.paths:
            # An entry is a path, or a path with the languages of the file's words.
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
        """The base languages, in the order in which `languages` mentions them first."""
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
        """Equal for two words that differ at most in case."""
        return self.language, self.text.casefold()


@dataclasses.dataclass(frozen=True)
class Concepts:
    """A flat table of W words, sorted by concept, then language.

    Attributes:
      ids: (n,) int32, tokens as each word's language (or clone) writes them.
      starts: (W + 1,) int64, word w has the tokens ids[starts[w]:starts[w + 1]].
      concept: (W,) int32; a concept has the same number in all tables of a lexicon.
      language: (W,) int32, index into `languages`.
      text_hash: (W,) uint32, CRC-32 of each word's ids.
      words: W spellings.
      languages: names, the source language first.
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
    # W words -> rows in the table's order; tokens[w] is (tokens of word w,) int32.
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
    """A lexicon that is made for a vocabulary and a corpus.

    Attributes:
      train: the words that training reads; the control shuffles them.
      dictionary: the true words of the same concepts.
      heldout: the true words of held-out concepts. None of them is a word in training, in any casing; it may be a piece
        of one.
      report: counts of all `entries`, of those used (`dictionary_concepts`, `heldout_concepts`), and of the others by
        reason (`entries.REASONS`). The used ones and the others add up to all. `files.Dictionary` explains the
        further counts, of lines of files.
      notes: lines about files whose words are rare in the texts.
    """

    train: Concepts
    dictionary: Concepts
    heldout: Concepts
    report: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> list[str]:
        """Lines: how many entries are used and why not more, then the notes."""
        return [f"dictionary: {account(self.report, self.languages)}", *(f"dictionary {note}" for note in self.notes)]

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages, the source language first."""
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

    @staticmethod
    def load(directory: str | Path, tokenizer: Tokenizer, languages: tuple[str, ...]) -> LexiconTable:
        """The tables that `save` wrote, for the vocabulary that they were made for.

        Args:
          languages: of the lexicon, in its order.

        Raises:
          UserError: a file is missing or damaged.
        """
        place = Path(directory)
        try:
            _, *lines, end = (place / "lexicon.tsv").read_text(encoding="utf-8").split("\n")
            if end:
                raise ValueError("its last line is cut")
            rows = [(int(number), split, languages.index(name), text) for number, split, name, text in _cells(lines)]
            report = {name: int(count) for name, count in _cells((place / "report.tsv").read_text().splitlines())}
        except (OSError, ValueError) as error:
            raise UserError(f"{place}: not the words that a run saved there ({one_line(error)})") from None
        clones = [clone_index(language)[1] for language in languages]
        tables: dict[str, list[Word]] = {"train": [], "dictionary": [], "heldout": []}
        encoded = tokenizer.encode_words([text for *_, text in rows])
        for (number, split, language, text), ids in zip(rows, encoded, strict=True):
            final = tuple(tokenizer.clone(ids, clones[language]).tolist())
            tables[split].append(Word(number, language, final, text))
        train, dictionary, heldout = (concept_table(words, languages) for words in tables.values())
        return LexiconTable(train, dictionary, heldout, report)


def _cells(lines: Iterable[str]) -> list[list[str]]:
    return [line.split("\t") for line in lines]


def build_lexicon(lexicon: Lexicon, tokenizer: Tokenizer, stores: Stores) -> LexiconTable:
    """The lexicon's tables over a vocabulary. Frequencies are counted in the training texts.

    Args:
      stores: task -> split -> base language -> Store.
    Raises:
      UserError: the vocabulary lacks a clone or does not mark word starts, a file cannot be read or leads the other
        way, or the corpus has none of the words.
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
        # A clone's dictionary needs no file: each frequent word is the translation of itself.
        types = count_types(texts[lexicon.bases[0]], tokenizer, lexicon.max_tokens)
        entries = _frequent_words(types, tokenizer, lexicon.size, lexicon.bases[0])
        report["entries"] = len(entries)
    else:
        # Read all entries, keep those whose source word occurs in the texts, then link one to one if asked, and then
        # keep the most frequent. Translations are counted only for linking.
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
    """The most frequent alphabetic types of two or more letters that the tokenizer encodes to the same ids again."""
    entries: list[Entry] = []
    for ids in types.tuples():
        if len(entries) == size:
            break
        text = tokenizer.decode(np.array(ids, np.int32)).strip()
        if len(text) > 1 and _is_alphabetic(text) and tuple(tokenizer.encode_words([text])[0].tolist()) == ids:
            entries.append([(language, text)])
    return entries


def _is_alphabetic(text: str) -> bool:
    """True for letters and combining marks (many scripts write vowels with them), at least one of them a letter."""
    return any(map(str.isalpha, text)) and all(unicodedata.category(character)[0] in "LM" for character in text)


def _concepts(
    entries: list[Entry], tokenizer: Tokenizer, lexicon: Lexicon, report: Counter[str]
) -> dict[int, list[Word]]:
    """Concept number -> its words in the lexicon's languages, tokenised and distinct.

    Words that are too long or not in the vocabulary are left out. A concept that keeps no source word or no translation
    is dropped, and counted in `report` by the first reason.
    """
    # All words of all entries are encoded in one call, and read back in the same order.
    encoded = iter(tokenizer.encode_words([word for entry in entries for _, word in entry]))
    found: dict[int, list[Word]] = {}
    for number, entry in enumerate(entries):
        words: dict[tuple[int, ...], Word] = {}
        problems: list[str] = []
        tokens = [(base, text, next(encoded)) for base, text in entry]
        # A clone has its base language's words, with the clone's ids; of equal ids the first spelling counts.
        for language, (base, k) in enumerate(map(clone_index, lexicon.languages)):
            for _, text, ids in (row for row in tokens if row[0] == base):
                # Base ids -> ids as this language writes them; the same text may be the word of several languages.
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
    """The reason (of `entries.REASONS`) why a word of these ids (n,) cannot be used; "" if it can."""
    if len(ids) > most:
        return "too_long"
    return "unknown_piece" if not len(ids) or unknown in ids.tolist() else ""


def _is_concept(words: Iterable[Word]) -> bool:
    """True if there is a source word and a translation."""
    languages = {word.language for word in words}
    return 0 in languages and len(languages) > 1


def _split(concepts: dict[int, list[Word]], lexicon: Lexicon, report: Counter[str], notes: list[str]) -> LexiconTable:
    """The concepts divided into training and held-out ones, and what the controls make of the training table."""
    # Concepts with one case-folded source word form a group, which is never divided.
    groups: dict[str, list[int]] = {}
    for number, words in concepts.items():
        groups.setdefault(words[0].text.casefold(), []).append(number)
    # Groups -> held out or training; training groups -> kept or left out, by hashes of the source word.
    heldout, training = _share(list(groups), lexicon.heldout, lexicon.seed, "heldout")
    kept, left_out = _share(training, lexicon.coverage, lexicon.seed, "coverage")
    if not kept:
        raise UserError(f"Lexicon: no training concept is left of {len(groups)}; lower Lexicon.heldout")
    # All words of training groups count as seen, also those that `coverage` leaves out.
    seen = {word.spelling for group in training for number in groups[group] for word in concepts[number]}
    true = [word for group in kept for number in groups[group] for word in concepts[number]]
    # A held-out concept loses the words that training has too; it is dropped if no pair is left.
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
        """The numbers of a share of the training concepts."""
        return {number for group in _share(kept, share, lexicon.seed, purpose)[0] for number in groups[group]}

    # The controls change only the table that training reads. Both permute target words between concepts: `shuffle`
    # replaces the true words, `homographs` adds to them.
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
    """The share of names with the smallest keyed hashes, and the rest. Adding or removing a name moves few others."""
    # The rank depends on the name alone, so other names do not change its order.
    ranked = sorted(names, key=lambda name: (int(hash64(seed, purpose, name)), name))
    count = round(share * len(names))
    return ranked[:count], ranked[count:]


def _shuffle(words: list[Word], concepts: set[int], seed: int) -> list[Word]:
    """Each of the concepts gets the target words of another one, along one random cycle for each target language."""
    result = [word for word in words if word.language == 0 or word.concept not in concepts]
    words = [word for word in words if word.concept in concepts]
    for language in sorted({word.language for word in words} - {0}):
        targets = [word for word in words if word.language == language]
        order = np.random.default_rng([seed, language]).permutation(sorted({word.concept for word in targets}))
        if len(order) < 2:
            raise UserError("Lexicon.shuffle and Lexicon.homographs need two or more training concepts each")
        # Rolling a random order by one is a cycle through all concepts, so no concept keeps its own words.
        other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        result += [dataclasses.replace(word, concept=other[word.concept]) for word in targets]
    return result
