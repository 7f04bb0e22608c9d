"""A dictionary's entries for some texts: reads them, looks them up in the texts, links them, keeps the most frequent.

An entry is a source word with its translations. All counts in this module are of entries, so that they add up.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from xalign_jax.data.lexicon.files import Dictionary, cldr_dictionary, read_dictionary
from xalign_jax.data.lexicon.frequencies import count_keys
from xalign_jax.data.tokens.segmenter import is_unspaced
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.words import make_keys, word_flags
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.data.lexicon.lexicon import Lexicon
    from xalign_jax.data.store.store import Store

Entry = list[tuple[str, str]]  # words of one concept: (base language, word), the source word first
Texts = Mapping[str, Sequence["Store"]]  # base language -> its training texts

LOOKED_UP = 2000  # words of each language of a file that are looked up, to see whether the file fits the texts
_LOOKED_AT = 1_000_000  # tokens of each text that they are looked up in
_FEW = 0.02  # if a smaller share of them is found, the user is told

# Why an entry is not used, in the order in which entries are checked.
REASONS = {
    "phrases": "are phrases of several words",
    "not_in_text": "have a word that is not in the text of {source}",
    "translation_not_in_text": "have no translation that is in the text of {others}",
    "translation_taken": "have translations that were linked to words of more similar frequency (Lexicon.one_to_one)",
    "beyond_size": "are rarer than the Lexicon.size most frequent ones",
    "no_translation": "lack a word of {source} or a translation",
    "too_long": "take more than Lexicon.max_tokens tokens",
    "unknown_piece": "have characters that the vocabulary lacks",
    "left_out": "are left out by Lexicon.coverage",
    "heldout_in_training": "would be held out, but training has their words",
}


def account(report: Mapping[str, int], languages: Sequence[str]) -> str:
    """One line: how many of a lexicon's entries are used, and why the others are not. The counts add up."""
    names = {"source": languages[0], "others": ", ".join(languages[1:])}
    lost = ", ".join(f"{report[name]:,} {why.format(**names)}" for name, why in REASONS.items() if report.get(name))
    trained, held_out = report.get("dictionary_concepts", 0), report.get("heldout_concepts", 0)
    used = f"{trained:,} of {report['entries']:,} entries are trained on and {held_out:,} held out"
    return f"{used}; of the others {lost}" if lost else used


def read_entries(
    lexicon: Lexicon, tokenizer: Tokenizer, texts: Texts, report: Counter[str]
) -> tuple[list[Entry], list[str]]:
    """The entries of a lexicon's files or of CLDR, and lines about files whose words are rare in the texts.

    Raises:
      UserError: a file cannot be read, does not say its languages, or leads the other way.
    """
    notes: list[str] = []
    # (dictionary, its languages) of each file, or of CLDR.
    if lexicon.source == "cldr":
        read = [(cldr_dictionary(lexicon.bases), lexicon.bases)]
    else:
        read = [(_read_file(path, languages, said), languages) for path, languages, said in lexicon.files]
        for (path, _, _), (dictionary, languages) in zip(lexicon.files, read, strict=True):
            notes += _check_file(path, dictionary, languages, texts, tokenizer)
    # Concept -> its words without repetition, over all files; a dict keeps their order.
    merged: dict[str, dict[tuple[str, str], None]] = {}
    for dictionary, languages in read:
        report.update(dictionary.report)
        for entry in dictionary.entries:
            words = [(languages[index], word) for index, word in entry.words]
            for concept, members in _by_source(entry.concept, words, languages[0], lexicon.bases[0]):
                merged.setdefault(concept, {}).update(dict.fromkeys(members))
    report["entries"] = len(merged)
    source = lexicon.bases[0]
    return [sorted(words, key=lambda word: word[0] != source) for words in merged.values()], notes


def _read_file(path: str, languages: tuple[str, ...], said: bool) -> Dictionary:
    """A dictionary file. Raises UserError if it neither says its languages nor has a column for each of them."""
    dictionary = read_dictionary(path, languages)
    columns = 1 + max((index for entry in dictionary.entries for index, _ in entry.words), default=0)
    if not said and columns < len(languages):
        raise UserError(
            f"Lexicon.paths: {path} has {columns} words a line at most and the recipe {len(languages)} languages; "
            f'say which ones it holds, in its name ("{languages[0]}-{languages[1]}.tsv") '
            f'or as ("{path}", {languages[:2]})'
        )
    return dictionary


def _check_file(
    path: str, dictionary: Dictionary, languages: tuple[str, ...], texts: Texts, tokenizer: Tokenizer
) -> list[str]:
    """Lines about the languages of a file whose words are rare in the texts, judged by a sample of the words.

    Raises:
      UserError: the file has two languages, and in both directions its words fit the other language's text better.
    """
    # Up to LOOKED_UP words of each language, evenly spread over the sorted list.
    words = {}
    for index, language in enumerate(languages):
        unique = sorted({word for entry in dictionary.entries for i, word in entry.words if i == index})
        unique = [word for word in unique if not is_phrase(word)]
        words[language] = unique[:: -(-len(unique) // LOOKED_UP) or 1]
    known = [language for language in languages if texts.get(language)]
    # found[a, b]: how many of the words of a occur in the text of b.
    found = {(of, text): _occurring(words[of], texts[text], tokenizer) for of in known for text in known}
    if len(known) == 2:
        (a, b), right, wrong = known, sum(found[x, x] for x in known), sum(n for (x, y), n in found.items() if x != y)
        if found[a, b] > found[a, a] and found[b, a] > found[b, b] and wrong > 2 * right:
            raise UserError(
                f"Lexicon.paths: {path} seems to lead from {b} to {a}: of its {len(words[a]):,} words for {a}, "
                f"{found[a, a]:,} are in the text of {a} and {found[a, b]:,} in the text of {b}; of its "
                f"{len(words[b]):,} words for {b}, {found[b, b]:,} are in the text of {b} and {found[b, a]:,} in the "
                f'text of {a}; say so: ("{path}", ("{b}", "{a}"))'
            )
    few = [language for language in known if found[language, language] < _FEW * len(words[language])]
    return [
        f"{path}: the text of {language} has {found[language, language]:,} of {len(words[language]):,} of its words "
        f"for {language}; is it a dictionary of {language}, and for such texts?"
        for language in few
    ]


def _occurring(words: list[str], stores: Sequence[Store], tokenizer: Tokenizer) -> int:
    """How many of the words occur at the beginning of the texts."""
    begun = [dataclasses.replace(store, tokens=store.tokens[:_LOOKED_AT]) for store in stores]
    return len(word_shares([[("", word)] for word in words], {"": begun}, tokenizer))


def _by_source(concept: str, words: Entry, leads_from: str, source: str) -> list[tuple[str, Entry]]:
    """The concepts that an entry belongs to, with their words.

    A file that leads from another language has the source words as translations: then each of them is a concept.
    """
    if leads_from == source or concept.startswith("index:"):
        return [(concept, words)]
    # Each word of the recipe's source language becomes the source word of its own concept.
    others = [word for word in words if word[0] != source]
    own = [(f"word:{word[1]}", [word, *others]) for word in words if word[0] == source]
    return own or [(f"{leads_from} {concept}", words)]


def word_shares(
    entries: Iterable[Entry], texts: Texts, tokenizer: Tokenizer, max_tokens: int = 16
) -> dict[tuple[str, str], float]:
    """(language, word) -> share of the language's running words that are this word, in any casing.

    Words that do not occur are left out. Phrases and spellings of more than `max_tokens` tokens are not looked up.
    """
    found: dict[tuple[str, str], float] = {}
    wanted = {word for entry in entries for word in entry if not is_phrase(word[1])}
    for language, stores in texts.items():
        words = sorted(word for base, word in wanted if base == language)
        spellings = _spellings(words, tokenizer, max_tokens)
        items = sorted({(0, ids) for several in spellings for ids in several})
        if not items:
            continue
        # (K,) counts of the distinct spellings; a word's count is the sum over its spellings.
        keys, order = make_keys(items, word_flags(tokenizer))
        counts, total = count_keys(stores, keys, max_tokens)
        number = {items[item][1]: count for item, count in zip(order.tolist(), counts.tolist(), strict=True) if count}
        for word, several in zip(words, spellings, strict=True):
            if count := sum(number.get(ids, 0) for ids in several):
                found[language, word] = count / total
    return found


def _spellings(words: list[str], tokenizer: Tokenizer, max_tokens: int) -> list[set[tuple[int, ...]]]:
    """For each word, the ids of its spellings of up to `max_tokens` tokens.

    Spellings are its casings, and for scripts without spaces also each casing after a space.
    """
    # All spellings of all words are encoded in two calls, and sorted back to their words by number.
    casings = [sorted({w, w.casefold(), w.capitalize(), w.title(), w.upper()}) for w in words]
    flat = [(number, casing) for number, several in enumerate(casings) for casing in several]
    unspaced = [(number, casing) for number, casing in flat if is_unspaced(casing)]
    found: list[set[tuple[int, ...]]] = [set() for _ in words]
    for places, spaced in ((flat, False), (unspaced, True)):
        texts = [casing for _, casing in places]
        for (number, _), ids in zip(places, tokenizer.encode_words(texts, spaced), strict=True):
            if 0 < len(ids) <= max_tokens:
                found[number].add(tuple(ids.tolist()))
    return found


def is_phrase(word: str) -> bool:
    """True for several words, with spaces between them."""
    return " " in word


def in_texts(entries: list[Entry], shares: Mapping[tuple[str, str], float], report: Counter[str]) -> list[Entry]:
    """The entries whose source word occurs in the texts; the others are counted in `report`."""
    found = [entry for entry in entries if entry[0] in shares]
    report["phrases"] += sum(is_phrase(entry[0][1]) for entry in entries)
    report["not_in_text"] += sum(entry[0] not in shares and not is_phrase(entry[0][1]) for entry in entries)
    return found


def linked_entries(entries: list[Entry], shares: Mapping[tuple[str, str], float], report: Counter[str]) -> list[Entry]:
    """The entries with one word for each language and no word twice. Entries that keep no translation are dropped.

    This is competitive linking (Melamed, 2000) with frequency as the score, because translations tend to be equally
    frequent. A pair of a source word and a listed translation has the score 2 min(p, q) / (p + q). Here p and q are
    their shares of the running words. Pairs are linked in the order of falling scores, unless either word has a partner
    in that language already. Words that do not occur in the texts are not linked.
    """
    # All pairs as (negative score, entry, translation): sorted, the best comes first and ties follow the entries.
    pairs = []
    for number, entry in enumerate(entries):
        p = shares.get(entry[0], 0.0)
        others = [word for word in entry if word[0] != entry[0][0]]
        pairs += [(-min(p, q) / (p + q), number, word) for word in others if (q := shares.get(word, 0.0)) and p]
    taken: set[tuple[str, str]] = set()
    linked: dict[int, Entry] = {}
    for _, number, word in sorted(pairs):
        mine = linked.setdefault(number, [entries[number][0]])
        if word not in taken and all(word[0] != other[0] for other in mine):
            taken.add(word)
            mine.append(word)
    kept = [linked[number] for number in sorted(linked) if len(linked[number]) > 1]
    report["translation_not_in_text"] += len(entries) - len(linked)
    report["translation_taken"] += len(linked) - len(kept)
    return kept


def most_frequent(
    entries: list[Entry], shares: Mapping[tuple[str, str], float], size: int, report: Counter[str]
) -> list[Entry]:
    """The `size` entries with the most frequent source words; the others are counted in `report`."""
    report["beyond_size"] += max(0, len(entries) - size)
    return sorted(entries, key=lambda entry: -shares[entry[0]])[:size]
