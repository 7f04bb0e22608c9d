"""The process that `store.prepare` starts: it trains or loads the vocabulary and tokenises tasks into stores."""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from xalign_jax.data.cleaning.reader import CleanReader, lines
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store.cache import damage, make
from xalign_jax.data.store.store import FORMAT, canonical_task, index_file
from xalign_jax.data.text.files import is_language, keyed_hash, normal_text, stamp_file
from xalign_jax.data.text.readers import source_reader
from xalign_jax.data.tokens.backends import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.vocabulary import Tokenizer, Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve

# Version of the content fingerprint, which resumed runs compare. It changes less often than FORMAT.
_CONTENT = 2
SAMPLE_BYTES = 12_000_000  # of text that a vocabulary is trained on, in equal shares of the languages
_SENTENCE_BYTES = 4000  # SentencePiece skips longer sentences
_SPLITS = ("validation", "train")
_BATCH = 1024
_FAR = 3  # if a split has more than this many times the validation text that was meant, a line says so
_VERSIONS = ("numpy", "sentencepiece", "seqio", "tensorflow", "xalign_jax")


OpenTask = Callable[[str, str], Any]


def run(
    vocabulary: Vocabulary,
    tasks: Sequence[str],
    modules: Sequence[str],
    cache: Path,
    open_task: OpenTask,
    cleaning: Cleaning | None = None,
) -> None:
    """Prepare the vocabulary and the stores of `tasks`, and write the index.

    Args:
      cleaning: which texts are dropped, before a vocabulary is trained on the others; None = none.
      open_task: opens a task that is no file, from its name and a hash of the code of the user's modules.

    Raises:
      UserError: bad settings, files or modules.
      OSError: files of the cache cannot be read or written.
    """
    # Stamps come first: a file that changes while it is read leaves an outdated stamp, and is read again next time.
    readers, stamps = _open_tasks(tasks, modules, open_task) if tasks else ({}, [])
    if cleaning is not None:
        readers = {task: CleanReader(reader, cleaning) for task, reader in readers.items()}
    with _locked(cache):
        # The vocabulary depends on the texts only if it is trained.
        directory, tokenizer = prepare_vocabulary(vocabulary, list(readers.values()), cache)
        of_vocabulary = [] if vocabulary.path is None else _path_stamps(vocabulary.path)
        if vocabulary.trained:
            of_vocabulary = stamps
        _write_index(index_file(cache, vocabulary, tasks, None, cleaning), cache, directory, of_vocabulary, modules)
        prints = {task: reader.fingerprint() for task, reader in readers.items()}
        # Validation texts of each task are read only if a store must be made, and then once.
        held_out = functools.cache(lambda task: _validation_texts(readers[task]))
        for task, reader in readers.items():
            reader.check_vocabulary(tokenizer)
            store = prepare_store(task, reader, tokenizer, cache, prints, held_out)
            file = index_file(cache, vocabulary, tasks, task, cleaning)
            _write_index(file, cache, store, [*of_vocabulary, *stamps], modules)


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
    base = Vocabulary(vocabulary.kind, vocabulary.path, vocabulary.size, vocabulary.model_type, vocabulary.lowercase)
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
        directory = folder / _hash(base.size, base.model_type, base.lowercase, prints)
        if damage(directory) is None:
            return directory, Tokenizer.load(directory)
        print(f"training a vocabulary of {base.size} pieces", file=sys.stderr)
        model = train_sentencepiece(_sample(readers), base.size, base.model_type, base.lowercase)
        tokenizer = Tokenizer(SentencePieces(model), base)
    make(directory, tokenizer.save)
    return directory, tokenizer


def _sample(readers: Sequence[Any]) -> list[str]:
    """Sorted lines to train on: each language gives the texts of smallest hash, up to its share of SAMPLE_BYTES."""
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
    """A line in parts that are short enough for SentencePiece, cut at spaces if there are any."""
    parts, start, most = [], 0, _SENTENCE_BYTES // 4
    # A quarter of the limit in characters is at most the limit in bytes, since UTF-8 has up to four for each.
    while len(line) - start > _SENTENCE_BYTES or len(line[start:].encode()) > _SENTENCE_BYTES:
        end = line.rfind(" ", start, start + most)
        end = end if end > start else start + most
        parts.append(line[start:end])
        start = end
        while line[start : start + 1].isspace():
            start += 1
    return [*parts, line[start:]]


class _Writer:
    """Collects the documents of one language of one split, then writes them in shuffled order.

    Tokens go to a file `raw` at once, because they may not fit into memory.
    """

    def __init__(self, folder: Path, language: str, dtype: type) -> None:
        if not is_language(language):
            raise UserError(f"Mixture.tasks: a text is in {language[:60]!r}, which is no name for a language")
        folder = folder / language
        folder.mkdir(parents=True)
        self._folder, self._dtype = folder, dtype
        self._raw = (folder / "raw").open("w+b")
        self._columns = {name: array.array("q") for name in ("length", "group", "text_hash", "utf8_bytes")}
        self._words = 0

    def add(self, ids: np.ndarray, text: str, group: int) -> None:
        """Add a document: its ids (n,), its text, and the number of its group; -1 = no group."""
        self._raw.write(ids.astype(self._dtype).tobytes())
        # One row of the columns: tokens, group, hash of the normalised text, bytes.
        row = (len(ids), group, zlib.crc32(normal_text(text).encode()), len(text.encode()))
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._words += len(text.split())

    def finish(self) -> dict[str, int]:
        """Write the arrays of `store.Store`, and return the counts."""
        # (D,) columns in the order of `add`; `order` (D,): document `order[d]` of them is document d of the store.
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        lengths = columns["length"]
        starts = np.cumsum(lengths) - lengths
        order = np.random.default_rng(0).permutation(len(lengths))
        offsets = np.concatenate([[0], np.cumsum(lengths[order])])
        self._raw.flush()
        raw = np.memmap(self._raw, self._dtype, mode="r")
        # Copy document by document from the raw file into the shuffled array; neither is in memory.
        tokens = np.lib.format.open_memmap(self._folder / "tokens.npy", "w+", self._dtype, (len(raw),))
        for new, old in enumerate(order):
            tokens[offsets[new] : offsets[new + 1]] = raw[starts[old] : starts[old] + lengths[old]]
        tokens.flush()
        np.save(self._folder / "offsets.npy", offsets)
        for name, dtype in (("group", np.int32), ("text_hash", np.uint32), ("utf8_bytes", np.int32)):
            np.save(self._folder / f"{name}.npy", columns[name][order].astype(dtype))
        self._raw.close()
        (self._folder / "raw").unlink()
        utf8_bytes = int(columns["utf8_bytes"].sum())
        return {"documents": len(lengths), "tokens": len(raw), "utf8_bytes": utf8_bytes, "words": self._words}


def prepare_store(
    task: str,
    reader: Any,
    tokenizer: Tokenizer,
    cache: Path,
    prints: Mapping[str, str],
    held_out: Callable[[str], set[int]],
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
        _fill_store(folder, task, reader, tokenizer, prints[task], set().union(*map(held_out, others)))

    make(directory, fill)
    return directory


def _validation_texts(reader: Any) -> set[int]:
    return {keyed_hash(normal_text(example.document.text)) for example in reader.read("validation")}


def _fill_store(
    folder: Path, task: str, reader: Any, tokenizer: Tokenizer, print_of_task: str, validation: set[int]
) -> None:
    """Write the files of a store into a folder.

    Args:
      print_of_task: the task's fingerprint.
      validation: hashes of texts that training leaves out. The task's own validation texts are added.
    """
    counts: dict[str, dict[str, dict[str, int]]] = {}
    groups: dict[str, int] = {}
    content = hashlib.sha256()
    dropped = 0
    for split in _SPLITS:  # validation first: training needs its texts
        writers: dict[str, _Writer] = {}
        progress = tqdm(_batches(reader.read(split)), desc=f"{task} {split}", unit=" batches", mininterval=1)
        for documents, ids in (_tokenise(batch, tokenizer) for batch in progress):
            for document, row in zip(documents, ids, strict=True):
                key = keyed_hash(normal_text(document.text))
                if split == "validation":
                    validation.add(key)
                elif key in validation:
                    dropped += 1
                    continue
                # The content's hash covers every document with its split, language and group, in order.
                content.update("\0".join([split, *document]).encode() + b"\n")
                if document.language not in writers:
                    dtype = np.uint16 if tokenizer.base_size <= 65536 else np.int32
                    writers[document.language] = _Writer(folder / split, document.language, dtype)
                # Groups become numbers in the order of their first document, over both splits.
                group = groups.setdefault(document.group, len(groups)) if document.group else -1
                writers[document.language].add(row, document.text, group)
        counts[split] = {language: writer.finish() for language, writer in sorted(writers.items())}
    if not counts["train"]:
        raise UserError(f"Mixture.tasks: {task!r} has no training text")
    if reader.share is not None:
        for note in split_notes(counts, reader.share):
            print(f"{task}: {note}", file=sys.stderr)
    info = {
        "format": FORMAT,
        "task": canonical_task(task),
        "source": print_of_task,
        "content": content.hexdigest(),
        "vocabulary": tokenizer.base_fingerprint,
        "fingerprint": _digest(_CONTENT, content.hexdigest(), tokenizer.base_fingerprint),
        "languages": sorted({language for split in counts.values() for language in split}),
        "counts": {split: counts[split] for split in reversed(_SPLITS)},
        "dropped_as_validation_text": dropped,
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


def _batches(examples: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(examples, _BATCH)):
        yield batch


def _tokenise(batch: list[Any], tokenizer: Tokenizer) -> tuple[list[Any], list[np.ndarray]]:
    """The documents of a batch, and the ids (n,) of each, which end with eos."""
    # Encode the texts in one call; examples that come tokenised keep their ids.
    texts = [example.document.text for example in batch if example.ids is None]
    encoded = iter(tokenizer.encode_documents(texts))
    rows = [next(encoded) if example.ids is None else example.ids for example in batch]
    eos = np.array([tokenizer.eos], np.int32)
    return (
        [example.document for example in batch],
        [row if len(row) and row[-1] == tokenizer.eos else np.concatenate([row, eos]) for row in rows],
    )
