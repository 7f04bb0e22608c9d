"""Files of parallel sentences, as probes read them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from fuzz.harness import Reader
from fuzz.readers.texts import FORMS, TEXTS
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.evaluation.inputs.parallel_text import Sentences, sentences

PREPARED = SimpleNamespace(tokenizer=Tokenizer(Bytes(), Vocabulary("bytes")))


def _seeds() -> list[dict[str, bytes]]:
    return [
        {f"{language}.{suffix}": FORMS[kind](texts).encode() for language, texts in TEXTS.items()}
        for kind, suffix in (("tsv", "tsv"), ("pairs", "txt"))
    ]


def _read(folder: Path) -> list[Sentences]:
    suffix = next(folder.iterdir()).suffix
    return sentences(PREPARED, tuple((language, f"{folder}/{language}{suffix}") for language in TEXTS), 1000)


def _check(found: list[Sentences], folder: Path) -> None:
    (pair,) = found
    assert (
        pair.texts is not None and len(pair.texts[0]) == len(pair.texts[1]) == len(pair.source) == len(pair.target) > 0
    )
    if (folder / "en.tsv").exists():  # sentences that are joined have one id, which each file says once
        for a, b in zip(*pair.texts, strict=True):
            ids = [
                {line.split("\t")[0].lstrip("\ufeff").strip() for line in _lines(folder, language) if text in line}
                for language, text in zip(TEXTS, (a, b), strict=True)
            ]
            assert ids[0] & ids[1], (a, b)


def _lines(folder: Path, language: str) -> list[str]:
    return (folder / f"{language}.tsv").read_bytes().decode("utf-8-sig").split("\n")


READERS = [Reader("sentences", _seeds, _read, _check)]
