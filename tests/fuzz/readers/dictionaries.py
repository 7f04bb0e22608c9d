"""Dictionary files: TSV, MUSE, JSON lines, FreeDict, extracts of Wiktionary."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.harness import Reader
from xalign_jax.data.lexicon.files import Dictionary, read_dictionary

TSV = "cat\tKatze\ndog\tHund\t0.8\nhouse\tHaus\nthe house\tdas Haus\n" * 2
MUSE = "cat Katze\ndog Hund\nhouse Haus\n"
PAIRS = '{"src_text": "cat", "tgt_text": "Katze"}\n{"src_text": "dog", "tgt_text": "Hund"}\n'
ROWS = '{"words": "cat $ Katze", "index": 3}\n{"words": "dog $ Hund", "index": 4}\n'
WIKTIONARY = (
    '{"title": "Cat", "redirect": "cat"}\n{"word": "cat", "lang_code": "en", "translations": [{"code": "de", "word": "Katze"}]}\n'
    '{"word": "dog", "lang_code": "en", "senses": [{"translations": [{"lang_code": "de", "word": "Hund"}]}]}\n'
)
TEI = (
    '<?xml version="1.0"?>\n<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body xml:lang="en">\n'
    "<entry><form><orth>cat</orth></form><sense><cit type='trans' xml:lang='de'><quote>Katze</quote></cit></sense></entry>\n"
    "<entry><form><orth>dog</orth><pron>x</pron></form><cit type='trans'><quote>Hund</quote></cit></entry>\n"
    "</body></text></TEI>\n"
)


def _seeds() -> list[dict[str, bytes]]:
    return [{"en-de.tsv": text.encode()} for text in (TSV, MUSE, PAIRS, ROWS, WIKTIONARY)]


def _check(found: Dictionary, folder: object) -> None:
    for entry in found.entries:
        languages = [language for language, _ in entry.words]
        assert len(entry.words) >= 2 and languages[0] == 0 and max(languages) <= 1, entry
        assert all(word and word == " ".join(word.split()) for _, word in entry.words), entry


def _reader(name: str, file: str, seeds: Callable[[], list[dict[str, bytes]]]) -> Reader:
    return Reader(name, seeds, lambda folder: read_dictionary(str(folder / file)), _check)


READERS = [
    _reader("dictionary", "en-de.tsv", _seeds),
    _reader("freedict", "en-de.tei", lambda: [{"en-de.tei": TEI.encode()}]),
]
