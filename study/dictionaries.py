"""Dictionaries made from parallel help pages by `xalign align`, for the experiments of the question `loop`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from study.experiments import ALIGNED, HELP, LOOP_DICTIONARIES, MADE
from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.lexicon.model1 import bare
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.text.readers import source_reader
from xalign_jax.errors import RunError, UserError
from xalign_jax.reports.tables import markdown

PAIRS = 10_000  # paragraphs of each two languages
# Aligner -> options of `xalign align`. They were set before any dictionary was seen.
ALIGNERS = {"ibm1": ("--method=ibm1",), "e5": ("--method=ot", "--level=7")}


def make(model: Path | None) -> Iterator[str]:
    """Make the dictionaries that do not exist yet; yields a line for each, and then a table.

    Args:
      model: folder of multilingual-e5-small; None = only dictionaries that need no model are made.

    Raises:
      UserError: a text is missing or damaged.
      RunError: an aligner failed.
    """
    for language, (aligner, options) in itertools.product(LOOP_DICTIONARIES, ALIGNERS.items()):
        file = Path(ALIGNED.format(aligner, language))
        if file.exists():
            yield f"{file}: kept"
        elif aligner == "e5" and model is None:
            yield f"{file}: left out, it needs --model, a folder of multilingual-e5-small"
        else:
            yield _aligned(file, language, options if aligner != "e5" else (f"--model={model}", *options))
    yield f"\n{quality()}"


def _aligned(file: Path, language: str, options: Sequence[str]) -> str:
    """Align the training text and write the dictionary; returns what `xalign align` said."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [Path(MADE, f"text.en-{language}.{name}") for name in ("en", language)]
    for path, lines in zip(texts, zip(*training_pairs(language), strict=True), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "xalign_jax.cli", "align", f"--source={texts[0]}", f"--target={texts[1]}"]
    done = subprocess.run([*command, f"--dictionary={file}", *options], stderr=subprocess.PIPE, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        raise RunError(f"{file}: {said[-1].removeprefix('xalign: ') if said else 'xalign align failed'}")
    return "; ".join(said[-2:])


def training_pairs(language: str) -> list[tuple[str, str]]:
    """Up to `PAIRS` paragraphs in English and another language, drawn by a hash of the paragraph's id.

    They are of the training split, as recipes divide this text. So no dictionary knows validation text.
    """
    task = HELP.format(language)
    reader = source_reader(task)
    if reader is None:
        raise UserError(f"{task}: not read from files")
    found: dict[str, dict[str, str]] = {}
    for example in reader.read("train"):
        document = example.document
        found.setdefault(document.group or "", {})[document.language] = " ".join(document.text.split())
    both = [name for name, texts in found.items() if len(texts) == 2]
    drawn = sorted(both, key=lambda name: (int(hash64(0, "dictionary", name)), name))[:PAIRS]
    return [(found[name]["en"], found[name][language]) for name in drawn]


def quality() -> str:
    """A table with a line for each dictionary: its size, and how it compares with FreeDict where there is one.

    Words are compared without case. Both shares are over the English words that both dictionaries have. *Listed* is the
    share of the dictionary's translations that FreeDict lists, for the first translation of each word and for all.
    *Contained* is the share of FreeDict's translations that the dictionary has, among those that the aligned text has.
    """
    rows = []
    for language, files in LOOP_DICTIONARIES.items():
        gold = _translations(Path(files["freedict"]), language) if "freedict" in files else {}
        text = Path(MADE, f"text.en-{language}.{language}")
        spoken = set(map(bare, text.read_text(encoding="utf-8").split())) if text.exists() else set()
        for aligner in ALIGNERS:
            file = Path(ALIGNED.format(aligner, language))
            if file.exists():
                rows.append([f"{aligner}, en-{language}", *_compared(_translations(file, language), gold, spoken)])
    header = ["", "English words", "translations", "words in FreeDict", "first one listed", "all listed", "contained"]
    return markdown(header, rows)


def _compared(found: dict[str, list[str]], gold: dict[str, list[str]], spoken: set[str]) -> list[str]:
    """The cells of a line: counts, and three shares where there is a gold dictionary."""
    both = found.keys() & gold.keys()
    size = [f"{len(found):,}", f"{sum(map(len, found.values())):,}"]
    if not both:
        return [*size, "-", "-", "-", "-"]
    first = [found[word][0] in gold[word] for word in both]
    listed = [translation in gold[word] for word in both for translation in found[word]]
    contained = [translation in found[word] for word in both for translation in gold[word] if translation in spoken]
    return [*size, f"{len(both):,}", *(f"{sum(hits) / len(hits):.3f}" for hits in (first, listed, contained))]


def _translations(file: Path, language: str) -> dict[str, list[str]]:
    """English word -> its translations, in the order of the file, all without case."""
    found: dict[str, list[str]] = {}
    for _, words in read_dictionary(str(file), ("en", language)).entries:
        others = [word.casefold() for index, word in words if index]
        found.setdefault(words[0][1].casefold(), []).extend(dict.fromkeys(others))
    return found
