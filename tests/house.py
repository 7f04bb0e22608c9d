"""`python tests/house.py [--root=OTHER] [--sentences]`: the state of a checkout, from its source text alone.

Prints the import graph of the rooms from top to bottom, then sizes, types, comments and prose. Exit status 1 if rooms or
modules import each other in a circle, or if an arrow points upwards or sideways. Imports inside functions count; imports
for annotations never run and are listed by themselves. `--root` looks at another checkout, so that one
program prints "before" and "after".
"""

from __future__ import annotations

import argparse
import ast
import collections
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imports
import prose

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("xalign_jax", "tasks", "tests", "benchmarks", "study", "website")
FILE_LINES = 400
FUNCTION_LINES = 50
PRAGMA = re.compile(r"#\s*(noqa|type:|pragma|fmt:|ruff:|!)")


class Function(NamedTuple):
    """A function with its length in lines of code."""

    place: str
    name: str
    lines: int

    def __str__(self) -> str:
        return f"{self.place} {self.name}: {self.lines} lines of code"


class Source:
    """A Python file, read once."""

    def __init__(self, path: Path, root: Path):
        self.place = str(path.relative_to(root))
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        self.code = self._code()
        self.room = imports.room_of(imports.module_of(path, root))

    def _code(self) -> set[int]:
        """The numbers of lines that hold code: neither blank, nor a comment, nor part of a docstring."""
        names = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
        skipped = {getattr(tokenize, name) for name in names}
        tokens = [token for token in self.tokens if token.type not in skipped]
        lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
                lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        return lines

    def functions(self) -> Iterator[Function]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = len(self.code & set(range(node.lineno, node.end_lineno + 1)))
                yield Function(f"{self.place}:{node.lineno}", node.name, lines)

    def comments(self) -> tuple[int, int]:
        """How many comments stand on lines of their own, and how many after code. Orders to tools do not count."""
        found = [token for token in self.tokens if token.type == tokenize.COMMENT and not PRAGMA.match(token.string)]
        after = sum(token.start[0] in self.code for token in found)
        return len(found) - after, after

    def aliases(self) -> set[str]:
        """Names that this file gives to `Any`, such as `Tree = Any`."""
        return {
            target.id
            for node in self.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.value) == "Any"
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def annotations(self) -> Iterator[set[str]]:
        """For each annotated parameter, the types that it allows: `Any | None` gives "Any" and "None"."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = node.args
                every = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg]
                for parameter in every:
                    if parameter is not None and parameter.annotation is not None:
                        yield {part.strip() for part in ast.unparse(parameter.annotation).strip("'").split("|")}

    def guesses(self) -> Iterator[str]:
        """`hasattr`, and `getattr` with a default: places that do not know what they get."""
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        for call in sorted(calls, key=lambda call: call.lineno):
            if call.func.id == "hasattr" or (call.func.id == "getattr" and len(call.args) == 3):
                yield f"{self.place}:{call.lineno} {ast.unparse(call)}"


def sources(root: Path, *folders: str) -> list[Source]:
    """The Python files of some folders."""
    return [Source(path, root) for path in imports.python_files(root, *folders)]


def prose_files(root: Path) -> list[Path]:
    """The files whose sentences count."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md")), *imports.python_files(root, "xalign_jax")]


def print_graph(root: Path) -> bool:
    """Print who imports whom; returns whether there are neither circles nor wrong arrows."""
    found = imports.read(root)
    rooms = imports.arrows(found)
    print("ROOMS, each above all that it imports; (in brackets: inside functions or for annotations only)")
    for layer in imports.layers(rooms):
        print()
        for room in layer:
            targets = rooms.get(room, {})
            shown = [name if _at_once(targets[name]) else f"({name})" for name in sorted(targets)]
            print(f"  {room:<16} -> {' '.join(shown) or 'nothing'}")
    print()
    running = [one for one in found if not one.types]
    circles = {"rooms": imports.room_circles(running), "modules": imports.module_circles(running)}
    for kind, groups in circles.items():
        print(f"Circles of {kind}: {len(groups) or 'none'}")
        for members, edges in groups:
            _print_places(f"  {' <-> '.join(members)}", edges)
    wrong = imports.not_drawn(running)
    upward = [one for one in wrong if imports.is_upward(one)]
    _print_places(f"Arrows upwards: {len(upward) or 'none'}", upward)
    sideways = [one for one in wrong if one not in upward]
    _print_places(f"Arrows sideways, between rooms that DESIGN does not order: {len(sideways) or 'none'}", sideways)
    skips = [one for one in found if imports.skips(one)]
    _print_places(f"Arrows downwards past a room between, which are allowed: {len(skips) or 'none'}", skips)
    _print_annotations(found)
    return not any(circles.values()) and not wrong


def _print_annotations(found: list[imports.Import]) -> None:
    """Print imports under `if TYPE_CHECKING:` that would be wrong if they ran. They do not count as wrong."""
    inside = [edge for _, edges in imports.module_circles(found) for edge in edges if edge.types]
    outside = [one for one in imports.not_drawn(found) if one.types]
    both = list(dict.fromkeys([*inside, *outside]))
    _print_places(f"For annotations only, in a circle or not downwards: {len(both) or 'none'}", both)


def _at_once(edges: list[imports.Import]) -> bool:
    return any(not edge.kind for edge in edges)


def _print_places(title: str, places: list) -> None:
    print(title)
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    for place in places:
        print(f"{indent}{place}")


def print_sizes(root: Path) -> None:
    """Print files, lines of code and long functions by folder."""
    print("\nSIZE (lines of code: no blank lines, comments or docstrings)")
    long: list[Function] = []
    for folder in FOLDERS:
        files = sources(root, folder)
        functions = [function for file in files for function in file.functions()]
        longest = max((len(file.code) for file in files), default=0)
        long += [function for function in functions if function.lines > FUNCTION_LINES]
        print(
            f"  {folder:<12} {len(files):4} files, {sum(len(file.code) for file in files):6} lines, longest file {longest},"
            f" {len(functions)} functions, longest {max((f.lines for f in functions), default=0)}"
        )
    _print_places(f"Functions over {FUNCTION_LINES} lines of code: {len(long) or 'none'}", long)


def print_types(root: Path) -> None:
    """Print by room how many parameters are `Any` and how many comments there are; then the guesses."""
    files = sources(root, "xalign_jax")
    aliases = set().union(*(file.aliases() for file in files))
    any_of: dict[str, list[tuple[bool, bool]]] = collections.defaultdict(list)
    comments: dict[str, list[tuple[int, int, int]]] = collections.defaultdict(list)
    for file in files:
        any_of[file.room] += [("Any" in types, bool(types & aliases)) for types in file.annotations()]
        comments[file.room].append((*file.comments(), len(file.code)))
    print(f"\nTYPES AND COMMENTS (named Any: parameters of a type that stands for Any: {', '.join(sorted(aliases))})")
    print(f"  {'room':<16} {'parameters':>10} {'Any':>5} {'share':>7} {'named Any':>10} {'comments per 100 lines':>25}")
    rows = [(room, any_of[room], comments[room]) for room in sorted(comments)]
    total = ("total", [one for row in rows for one in row[1]], [one for row in rows for one in row[2]])
    for room, parameters, counts in (*rows, total):
        plain, named = (sum(column) for column in zip(*parameters, strict=True)) if parameters else (0, 0)
        own, after, code = (sum(column) for column in zip(*counts, strict=True))
        share = f"{plain / max(len(parameters), 1):.1%}"
        rate = f"{100 * own / max(code, 1):.1f} + {100 * after / max(code, 1):.1f} after code"
        print(f"  {room:<16} {len(parameters):10} {plain:5} {share:>7} {named:10} {rate:>25}")
    guesses = [place for file in files for place in file.guesses()]
    _print_places(f"hasattr, and getattr with a default: {len(guesses) or 'none'}", guesses)


def print_prose(root: Path, listed: bool) -> None:
    """Print by file how many sentences are long or begin with "Of", and the sentences themselves if asked."""
    print(f"\nPROSE (sentences: all, over {prose.LONGEST} words, beginning with Of)")
    sums = [0, 0, 0]
    for path in prose_files(root):
        found = prose.sentences(path)
        hard = [sentence for sentence in found if sentence.is_long or sentence.begins_with_of]
        counts = (len(found), sum(s.is_long for s in found), sum(s.begins_with_of for s in found))
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        place = path.relative_to(root)
        if hard:
            print(f"  {place!s:<48} {counts[0]:5} {counts[1]:4} {counts[2]:4}")
        for sentence in hard if listed else ():
            print(f"    {place}:{sentence.line} ({sentence.words} words) {sentence.text}")
    print(f"  {'total':<48} {sums[0]:5} {sums[1]:4} {sums[2]:4}")


def main() -> None:
    """Print everything about one checkout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at; default: this one")
    parser.add_argument("--sentences", action="store_true", help="also print each long sentence with its place")
    options = parser.parse_args()
    root = options.root.resolve()
    sound = print_graph(root)
    print_sizes(root)
    print_types(root)
    print_prose(root, options.sentences)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
