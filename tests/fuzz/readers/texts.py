"""Files of text, by every spelling of a task: `text:`, `lines:`, `tsv:`, `pairs:`, `jsonl:`, plain and compressed."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard

from fuzz.harness import Reader
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.lines import is_language
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.split import Split

ENGLISH = [
    "The cat sleeps.",
    "A dog — old and grey — barks.",
    "Where is the house?",
    "Naïve café.",
    "Five",
    "Six of them.",
]
GERMAN = ["Die Katze schläft.", "Ein Hund bellt.", "Wo ist das Haus?", "Naives Café.", "Fünf", "Sechs davon."]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": functools.partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TEXTS = {"en": ENGLISH, "de": GERMAN}


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _blocks(texts: list[str]) -> str:
    return "".join(f"{text}\nmore of it\n\n" for text in texts)


def _keyed(texts: list[str]) -> str:
    return "".join(f"p#{number}\t{text}\n" for number, text in enumerate(texts))


def _objects(texts: list[str]) -> str:
    rows = [{"text": text, "group_id": number} for number, text in enumerate(texts)]
    rows[0] |= {"language": "fr", "title": "\ud83d\ude00"}
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMS = {"text": _blocks, "lines": _lines, "tsv": _keyed, "pairs": _lines, "jsonl": _objects}


def _seeds(form: Callable[[list[str]], str], suffix: str) -> list[dict[str, bytes]]:
    files = {f"{language}.txt{suffix}": form(texts).encode() for language, texts in TEXTS.items()}
    return [{name: COMPRESS[suffix](text) for name, text in files.items()}]


def _read(kind: str, suffix: str, folder: Path) -> list[Document]:
    """What preparation reads: the documents, divided."""
    spelled = parse_name(f"{kind}:" + ",".join(f"{language}={folder}/{language}.txt{suffix}" for language in TEXTS))
    assert spelled is not None
    documents = list(spelled[1].documents())
    Split(lambda: documents)
    return documents


def _check(kind: str, found: list[Document]) -> None:
    for document in found:
        assert document.text.strip() == document.text != "", document
        assert not {"\0", "\r"} & set(document.text + document.group), document
        assert is_language(document.language), document
    if kind == "tsv":
        assert len({(d.language, d.group) for d in found}) == len(found), "an id twice"
        assert all(d.group == d.group.strip() != "" and "\t" not in d.group + d.text for d in found)
    if kind in ("lines", "pairs", "tsv"):
        assert not any("\n" in document.text for document in found)


def _check_pairs(found: list[Document], folder: Path) -> None:
    """Line n of one file beside line n of the other, counted as other programs count lines."""
    _check("pairs", found)
    for language in TEXTS:
        lines = (folder / f"{language}.txt").read_bytes().decode("utf-8-sig").split("\n")
        for document in found:
            if document.language == language:
                # A byte-order mark may stand at the start of any line.
                assert lines[int(document.group) - 1].lstrip("\ufeff").strip() == document.text, document


def _reader(kind: str, suffix: str) -> Reader:
    plain_pairs = kind == "pairs" and not suffix
    return Reader(
        f"{kind}{suffix.replace('.', '_')}",
        lambda: _seeds(FORMS[kind], suffix),
        lambda folder: _read(kind, suffix, folder),
        _check_pairs if plain_pairs else lambda found, folder: _check(kind, found),
    )


READERS = [_reader(kind, suffix) for suffix in ("", ".gz") for kind in FORMS]
READERS += [_reader("lines", suffix) for suffix in (".bz2", ".xz", ".zst")]
