"""The source "docs_en": English running text from the docstrings of installed packages, which are not imported."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from xalign_jax.data.text.files import Document, normal_text
from xalign_jax.data.text.stamps import hash_file, stamp_file, stamp_package, stamp_python
from xalign_jax.errors import UserError

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax")

# Markup of reStructuredText whose text stays: roles, links, literals and emphasis. Footnotes are removed.
_ROLE = re.compile(r":[\w:+.-]+:`~?\.?([^`<]*?)\s*(?:<[^`]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`]*>`_{0,2}")
_LITERAL = re.compile(r"`{1,2}([^`]*)`{1,2}_{0,2}")
_EMPHASIS = re.compile(r"\*{1,2}([^*\s][^*]*)\*{1,2}")
_FOOTNOTE = re.compile(r"\s*\[[\w#*]+\]_")
# Paragraphs that are no running prose: fields, directives, lists, numbered items, citations, comments.
_FIELD = re.compile(r"^\s*(:\w|\.\. |\* |- |\d+[.)] |\[\w+\] |@|#)")
# The line under a section's title.
_UNDERLINE = re.compile(r"[-=~^*]{3,}")
# The first line of an argument's description in Google style: a name, perhaps a type, a colon.
_HANGING = re.compile(r"^\*{0,2}`{0,2}\w+`{0,2}(?: ?\([^)]*\))?: +(?=\S)")
# A plain word, with punctuation around it.
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*[.,;:!?)\"]*$|[(\"][A-Za-z'-]+[.,;:!?)\"]*$")


@dataclasses.dataclass(frozen=True)
class Documentation:
    """English prose from the docstrings of numpy, scipy, jax, flax and optax.

    The prose of each docstring is one document. Repeated paragraphs are dropped.
    """

    packages: tuple[str, ...] = PACKAGES

    @property
    def languages(self) -> frozenset[str]:
        return frozenset({"en"})

    def fingerprint(self) -> str:
        reader = hash_file(__file__)
        versions = [stamp_python(), *(stamp_package(package) for package in self.packages)]
        return hashlib.sha256(json.dumps(["documentation", versions, reader]).encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        return [stamp_python(), *(stamp_package(package) for package in self.packages), stamp_file(__file__)]

    def documents(self) -> Iterator[Document]:
        return iter(_documents(self.packages))


@functools.cache
def _documents(packages: tuple[str, ...]) -> tuple[Document, ...]:
    seen: set[str] = set()  # normalised paragraphs
    documents = []
    for docstring in (text for package in packages for file in _modules(package) for text in _docstrings(file)):
        # Packages repeat paragraphs, for example about common arguments: each counts once.
        paragraphs = {normal_text(paragraph): paragraph for paragraph in prose(docstring)}
        fresh = [paragraph for key, paragraph in paragraphs.items() if key not in seen]
        seen.update(paragraphs)
        if fresh:
            documents.append(Document("\n".join(fresh), "en"))
    return tuple(documents)


def _modules(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"docs_en: the package {package} is not installed; pip install {package}")
    root = Path(spec.submodule_search_locations[0])
    # Tests repeat the same sentences, so they are left out.
    files = (file.relative_to(root) for file in root.rglob("*.py"))
    return [root / file for file in sorted(files, key=str) if not {"tests", "test", "testing"} & set(file.parts)]


def _docstrings(file: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, and the texts that it passes to `add_newdoc`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(file.read_bytes())
    # Depth first, in the order of the file: only bodies can hold definitions.
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _newdoc(node.value)
        waiting.extend(reversed(getattr(node, "body", [])))


def _newdoc(call: ast.Call) -> Iterator[str]:
    """The texts of `add_newdoc(place, object, text)`, by which numpy documents compiled functions."""
    if getattr(call.func, "id", "") == "add_newdoc":
        strings = (node.value for node in ast.walk(call) if isinstance(node, ast.Constant))
        yield from (inspect.cleandoc(text) for text in strings if isinstance(text, str) and "\n" in text)


def prose(docstring: str) -> list[str]:
    """The paragraphs of running prose in a docstring, without markup, each on one line."""
    paragraphs = (_clean(text) for text in _paragraphs(docstring) if not _FIELD.match(text))
    return [text for text in paragraphs if _is_prose(text)]


def _paragraphs(docstring: str) -> list[str]:
    """Lines of one indent between blank lines, joined. Literal blocks and section titles are left out.

    A hanging paragraph `name: text` whose further lines are indented more (Google style) loses its name.
    """
    paragraphs: list[str] = []
    block: list[str] = []
    indent, literal = 0, None
    # `block` collects the lines of a paragraph at `indent`; `literal` is the indent of the line before a literal block.
    for line in [*docstring.expandtabs().splitlines(), ""]:
        text, depth = line.strip(), len(line) - len(line.lstrip())
        # A literal block lasts as long as lines are deeper than the line before it.
        if literal is not None and (not text or depth > literal):
            continue
        literal = None
        if text and _UNDERLINE.fullmatch(text):
            block = []
            continue
        # A change of indent ends a paragraph, except after the first line of a hanging one.
        hangs = len(block) == 1 and depth > indent and _HANGING.match(block[0]) is not None
        if block and (not text or (depth != indent and not hangs)):
            paragraphs.append(" ".join(block))
            block = []
        if text:
            indent = depth
            block = [_HANGING.sub("", block[0]), text] if hangs else [*block, text]
            # Here a literal block, a directive or an example begins: what is collected ends.
            if text.endswith("::") or text.startswith((".. ", ">>>")):
                paragraphs.append(" ".join(block))
                block, literal = [], depth
    return paragraphs


def _clean(text: str) -> str:
    """A paragraph without reStructuredText markup; "" if it holds mathematics."""
    if ":math:" in text or "\\" in text or "$" in text:
        return ""
    text = _FOOTNOTE.sub("", text)
    for markup in (_ROLE, _LINK, _LITERAL, _EMPHASIS):
        text = markup.sub(r"\1", text)
    return " ".join(text.removesuffix("::").split())


def _is_prose(text: str) -> bool:
    """True for six words or more that begin and end as a sentence, if six of seven are plain words."""
    tokens = text.split()
    if len(tokens) < 6 or text[-1] not in ".?!" or not text[0].isalpha() or not text[0].isupper():
        return False
    # Marks of code, tables, links and placeholders.
    if any(mark in text for mark in (">>>", "---", "===", "|", "http", "...", "@", "{")):
        return False
    return sum(bool(_WORD.match(token)) for token in tokens) >= 6 / 7 * len(tokens)
