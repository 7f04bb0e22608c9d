"""Dictionary files: TSV, MUSE, JSON lines."""

from __future__ import annotations

from fuzz.harness import Reader
from xalign_jax.data.lexicon.files import Dictionary, read_dictionary

TSV = "cat\tKatze\ndog\tHund\t0.8\nhouse\tHaus\nthe house\tdas Haus\n" * 2
MUSE = "cat Katze\ndog Hund\nhouse Haus\n"
PAIRS = '{"src_text": "cat", "tgt_text": "Katze"}\n{"src_text": "dog", "tgt_text": "Hund"}\n'
ROWS = '{"words": "cat $ Katze", "index": 3}\n{"words": "dog $ Hund", "index": 4}\n'


def _seeds() -> list[dict[str, bytes]]:
    return [{"en-de.tsv": text.encode()} for text in (TSV, MUSE, PAIRS, ROWS)]


def _check(found: Dictionary, folder: object) -> None:
    for entry in found.entries:
        languages = [language for language, _ in entry.words]
        assert len(entry.words) >= 2 and languages[0] == 0 and max(languages) <= 1, entry
        assert all(word and word == " ".join(word.split()) for _, word in entry.words), entry


READERS = [Reader("dictionary", _seeds, lambda folder: read_dictionary(str(folder / "en-de.tsv")), _check)]
