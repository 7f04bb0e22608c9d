"""Parallel sentences for the probes: from files, from groups of the run's validation text, or a clone's documents."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from xalign_jax.data.sources import read_lines
from xalign_jax.data.vocabulary import clone_index
from xalign_jax.errors import UserError
from xalign_jax.evaluation.windows import clone_pairs, run_texts
from xalign_jax.recipe import resolve


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Parallel sentences: sentence i of `source` and `target` say the same.

    Attributes:
      languages: (source, target).
      source, target: token sequences, each in its language.
      source_hash, target_hash: (N,) of the texts, to know equal ones.
      texts: (source, target) as written; None where only tokens are known.
    """

    languages: tuple[str, str]
    source: list[np.ndarray]
    target: list[np.ndarray]
    source_hash: np.ndarray
    target_hash: np.ndarray
    texts: tuple[tuple[str, ...], tuple[str, ...]] | None = None


def located_files(files: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """(language, path) each, the paths absolute."""
    return tuple((language, resolve(path)) for language, path in files)


def sentences(
    prepared: Any,
    files: Sequence[tuple[str, str]],
    count: int,
    pivot: str | None = None,
    least: int = 1,
    others: Sequence[str] = (),
) -> list[Sentences]:
    """The first `count` sentences of each pair of languages.

    Args:
      files: (language, path) each, the first language paired with every other; two TSV files (`key<TAB>text`) are joined
        on the key, other files are aligned by line.
      pivot: without files, this language with each other one that shares at least `least` groups of the validation
        texts with it (of `others`, if they are named), one text of each language a group. None: every language that has clones with its clones.

    Raises:
      UserError: a file is missing or not parallel; no language shares enough with the pivot.
    """
    if len(files) == 1:
        raise UserError(f"files = {files!r} of a probe: one language; parallel text needs two or more")
    if files:
        return [_from_files(prepared.tokenizer, files[0], other, count) for other in files[1:]]
    if pivot is not None:
        return _from_groups(prepared, pivot, count, least, others)
    pairs = clone_pairs(run_texts(prepared, "validation"))
    return [_from_clone(prepared.tokenizer, base, clone, count) for base, clone in pairs]


def _from_clone(tokenizer: Any, base: Any, clone: Any, count: int) -> Sentences:
    chosen = [(store, d) for store in base.stores for d in range(len(store.offsets) - 1)][:count]
    found, hashes = _documents(chosen)
    cloned = [tokenizer.clone(tokens, clone.clone) for tokens in found]
    return Sentences((base.language, clone.language), found, cloned, hashes, hashes)


def _from_groups(prepared: Any, pivot: str, count: int, least: int, others: Sequence[str]) -> list[Sentences]:
    tasks = [splits.get("validation", {}) for splits in prepared.stores.values()]
    known = {language for stores in tasks for language in stores if language != pivot}
    if missing := [language for language in others if language not in known | {pivot}]:
        raise UserError(f"SentenceRetrieval.others names {missing[0]!r}: no validation text is in it")
    named = sorted(known & set(others)) if others else sorted(known)
    found = []
    for language in named:
        both = [(stores[pivot], stores[language]) for stores in tasks if pivot in stores and language in stores]
        shared = [_shared_documents(*stores) for stores in both]
        if sum(map(len, shared)) < max(least, 1):
            continue
        chosen = [(stores, index) for stores, pairs in zip(both, shared, strict=True) for index in pairs][:count]
        sides = [[(stores[k], index[k]) for stores, index in chosen] for k in (0, 1)]
        tokens, hashes = zip(*map(_documents, sides), strict=True)
        found.append(Sentences((pivot, language), *tokens, *hashes))
    if not found:
        raise UserError(
            f"SentenceRetrieval.pivot = {pivot!r}: no other language shares {least} groups of validation text with it;"
            " lower SentenceRetrieval.least, or bind .files"
        )
    return found


def _shared_documents(first: Any, second: Any) -> np.ndarray:
    """(G,2) documents of two stores of a task: the first text of each group that both have, ordered by group."""
    shared, a, b = np.intersect1d(first.group, second.group, return_indices=True)
    return np.stack([a, b], axis=1)[shared >= 0]


def _documents(chosen: list[tuple[Any, int]]) -> tuple[list[np.ndarray], np.ndarray]:
    tokens = [np.asarray(store.tokens[store.offsets[d] : store.offsets[d + 1]], np.int32) for store, d in chosen]
    return tokens, np.asarray([int(store.text_hash[d]) for store, d in chosen])


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
    written = tuple(zip(*texts, strict=True))
    return Sentences((languages[0], languages[1]), source, target, source_hash, target_hash, (written[0], written[1]))


def _is_tsv(path: str) -> bool:
    return path.removesuffix(".gz").endswith(".tsv")


def _lines(path: str) -> list[str]:
    return [line for _, line in read_lines(resolve(path))]


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
