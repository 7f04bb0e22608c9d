"""The process that `store.prepare` starts: it trains or loads the vocabulary and tokenises tasks into stores."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from xalign_jax.data.cleaning.reader import CleanReader, lines
from xalign_jax.data.store.assemble import assemble
from xalign_jax.data.store.cache import damage, make
from xalign_jax.data.store.columns import Encoder, field_columns
from xalign_jax.data.store.shards import delete_shards, open_shards
from xalign_jax.data.store.store import FORMAT, Texts
from xalign_jax.data.store.tokenise import SPLITS, ChangedError, Found, tokenise
from xalign_jax.data.text.fields import tables as field_tables
from xalign_jax.data.text.files import keyed_hash, normal_text
from xalign_jax.data.text.names import canonical_task
from xalign_jax.data.text.readers import source_reader
from xalign_jax.data.text.stamps import stamp_file, stamp_package
from xalign_jax.data.tokens import segmenter
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

# Version of the content fingerprint, which resumed runs compare. It changes less often than FORMAT.
_CONTENT = 2
SAMPLE_BYTES = 12_000_000  # of text that a vocabulary is trained on, in equal shares of the languages
_SENTENCE_BYTES = 4000  # SentencePiece skips longer sentences
_FAR = 3  # if a split has more than this many times the validation text that was meant, a line says so
_VERSIONS = ("numpy", "sentencepiece", "seqio", "tensorflow", "xalign_jax")


OpenTask = Callable[[str, str], Any]


def run(texts: Texts, modules: Sequence[str], open_task: OpenTask) -> None:
    """Prepare the vocabulary and the stores of a recipe's tasks, and write the index.

    With cleaning, texts are dropped before a vocabulary is trained on the others.

    Args:
      open_task: opens a task that is no file, from its name and a hash of the code of the user's modules.

    Raises:
      UserError: bad settings, files or modules.
      OSError: files of the cache cannot be read or written.
    """
    cache, vocabulary, tasks = texts.folder, texts.vocabulary, texts.tasks
    # Stamps come first: a file that changes while it is read leaves an outdated stamp, and is read again next time.
    readers, stamps = _open_tasks(tasks, modules, open_task) if tasks else ({}, [])
    if texts.cleaning is not None:
        readers = {task: CleanReader(reader, texts.cleaning) for task, reader in readers.items()}
    with _locked(cache):
        # The vocabulary depends on the texts only if it is trained.
        directory, tokenizer = prepare_vocabulary(vocabulary, list(readers.values()), cache)
        of_vocabulary = [] if vocabulary.path is None else _path_stamps(vocabulary.path)
        if vocabulary.trained:
            of_vocabulary = stamps
        if vocabulary.words:
            of_vocabulary = [*of_vocabulary, stamp_package("icu4py")]
        _write_index(texts.index_file(None), cache, directory, of_vocabulary, modules)
        prints = {task: reader.fingerprint() for task, reader in readers.items()}
        # Validation texts of each task are read only if a store must be made, and then once.
        held_out = functools.cache(lambda task: _validation_texts(readers[task]))
        for task, reader in readers.items():
            reader.check_vocabulary(tokenizer)
            store = prepare_store(task, reader, tokenizer, cache, prints, held_out)
            _write_index(texts.index_file(task), cache, store, [*of_vocabulary, *stamps], modules)


def _open_tasks(
    tasks: Sequence[str], modules: Sequence[str], open_task: OpenTask
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Readers by task, and the stamps of all tasks and of the user's modules, taken before anything is read."""
    of_modules, code = [], b""
    for module in import_modules(modules):
        if module.__file__:
            # The code of the user's modules is part of the fingerprint of seqio tasks.
            of_modules.append(stamp_file(module.__file__))
            code += Path(module.__file__).read_bytes()
    digest = hashlib.sha256(code).hexdigest() if code else ""
    readers = {task: source_reader(task) or open_task(task, digest) for task in dict.fromkeys(tasks)}
    return readers, [*of_modules, *(stamp for reader in readers.values() for stamp in reader.stamps())]


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """The user's modules, which register tasks. Raises UserError for one that cannot be imported."""
    found = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            raise UserError(f"Recipe.modules: cannot import {name!r}: {error}") from None
    return found


def _path_stamps(path: str) -> list[tuple[str, ...]]:
    """The stamps of a vocabulary's path and of all files that a vocabulary in this folder may consist of."""
    place = Path(resolve(path))
    folder = place if place.is_dir() else place.parent
    names = ("spm.model", "tokenizer.json", "tokenizer_config.json", "ids.json")
    return [stamp_file(str(file)) for file in (place, *(folder / name for name in names))]


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Prepare one recipe at a time. On file systems without locks several may work, and the first to finish wins."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_index(file: Path, cache: Path, directory: Path, stamps: list, modules: Sequence[str]) -> None:
    """Write an entry of the index, atomically."""
    entry = {"directory": str(directory.relative_to(cache)), "stamps": stamps, "modules": list(modules)}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(entry, indent=1) + "\n")
    temporary.replace(file)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _hash(*parts: Any) -> str:
    """The name of a directory in the cache."""
    return _digest(FORMAT, *parts)


def prepare_vocabulary(vocabulary: Vocabulary, readers: Sequence[Any], cache: Path) -> tuple[Path, Tokenizer]:
    """The directory of a vocabulary in the cache, which is made if it is missing, and its tokenizer without clones.

    Raises:
      UserError: the vocabulary's file cannot be read, or there is no text to train on.
    """
    # Clones do not count: stores hold base ids.
    base = Vocabulary(
        vocabulary.kind, vocabulary.path, vocabulary.size, vocabulary.model_type, vocabulary.lowercase,
        words=vocabulary.words,
    )  # fmt: skip
    folder = cache / "vocabularies"
    if not vocabulary.trained:
        tokenizer = Tokenizer.of(base)
        directory = folder / _hash(tokenizer.base_fingerprint)
    else:
        if not readers:
            raise UserError(
                "Vocabulary.path: set it (or Vocabulary.kind = 'bytes'): the recipe has no text to train on"
            )
        # A trained vocabulary is identified by its settings and its texts, without training it.
        prints = sorted(reader.fingerprint() for reader in readers)
        words = [base.words, segmenter.version()] if base.words else []
        directory = folder / _hash(base.size, base.model_type, base.lowercase, prints, *words)
        if damage(directory) is None:
            return directory, Tokenizer.load(directory)
        print(f"training a vocabulary of {base.size} pieces", file=sys.stderr)
        sentences = _sample(readers, bool(base.words))
        model = train_sentencepiece(sentences, base.size, base.model_type, base.lowercase, bool(base.words))
        tokenizer = Tokenizer(SentencePieces(model), base)
    make(directory, tokenizer.save)
    return directory, tokenizer


def _sample(readers: Sequence[Any], borders: bool) -> list[str]:
    """Sorted lines to train on: each language gives the texts of smallest hash, up to its share of SAMPLE_BYTES.

    Args:
      borders: mark borders between words in scripts without spaces.
    """
    kept: dict[str, dict[int, str]] = {}
    sizes: dict[str, int] = {}
    for example in itertools.chain.from_iterable(reader.read("train") for reader in readers):
        text, language = example.document.text, example.document.language
        texts = kept.setdefault(language, {})
        texts[keyed_hash(text)] = text
        sizes[language] = sizes.get(language, 0) + len(text)
        if sizes[language] > 2 * SAMPLE_BYTES:  # so that a language never takes much more memory than that
            kept[language] = _smallest(texts, SAMPLE_BYTES)
            sizes[language] = sum(map(len, kept[language].values()))
    # Equal shares, so that a large language does not take all pieces.
    chosen = [t for texts in kept.values() for t in _smallest(texts, SAMPLE_BYTES // len(kept)).values()]
    if not chosen:
        raise UserError("Mixture.tasks: there is no training text to train a vocabulary on")
    if borders:
        chosen = list(map(segmenter.mark_borders, chosen))
    return sorted(piece for text in chosen for line in text.splitlines() for piece in _cut(line.strip()) if piece)


def _smallest(texts: dict[int, str], budget: int) -> dict[int, str]:
    """The texts of smallest hash, up to the first one that exceeds `budget` bytes in all. A longer text is cut."""
    kept, total = {}, 0
    for key in sorted(texts):
        # A text that is longer than the budget is cut; a character that the cut divides is dropped.
        text = texts[key].encode()
        kept[key] = texts[key] if len(text) <= budget else text[:budget].decode(errors="ignore")
        total += len(text)
        if total >= budget:
            break
    return kept


def _cut(line: str) -> list[str]:
    """A line in parts that are short enough for SentencePiece, cut at spaces or borders if there are any."""
    parts, start, most = [], 0, _SENTENCE_BYTES // 4
    # A quarter of the limit in characters is at most the limit in bytes, since UTF-8 has up to four for each.
    while len(line) - start > _SENTENCE_BYTES or len(line[start:].encode()) > _SENTENCE_BYTES:
        end = max(line.rfind(mark, start, start + most) for mark in (" ", segmenter.BORDER))
        end = end if end > start else start + most
        parts.append(line[start:end])
        start = end
        while line[start : start + 1].isspace():
            start += 1
    return [*parts, line[start:]]


def prepare_store(
    task: str,
    reader: Any,
    tokenizer: Tokenizer,
    cache: Path,
    prints: Mapping[str, str],
    held_out: Callable[[str], np.ndarray],
) -> Path:
    """The directory of a task's store in the cache, which is made if it is missing.

    Args:
      prints: fingerprints of all tasks of the recipe.
      held_out: gives the hashes of a task's validation texts. Training leaves out the validation texts of all tasks.
    Raises:
      UserError: the vocabulary has no eos, or the task has no training text.
    """
    if tokenizer.eos is None:
        raise UserError("Vocabulary.path: the vocabulary has no end-of-sequence piece, which ends every document")
    # The key covers the other tasks, because their validation texts are left out.
    others = [other for other in prints if other != task]
    key = _hash(prints[task], tokenizer.base_fingerprint, sorted(prints[other] for other in others))
    directory = cache / "stores" / key

    def fill(folder: Path) -> None:
        validation = np.unique(np.concatenate([np.empty(0, np.uint64), *map(held_out, others)]))
        documents = (one.document for split in SPLITS for one in reader.read(split))
        tables = field_tables(documents, reader.fields) if reader.fields else {}
        encoder = Encoder(tokenizer, field_columns(tables))
        shards = open_shards(cache, key, encoder.columns)
        try:
            found = tokenise(task, reader, encoder, validation, shards)
        except ChangedError:
            print(f"{task}: its text has changed; tokenising it again", file=sys.stderr)
            shutil.rmtree(shards.folder)
            found = tokenise(task, reader, encoder, validation, open_shards(cache, key, encoder.columns))
        counts = assemble(folder, shards, found.shards, encoder.stored, [column.name for column in encoder.counted])
        _describe(folder, task, reader, encoder, prints[task], found, counts, tables)

    make(directory, fill)
    delete_shards(cache, key)
    return directory


def _validation_texts(reader: Any) -> np.ndarray:
    """The hashes of a task's validation texts, sorted."""
    return np.unique(
        np.array([keyed_hash(normal_text(one.document.text)) for one in reader.read("validation")], np.uint64)
    )


def _describe(
    folder: Path,
    task: str,
    reader: Any,
    encoder: Encoder,
    print_of_task: str,
    found: Found,
    counts: dict[str, dict[str, dict[str, int]]],
    tables: Mapping[str, Sequence[str]],
) -> None:
    """Write store.json and cleaning.json into a store's folder, and print what is surprising."""
    if not counts["train"]:
        raise UserError(f"Mixture.tasks: {task!r} has no training text")
    if reader.share is not None:
        for note in split_notes(counts, reader.share):
            print(f"{task}: {note}", file=sys.stderr)
    vocabulary = encoder.tokenizer.base_fingerprint
    info = {
        "format": FORMAT,
        "task": canonical_task(task),
        "source": print_of_task,
        "content": found.content,
        "vocabulary": vocabulary,
        "fingerprint": _digest(_CONTENT, found.content, vocabulary),
        "fields": [column.name for column in encoder.own],
        "tables": {field: list(names) for field, names in tables.items()},
        "languages": sorted({language for split in counts.values() for language in split}),
        "counts": {split: counts[split] for split in reversed(SPLITS)},
        "dropped_as_validation_text": found.dropped,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
    }
    if isinstance(reader, CleanReader):
        report = reader.report()
        for line in lines(report):
            print(f"{task}: {line}", file=sys.stderr)
        (folder / "cleaning.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (folder / "store.json").write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")


def split_notes(counts: Mapping[str, Mapping[str, Mapping[str, int]]], share: float) -> Iterator[str]:
    """Lines about surprises in a split by documents: languages with no validation text, or with far too much.

    Args:
      counts: by split and language, as in store.json.
      share: the share of the documents that is meant for validation.
    """
    train, validation = counts["train"], counts["validation"]
    # Languages with one document, which was not drawn for validation.
    single = [name for name, count in train.items() if count["documents"] == 1 and name not in validation]
    if single:
        yield (
            f"all text in {_some(single)} is one document, so that none is left for validation; documents of `text:` "
            "files stand between blank lines, those of `lines:` files are lines"
        )
    # (share, language, text) of languages with far too much validation text; the worst is described.
    far = []
    for name in train.keys() & validation.keys():
        held_out, total = validation[name]["tokens"], validation[name]["tokens"] + train[name]["tokens"]
        if held_out > _FAR * share * total:
            documents = validation[name]["documents"] + train[name]["documents"]
            far.append(
                (held_out / total, name, f"{held_out:,} of {total:,} tokens in {name} ({documents:,} documents)")
            )
    if far:
        _, names, figures = zip(*sorted(far, reverse=True), strict=True)
        yield (
            f"{figures[0]} are for validation, {max(far)[0]:.0%} instead of {share:.0%}"
            f"{', and similarly in ' + _some(names[1:]) if names[1:] else ''}; documents are never divided: cut long "
            "ones by blank lines, or read the files as `lines:`"
        )


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more languages" if len(names) > 3 else "")
