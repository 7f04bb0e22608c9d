"""Parallel sentences for the probes: from files, groups of the run's validation text, or a clone's documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.store.store import Store
from xalign_jax.data.text.files import parallel_files
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import fingerprint, text_hashes
from xalign_jax.evaluation.inputs.parallel_files import File, mappings
from xalign_jax.evaluation.inputs.windows import Text, clone_pairs, run_texts


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Parallel sentences: sentence i of `source` and `target` say the same.

    Attributes:
      languages: (source, target).
      source, target: token sequences, each in its language.
      source_hash, target_hash: (N,) of the texts; equal texts have equal hashes.
      texts: (source, target) as written; None where only tokens are known.
    """

    languages: tuple[str, str]
    source: list[np.ndarray]
    target: list[np.ndarray]
    source_hash: np.ndarray
    target_hash: np.ndarray
    texts: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the sentences, however they are tokenised."""
        return fingerprint(self.source_hash, self.target_hash)


def sentences(
    corpus: CorpusView,
    files: Sequence,
    count: int,
    pivot: str | None = None,
    least: int = 1,
    others: Sequence[str] = (),
) -> list[Sentences]:
    """The first `count` sentences of each pair of languages.

    Args:
      files: (language, path) each, or several of such mappings (`inputs.parallel_files`). The first language of a
        mapping is paired with every other one. TSV files (`id<TAB>text`) are joined on the id. Other files are aligned
        by line. Both are read like a task's text.
      pivot: the language to pair with others where there are no files. Each other language (of `others`, if they are
        named) that shares at least `least` groups of the validation texts with it makes a pair. A group gives one text
        of each language. None: every language that has clones is paired with its clones.
      least: sentences that a pair must have, counted before `count` cuts them.

    Raises:
      UserError: a file is missing or not parallel; files or a clone's documents are fewer than `least`; no language
        shares enough with the pivot.
    """
    if files:
        found = [_from_files(corpus.tokenizer, mapping, count, least) for mapping in mappings(files)]
        return [pair for pairs in found for pair in pairs]
    if pivot is not None:
        return _from_groups(corpus, pivot, count, least, others)
    pairs = clone_pairs(run_texts(corpus, "validation"))
    return [_from_clone(corpus.tokenizer, base, clone, count, least) for base, clone in pairs]


def by_key(files: Sequence[File]) -> dict[str, dict[str, str]]:
    """{language: {key of the sentence, its id or line: text}} of parallel files, each in the order of its file.

    Raises:
      UserError: a file is missing, or files are not parallel.
    """
    texts: dict[str, dict[str, str]] = {language: {} for language, _ in files}
    for document in parallel_files(files).documents():
        texts[document.language][document.group] = document.text
    return texts


def _from_clone(tokenizer: Tokenizer, base: Text, clone: Text, count: int, least: int) -> Sentences:
    """A language's first documents, and the same documents written in its clone."""
    chosen = [(store, d) for store in base.stores for d in range(len(store.offsets) - 1)]
    if len(chosen) < least:
        raise UserError(
            f"least = {least} of the probe: the validation text in {base.language} has {len(chosen)} documents;"
            " lower it, or take the probe out of Stage.probes"
        )
    found, hashes = _documents(chosen[:count])
    cloned = [tokenizer.clone(tokens, clone.clone) for tokens in found]
    return Sentences((base.language, clone.language), found, cloned, hashes, hashes)


def _from_groups(corpus: CorpusView, pivot: str, count: int, least: int, others: Sequence[str]) -> list[Sentences]:
    """The texts of the groups that the pivot shares with each other language."""
    # Groups are numbered within a task, so pairs of texts come from one task.
    tasks = [splits.get("validation", {}) for splits in corpus.stores.values()]
    known = {language for stores in tasks for language in stores if language != pivot}
    if missing := [language for language in others if language not in known | {pivot}]:
        raise UserError(f"others of the probe names {missing[0]!r}: no validation text is in it")
    named = sorted(known & set(others)) if others else sorted(known)
    found = []
    # [(pivot's store, language's store)] by task, and for each the documents (G, 2) of the groups that both have.
    for language in named:
        both = [(stores[pivot], stores[language]) for stores in tasks if pivot in stores and language in stores]
        shared = [_shared_documents(*stores) for stores in both]
        if sum(map(len, shared)) < max(least, 1):
            continue
        # Tasks one after another, cut to `count` sentences in all.
        chosen = [(stores, index) for stores, pairs in zip(both, shared, strict=True) for index in pairs][:count]
        # Side 0 is the pivot's, side 1 the language's.
        sides = [[(stores[k], index[k]) for stores, index in chosen] for k in (0, 1)]
        tokens, hashes = zip(*map(_documents, sides), strict=True)
        found.append(Sentences((pivot, language), *tokens, *hashes))
    if not found:
        raise UserError(
            f"pivot = {pivot!r} of the probe: no other language shares {least} groups of validation text with it;"
            " lower .least, or bind .files"
        )
    return found


def _shared_documents(first: Store, second: Store) -> np.ndarray:
    """(G,2) documents of two stores of a task: the first text of each group that both have, ordered by group."""
    # (shared,) group numbers, and where each stands first in either store. Negative numbers mean that a text has no
    # group.
    shared, a, b = np.intersect1d(first.group, second.group, return_indices=True)
    return np.stack([a, b], axis=1)[shared >= 0]


def _documents(chosen: list[tuple[Store, int]]) -> tuple[list[np.ndarray], np.ndarray]:
    """Tokens and (N,) text hashes of some documents."""
    tokens = [np.asarray(store.tokens[store.offsets[d] : store.offsets[d + 1]], np.int32) for store, d in chosen]
    return tokens, np.asarray([int(store.text_hash[d]) for store, d in chosen])


def _from_files(tokenizer: Tokenizer, files: Sequence[File], count: int, least: int) -> list[Sentences]:
    """The sentences that the first file shares with each other file."""
    (first, source), *others = by_key(files).items()
    found = []
    # The source's order is kept.
    for (language, target), (_, path) in zip(others, files[1:], strict=True):
        pairs = [(text, target[key]) for key, text in source.items() if key in target]
        if not pairs:
            raise UserError(f"{files[0][1]} and {path}: no sentence is in both")
        if len(pairs) < least:
            raise UserError(
                f"{files[0][1]} and {path}: {len(pairs)} sentences are in both, but least = {least};"
                f" take {language} out of .files, or lower .least"
            )
        found.append(_written(tokenizer, (first, language), pairs[:count]))
    return found


def _written(tokenizer: Tokenizer, languages: tuple[str, str], pairs: list[tuple[str, str]]) -> Sentences:
    """Sentences of pairs of texts, tokenised."""
    first, second = zip(*pairs, strict=True)
    source, target = (_tokens(tokenizer, *side) for side in zip(languages, (first, second), strict=True))
    return Sentences(languages, source, target, text_hashes(first), text_hashes(second), (first, second))


def _tokens(tokenizer: Tokenizer, language: str, texts: Sequence[str]) -> list[np.ndarray]:
    """Texts as token ids of a language, which may be a clone."""
    clone = clone_index(language)[1]
    return [tokenizer.clone(ids, clone) for ids in tokenizer.encode_documents(texts)]
