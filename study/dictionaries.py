"""Dictionaries made from parallel help pages by `xalign align`, for the experiments of the question `loop`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from study.experiments import ALIGNED, HELP
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.text.readers import source_reader
from xalign_jax.errors import RunError, UserError

PAIRS = 10_000  # of each two languages
# Aligner -> options of `xalign align`. They were set before any dictionary was seen.
ALIGNERS = {"e5": ("--method=ot", "--level=7"), "ibm1": ("--method=ibm1",)}


def make(languages: Iterable[str], model: Path | None) -> Iterator[str]:
    """Make the dictionaries from English into the languages that do not exist yet; yields a line for each.

    Args:
      model: folder of multilingual-e5-small; None = only dictionaries that need no model are made.

    Raises:
      UserError: a text is missing.
      RunError: an aligner failed.
    """
    for language, (aligner, options) in itertools.product(languages, ALIGNERS.items()):
        file = Path(ALIGNED.format(aligner, language))
        if file.exists():
            yield f"{file}: kept"
        elif aligner == "e5" and model is None:
            yield f"{file}: left out, it needs --model, a folder of multilingual-e5-small"
        else:
            chosen = () if aligner != "e5" else (f"--model={model}",)
            yield _aligned(file, language, (*chosen, *options))


def _aligned(file: Path, language: str, options: Iterable[str]) -> str:
    """Align the training text and write the dictionary; returns what `xalign align` said."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [file.parent / f"text.en-{language}.{name}" for name in ("en", language)]
    for path, lines in zip(texts, zip(*training_pairs(language), strict=True), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "xalign_jax.cli", "align", f"--source={texts[0]}", f"--target={texts[1]}"]
    done = subprocess.run([*command, f"--dictionary={file}", *options], stderr=subprocess.PIPE, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        raise RunError(f"{file}: {said[-1] if said else 'xalign align failed'}")
    return "; ".join(said[-2:])


def training_pairs(language: str) -> list[tuple[str, str]]:
    """Up to `PAIRS` paragraphs in English and another language, drawn by a hash of the paragraph's id.

    They are of the training split, as recipes divide this text. So no dictionary knows validation text.
    """
    task = HELP.format(language)
    reader = source_reader(task)
    if reader is None:
        raise UserError(f"{task}: no text in files")
    found: dict[str, dict[str, str]] = {}
    for example in reader.read("train"):
        document = example.document
        found.setdefault(document.group or "", {})[document.language] = " ".join(document.text.split())
    both = [name for name, texts in found.items() if len(texts) == 2]
    drawn = sorted(both, key=lambda name: (int(hash64(0, "dictionary", name)), name))[:PAIRS]
    return [(found[name]["en"], found[name][language]) for name in drawn]
