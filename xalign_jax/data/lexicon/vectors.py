"""Static vectors of words, in word2vec's text form: a line "words width", then a line "word number number ..." each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xalign_jax.data.text.lines import read_lines
from xalign_jax.errors import UserError


class WordVectors(NamedTuple):
    """N words, and their vectors (N,D) float32."""

    words: list[str]
    vectors: np.ndarray


def read_width(path: str) -> int:
    """D of a file, from its first line. Raises UserError as `read_vectors` does."""
    return _sizes(path, next(read_lines(path))[1])[1]


def common_width(label: str, paths: Sequence[str]) -> int:
    """D of all files, from their first lines.

    Args:
      label: the gin binding that names the files.

    Raises:
      UserError: a file is missing or no file of vectors, or the widths differ.
    """
    widths = [read_width(path) for path in paths]
    for path, width in zip(paths, widths, strict=True):
        if width != widths[0]:
            raise UserError(f"{label}: {path} has vectors of width {width}, and {paths[0]} of width {widths[0]}")
    return widths[0]


def read_vectors(path: str, most: int | None = None) -> WordVectors:
    """Read a file, which may be compressed.

    Args:
      most: words that are read; None = all.

    Raises:
      UserError: the file is missing or damaged; the line names the place.
    """
    lines = read_lines(path)
    count, width = _sizes(path, next(lines)[1])
    words: list[str] = []
    rows: list[np.ndarray] = []
    for number, line in itertools.islice(lines, most):
        word, *values = line.rstrip(" ").rsplit(" ", width)
        try:
            row = np.array(values, np.float32)
        except ValueError:
            row = np.zeros(0, np.float32)
        if len(row) != width or not word or not np.isfinite(row).all():
            raise UserError(f"{path}:{number}: expected a word and {width} numbers with spaces between them")
        words.append(word)
        rows.append(row)
    if len(words) != (count if most is None else min(count, most)):
        raise UserError(f"{path}: {len(words)} words, but its first line says {count}; is the file whole?")
    return WordVectors(words, np.stack(rows) if rows else np.zeros((0, width), np.float32))


def _sizes(path: str, first: str) -> tuple[int, int]:
    """Words and width, from the first line of a file."""
    sizes = first.split()
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes) or not int(sizes[1]):
        raise UserError(f'{path}:1: expected "WORDS WIDTH", such as "20000 300", as word2vec and fastText write it')
    return int(sizes[0]), int(sizes[1])


def write_vectors(path: Path, words: Sequence[str], vectors: np.ndarray) -> None:
    """Write a file that `read_vectors` reads.

    Args:
      words: N, without white space.
      vectors: (N,D).
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n")
        for word, row in zip(words, np.asarray(vectors, np.float32), strict=True):
            file.write(f"{word} {' '.join(f'{value:.6g}' for value in row)}\n")
