"""Parallel sentences for the probes: from files, or a clone's validation documents beside the originals."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xalign_jax.data.vocabulary import clone_index
from xalign_jax.errors import UserError
from xalign_jax.evaluation.windows import clone_pairs, run_texts


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Parallel sentences: sentence i of `source` and `target` say the same.

    Attributes:
      languages: (source, target).
      source, target: token sequences, each in its language.
      source_hash, target_hash: (N,) of the texts, to know equal ones.
    """

    languages: tuple[str, str]
    source: list[np.ndarray]
    target: list[np.ndarray]
    source_hash: np.ndarray
    target_hash: np.ndarray


def sentences(prepared: Any, files: Sequence[tuple[str, str]], count: int) -> list[Sentences]:
    """The first `count` sentences of each pair of languages.

    Args:
      files: (language, path) each, the first language paired with every other; two TSV files (`key<TAB>text`) are joined
        on the key, other files are aligned by line. Empty: the validation documents of every language that has clones.
    """
    if files:
        return [_from_files(prepared.tokenizer, files[0], other, count) for other in files[1:]]
    pairs = clone_pairs(run_texts(prepared, "validation"))
    return [_from_clone(prepared.tokenizer, base, clone, count) for base, clone in pairs]


def _from_clone(tokenizer: Any, base: Any, clone: Any, count: int) -> Sentences:
    found: list[np.ndarray] = []
    hashes: list[int] = []
    for store in base.stores:
        for d in range(min(len(store.offsets) - 1, count - len(found))):
            found.append(np.asarray(store.tokens[store.offsets[d] : store.offsets[d + 1]], np.int32))
            hashes.append(int(store.text_hash[d]))
    cloned = [tokenizer.clone(tokens, clone.clone) for tokens in found]
    return Sentences((base.language, clone.language), found, cloned, np.asarray(hashes), np.asarray(hashes))


def _from_files(tokenizer: Any, first: tuple[str, str], second: tuple[str, str], count: int) -> Sentences:
    languages, paths = zip(first, second, strict=True)
    texts = _joined(*paths) if all(_is_tsv(path) for path in paths) else _by_line(*paths)
    texts = [(a, b) for a, b in texts if a.strip() and b.strip()][:count]
    if not texts:
        raise UserError(f"{paths[0]} and {paths[1]}: no sentence is in both")
    sides = []
    for language, side in zip(languages, zip(*texts, strict=True), strict=True):
        clone = clone_index(language)[1]
        hashes = np.asarray([zlib.crc32(text.strip().encode()) for text in side])
        sides.append(([tokenizer.clone(tokens, clone) for tokens in tokenizer.encode(side)], hashes))
    (source, source_hash), (target, target_hash) = sides
    return Sentences((languages[0], languages[1]), source, target, source_hash, target_hash)


def _is_tsv(path: str) -> bool:
    return path.removesuffix(".gz").endswith(".tsv")


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of parallel text (bound as `files` of a probe)")
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return file.read().removesuffix("\n").split("\n")


def _by_line(path_a: str, path_b: str) -> list[tuple[str, str]]:
    a, b = _lines(path_a), _lines(path_b)
    if len(a) != len(b):
        raise UserError(f"{path_b}: {len(b)} lines, but {path_a} has {len(a)}; parallel text is aligned by line")
    return list(zip(a, b, strict=True))


def _joined(path_a: str, path_b: str) -> list[tuple[str, str]]:
    a, b = _keyed(path_a), _keyed(path_b)
    return [(text, b[key]) for key, text in a.items() if key in b]


def _keyed(path: str) -> dict[str, str]:
    keyed = {}
    for number, line in enumerate(_lines(path), start=1):
        key, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{path}:{number}: no tab; a line is key<TAB>text")
        keyed[key] = text
    return keyed
