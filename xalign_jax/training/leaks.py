"""Whether training text holds texts that measure the run: files of probes, and validation texts of other tasks.

Texts count as the same if they differ only in case, spacing and punctuation. Long ones are also found inside longer
texts. If the recipe is cleaned of near duplicates (`Cleaning.near`), near duplicates are leaks too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from xalign_jax.data.cleaning import stored
from xalign_jax.data.cleaning.comparable import comparable
from xalign_jax.data.cleaning.leaks import Finder
from xalign_jax.data.corpus import CorpusView
from xalign_jax.data.store.store import Store, cache_dir
from xalign_jax.data.text.lines import read_lines
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe

LOOKED = 30_000_000  # tokens that "report" looks at, under a minute of one core; "refuse" looks at all training text
HELD_OUT = 10_000  # validation texts of each task and language that are looked for
_SHOWN = 80  # characters of an example
_KEPT = 0.9  # a vocabulary without some characters loses them: a text that loses more than a tenth is not looked for


class _Wanted(NamedTuple):
    """A text to look for.

    Attributes:
      source: the file, or the task of validation text.
      line: its line in the file; 0 for validation text.
      task: of validation text, which may be in the training text of this task; "" for files.
      text: in the form of `comparable`.
      shown: the beginning of the text.
    """

    source: str
    line: int
    task: str
    text: str
    shown: str


def check(recipe: Recipe, corpus: CorpusView, action: str) -> None:
    """Look for leaks, and report them on stderr or refuse them (`Runtime.leaks`).

    Raises:
      UserError: there is a leak and the action is "refuse".
    """
    if action == "ignore":
        return
    found = leaks(recipe, corpus, LOOKED if action == "report" else None)
    if found and action == "refuse":
        more = f" (and {len(found) - 1} more sources have leaks)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}; take them out of the text, or bind Runtime.leaks = 'report'")
    for line in found:
        print(f"leak: {line}", file=sys.stderr)


def leaks(recipe: Recipe, corpus: CorpusView, looked: int | None = None) -> list[str]:
    """A line for each file, and for each task with validation text, of which some is in the training text.

    Args:
      looked: tokens that are looked at, in equal shares of the languages of all tasks; None = all. Results are kept in
        the cache, so that a run that is restarted does not look again.
    """
    wanted = list(_of_files(recipe, corpus.tokenizer))
    if wanted or len(corpus.stores) > 1:
        wanted += _of_validation(corpus)
    if not wanted:
        return []
    near = recipe.cleaning.near if recipe.cleaning is not None else None
    about = [[*one[:4]] for one in wanted] + [near, looked, corpus.tokenizer.base_fingerprint]
    prints = sorted({store.fingerprint for _, store in _training(corpus)})
    name = hashlib.sha256(json.dumps([about, prints]).encode()).hexdigest()[:24]
    file = cache_dir() / "leaks" / f"{name}.json"
    try:
        return [str(line) for line in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        found = _look(wanted, corpus, near, looked)
        # Several runs may share a cache, which may be read-only: the result is kept if it can be.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(found))
            temporary.replace(file)
        return found


def _training(corpus: CorpusView) -> Iterator[tuple[str, Store]]:
    for task, splits in corpus.stores.items():
        for store in splits.get("train", {}).values():
            yield task, store


def _of_files(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[_Wanted]:
    """The texts of all files that probes of the recipe read, as the vocabulary leaves them."""
    probes = [probe for stage in recipe.stages for probe in stage.probes]
    for path in dict.fromkeys(path for probe in probes for _, path in probe.text_files()):
        has_id = path.removesuffix(".gz").endswith(".tsv")
        for number, line in read_lines(path):
            text = (line.partition("\t")[2] if has_id else line).strip()
            if not text:
                continue
            # Stores hold tokens. So the text takes the same way, into tokens and back.
            (ids,) = tokenizer.encode_documents([text])
            known = comparable(tokenizer.decode(ids))
            if len(known) >= _KEPT * len(comparable(text)):
                yield _Wanted(path, number, "", known, text[:_SHOWN])


def _of_validation(corpus: CorpusView) -> Iterator[_Wanted]:
    """Validation texts, which are looked for in the training text of other tasks."""
    for task, splits in corpus.stores.items():
        for store in splits.get("validation", {}).values() if len(corpus.stores) > 1 else ():
            for batch in stored.texts(corpus.tokenizer, store, HELD_OUT):
                for text in batch:
                    yield _Wanted(f"{task}, validation text", 0, task, text, text[:_SHOWN])


def _look(wanted: list[_Wanted], corpus: CorpusView, near: float | None, looked: int | None) -> list[str]:
    """Look through all training texts, language by language and batch by batch."""
    finder = Finder([one.text for one in wanted], near)
    hits: dict[int, str] = {}  # number of a wanted text -> where it was found first
    training = list(_training(corpus))
    for task, store in training:
        # (D + 1,) offsets: the documents that end within the store's share of `looked` tokens, at least one. Stores are
        # shuffled, so these are a random sample.
        share = None if looked is None else looked // len(training)
        most = None if share is None else max(1, int((store.offsets <= share).sum()) - 1)
        for batch in stored.texts(corpus.tokenizer, store, most):
            for hit in finder.search(batch):
                if wanted[hit.number].task != task:
                    hits.setdefault(hit.number, f"{hit.how} in the training text of {task} in {store.language}")
    # Source -> numbers of its texts that were found, and of all.
    found: dict[str, list[int]] = {}
    total: dict[str, int] = {}
    for number, one in enumerate(wanted):
        total[one.source] = total.get(one.source, 0) + 1
        if number in hits:
            found.setdefault(one.source, []).append(number)
    return [
        _line(wanted[numbers[0]], hits[numbers[0]], len(numbers), total[source]) for source, numbers in found.items()
    ]


def _line(first: _Wanted, where: str, hits: int, total: int) -> str:
    place = f"{first.source}:{first.line}" if first.line else first.source
    return f"{place}: {hits:,} of {total:,} texts stand in training text, for example {first.shown!r} ({where})"
