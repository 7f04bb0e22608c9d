"""Sentences that are hard to read, in Markdown, docstrings and comments: those that are long or begin with "Of"."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONGEST = 30  # words of a sentence

# (line, text) of consecutive lines that belong together.
Paragraph = list[tuple[int, str]]


class Sentence(NamedTuple):
    """A sentence and the line on which it begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """Signs alone are no words; a piece of code is one."""
        return sum(any(map(str.isalnum, word)) for word in self.text.split())

    @property
    def is_long(self) -> bool:
        """Whether the sentence should be cut."""
        return self.words > LONGEST

    @property
    def begins_with_of(self) -> bool:
        """Whether the sentence names its subject late."""
        return re.match(r"\W*Of\b", self.text) is not None


def sentences(path: Path) -> list[Sentence]:
    """The sentences of a Markdown file, or of the docstrings and comments of a Python file."""
    text = path.read_text(encoding="utf-8")
    paragraphs = _markdown(text) if path.suffix == ".md" else [*_docstrings(text), *_comments(text)]
    return sorted(found for paragraph in paragraphs for found in _split(paragraph))


def _markdown(text: str) -> Iterator[Paragraph]:
    """Paragraphs and list items, without headings, tables, quoted code and HTML."""
    paragraph: Paragraph = []
    fenced = False
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        fence = line.lstrip().startswith(("```", "~~~"))
        fenced ^= fence
        item = re.match(r"\s*(?:[-*+]|\d+\.)\s+", line)
        ends = fence or fenced or not line.strip() or re.match(r"\s*[#|<>]|\s*\S*\|?[-:| ]+$", line)
        if (ends or item) and paragraph:
            yield paragraph
            paragraph = []
        if not ends:
            paragraph.append((number, line[item.end() :] if item else line))


def _docstrings(text: str) -> Iterator[Paragraph]:
    """Paragraphs and entries of `Args:` and its sisters. Indented examples are left out."""
    for node in ast.walk(ast.parse(text)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if not isinstance(node, kinds) or ast.get_docstring(node) is None:
            continue
        written = node.body[0].value
        lines = [(written.lineno + i, line) for i, line in enumerate(written.value.split("\n"))]
        base = min((_indent(line) for _, line in lines[1:] if line.strip()), default=0)
        paragraph: Paragraph = []
        for number, line in [*lines, (0, "")]:
            entry = re.match(r"\s*(?:\*{0,2}\w+(?:, \w+)*|[-*]|\d+\.):?\s*$|\s*[\w, *]+: |\s*[-*] ", line)
            if (not line.strip() or entry) and paragraph:
                if _indent(paragraph[0][1]) < base + 4:
                    yield paragraph
                paragraph = []
            if line.strip() and not line.strip().startswith((">>>", "|")):
                paragraph.append((number, line))


def _comments(text: str) -> Iterator[Paragraph]:
    """Comments on consecutive lines of their own, and each comment at the end of a line of code."""
    paragraph: Paragraph = []
    column = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        number, start = token.start
        alone = token.line[:start].strip() == ""
        if paragraph and not (alone and start == column and number == paragraph[-1][0] + 1):
            yield paragraph
            paragraph = []
        column = start if alone else -1
        paragraph.append((number, token.string.lstrip("#")))
    if paragraph:
        yield paragraph


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _one_word(code: re.Match) -> str:
    """A piece of code counts as one word, on the line where it begins."""
    return re.sub(r"\s", "␣", code[0]) + "\n" * code[0].count("\n")


def _split(paragraph: Paragraph) -> Iterator[Sentence]:
    """Sentences end at a full stop before a capital letter, or with their paragraph."""
    text = "\n".join(line for _, line in paragraph)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)  # a link is its text
    text = re.sub(r"`+[^`]*`+", _one_word, text)
    text = re.sub(r"\w+://\S+", "URL", text)
    words = [(paragraph[i][0], word) for i, line in enumerate(text.split("\n")) for word in line.split()]
    start = 0
    for i, (_, word) in enumerate(words, start=1):
        last = i == len(words)
        stops = re.search(r"[.!?][\"')*_\]]*$", word) and not re.search(r"\b(e\.g|i\.e|cf|vs|etc|al)\.$", word)
        if last or (stops and re.match(r"[\"'(*_\[`]*[A-Z0-9`]", words[i][1])):
            yield Sentence(words[start][0], " ".join(word for _, word in words[start:i]))
            start = i
