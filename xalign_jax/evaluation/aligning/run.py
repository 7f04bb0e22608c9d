"""Aligns two parallel files of any length, window by window, and writes what was asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from xalign_jax.alignment.scores import Calibration, calibration_error, counts, fit_calibration, interval, scores
from xalign_jax.data.text.linked import Gold, Pair, count_pairs, read_gold, read_pairs
from xalign_jax.errors import RunError, UserError, one_line
from xalign_jax.evaluation.aligning.dictionary import DictionaryCounts
from xalign_jax.evaluation.aligning.links import json_line, pharaoh
from xalign_jax.evaluation.aligning.pairs import Aligner, Alignment, windows
from xalign_jax.evaluation.encode import SECONDS_BEFORE_A_BAR

WINDOW = 2048  # sentence pairs that are held at a time
_SHOWN = 6  # sentence pairs that are kept for a picture


@dataclasses.dataclass(frozen=True)
class Texts:
    """Two parallel files, and how their lines are split into words (`pairs.split_words`)."""

    source: str
    target: str
    words: str = "spaces"

    def pairs(self) -> Iterator[Pair]:
        """The sentence pairs, from the start."""
        return read_pairs(self.source, self.target, self.words)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to write and to measure. None = not wanted.

    Attributes:
      least_link: the least probability of a link; others are dropped before anything is written or scored.
      output: file of links; Pharaoh, or JSON lines with `jsonl`.
      dictionary: TSV file, of lines with at least `least_count` links and `least_probability`.
      gold: file of gold links, which count from `gold_base` (`links.read_gold`).
      calibration: file for a calibration that is fitted on the gold links.
    """

    least_link: float = 0.0
    output: Path | None = None
    jsonl: bool = False
    dictionary: Path | None = None
    least_count: int = 2
    least_probability: float = 0.1
    gold: str | None = None
    gold_base: int | None = None
    calibration: Path | None = None


@dataclasses.dataclass
class Summary:
    """What was seen.

    Attributes:
      lines: for the user.
      shown: the first sentence pairs with links, and their gold links, for a picture.
    """

    pairs: int = 0
    empty: int = 0
    links: int = 0
    lines: list[str] = dataclasses.field(default_factory=list)
    shown: list[tuple[Pair, Alignment, Gold | None]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Judged:
    """Links beside gold links, as they come."""

    sentences: list[np.ndarray] = dataclasses.field(default_factory=list)
    probabilities: list[float] = dataclasses.field(default_factory=list)
    correct: list[bool] = dataclasses.field(default_factory=list)

    def add(self, alignment: Alignment, gold: Gold) -> None:
        """Count the links of a sentence pair. A link that is only possible counts as correct."""
        self.sentences.append(counts(alignment.links, gold.sure, gold.possible))
        there = {*gold.sure, *gold.possible}
        self.probabilities += alignment.probabilities
        self.correct += [link in there for link in alignment.links]

    @property
    def error(self) -> float:
        """The expected calibration error of the links' probabilities."""
        return calibration_error(np.array(self.probabilities), np.array(self.correct))


def align_files(make: Callable[[], Aligner], texts: Texts, wanted: Wanted, total: int) -> Summary:
    """Align every sentence pair, in order.

    Files appear only when they are complete. Without anything to write or to measure, links are printed.

    Args:
      make: the aligner. It is called after the files have been checked.
      total: the number of sentence pairs, for the progress bar.

    Raises:
      UserError: bad input, by file and line.
    """
    summary, judged = Summary(), Judged()
    aligner = make()
    dictionary = DictionaryCounts()
    printed = not any((wanted.output, wanted.dictionary, wanted.gold))
    with contextlib.ExitStack() as stack:
        links = stack.enter_context(_writer(wanted.output)) if wanted.output else sys.stdout if printed else None
        bar = stack.enter_context(tqdm(total=total, desc="align", unit="pair", delay=SECONDS_BEFORE_A_BAR, leave=False))
        for rows in windows(_with_gold(texts, wanted), WINDOW):
            pairs = [pair for pair, _ in rows]
            for (pair, gold), found in zip(rows, aligner.align(pairs), strict=True):
                alignment = found.above(wanted.least_link)
                summary.pairs += 1
                summary.empty += not (pair.source and pair.target)
                summary.links += len(alignment.links)
                if links:
                    print(json_line(pair, alignment) if wanted.jsonl else pharaoh(alignment), file=links)
                if wanted.dictionary:
                    dictionary.add(pair, alignment)
                if gold is not None:
                    judged.add(alignment, gold)
                if len(summary.shown) < _SHOWN and alignment.links:
                    summary.shown.append((pair, alignment, gold))
            bar.update(len(rows))
        if wanted.dictionary:
            summary.lines.append(_write_dictionary(dictionary, wanted))
    summary.lines += _said(summary, aligner, texts, judged, wanted)
    return summary


def check(texts: Texts, wanted: Wanted) -> int:
    """The number of sentence pairs. All text and all gold links are read before the work begins.

    Raises:
      UserError: bad input, by file and line.
    """
    total = count_pairs(texts.source, texts.target)
    if wanted.gold:
        sure = sum(len(gold.sure) for _, gold in _gold(texts, wanted))
        if not sure:
            raise UserError(f"{wanted.gold}: no sure link there; nothing can be scored")
    return total


def _gold(texts: Texts, wanted: Wanted) -> Iterator[tuple[Pair, Gold]]:
    return read_gold(str(wanted.gold), texts.pairs(), wanted.gold_base)


def _with_gold(texts: Texts, wanted: Wanted) -> Iterator[tuple[Pair, Gold | None]]:
    """Sentence pairs, with their gold links if there are any."""
    if wanted.gold:
        yield from _gold(texts, wanted)
    else:
        for pair in texts.pairs():
            yield pair, None


def _write_dictionary(found: DictionaryCounts, wanted: Wanted) -> str:
    """Write the dictionary's file; returns a line about it."""
    assert wanted.dictionary is not None
    sources: Counter[str] = Counter()
    with _writer(wanted.dictionary) as file:
        for line in found.lines(wanted.least_count, wanted.least_probability):
            sources[line.source] += 1
            print(line, file=file)
    return f"{wanted.dictionary}: {sources.total():,} translations of {len(sources):,} words"


def _said(summary: Summary, aligner: Aligner, texts: Texts, judged: Judged, wanted: Wanted) -> list[str]:
    """Lines about what was aligned, skipped and measured."""
    lines = [f"{summary.pairs:,} sentence pairs, {summary.links:,} links"]
    if summary.empty:
        lines.append(f"{summary.empty:,} of them have no word on one side, and so no link")
    if aligner.longer:
        lines.append(f"{aligner.longer:,} of them are longer than the aligner reads; words beyond that have no link")
    here = f"{aligner.way}, {Path(texts.source).name} and {Path(texts.target).name}"
    if aligner.calibration and (wanted.gold or wanted.jsonl or wanted.least_link) and not wanted.calibration:
        lines.append(f"probabilities: calibrated for {aligner.calibration.fitted or 'other links'}; this is {here}")
    if wanted.gold:
        lines += _scored(judged)
    if wanted.calibration:
        lines.append(_fit(judged, wanted.calibration, here))
    return lines


def _scored(judged: Judged) -> list[str]:
    sentences = np.stack(judged.sentences)
    found, bounds = scores(sentences.sum(0)), interval(sentences)
    names = {"precision": "precision", "recall": "recall", "f1": "F1", "aer": "AER"}
    parts = [
        f"{name} {getattr(found, field):.3f} [{bounds[0, place]:.3f}, {bounds[1, place]:.3f}]"
        for place, (field, name) in enumerate(names.items())
    ]
    error = f"; calibration error {judged.error:.3f}" if judged.correct else ""
    return [f"{len(sentences):,} sentences: {', '.join(parts)} (95 % by bootstrap over sentences){error}"]


def _fit(judged: Judged, file: Path, here: str) -> str:
    """Fit a calibration on the judged links, whose probabilities are raw, and write it; returns a line about it."""
    if len(set(judged.correct)) < 2:
        raise UserError(f"--fit_calibration: needs correct and wrong links among the {len(judged.correct)} found")
    found = fit_calibration(np.array(judged.probabilities), np.array(judged.correct))
    error = calibration_error(found(np.array(judged.probabilities)), np.array(judged.correct))
    values = {**found._replace(fitted=here)._asdict(), "error": round(error, 4), "links": len(judged.correct)}
    with _writer(file) as opened:
        print(json.dumps(values), file=opened)
    return f"{file}: calibration error {error:.3f} on the {len(judged.correct):,} links it was fitted on"


def read_calibration(file: Path) -> Calibration:
    """The calibration that `--fit_calibration` wrote. Raises UserError if the file holds none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Calibration(float(values["slope"]), float(values["intercept"]), str(values.get("fitted", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--calibration={file}: not a file that --fit_calibration wrote ({one_line(error)})") from None


@contextlib.contextmanager
def _writer(file: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name when it is complete."""
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as opened:
            yield opened
        os.replace(partial, file)
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
