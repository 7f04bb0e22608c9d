"""Read gin files and `--gin.NAME=VALUE` options: each binding with its place, each mistake as one line that names it.

A file may lie in an object store (gs://bucket/mine.gin), and then the whole URL names it, in an `include` too. Other
included files are looked for in the current directory, then among the packaged files. Packaged files include packaged
files only. Otherwise a user's own `parts/tiny.gin` would change packaged recipes. A file never includes itself: if a
user's `recipes/x.gin` includes `recipes/x.gin`, it gets the packaged file of that name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import io
import os
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config_parser

from xalign_jax.errors import UserError, one_line
from xalign_jax.remote_files import is_url, open_bytes

SHOWN = 100  # characters of a value or a line that a message quotes
DEEPEST = 50  # files, each included by the one before
LITERALS = {"true": "True", "false": "False", "none": "None", "null": "None", "nil": "None"}


def gin_root() -> Path:
    """The folder of packaged gin files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(root for root in (package / "gin", package.parent / "gin") if root.is_dir())


@dataclasses.dataclass(frozen=True)
class Binding:
    """One statement `scope/Name.parameter = value`.

    Attributes:
      parameter: "" for a macro, `NAME = value`.
      place: where the statement stands, "file:line" or the option.
      files: how the file was reached: the given file, the file that it includes, and so on; () for an option.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    place: str
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The left side of the statement."""
        selector = f"{self.selector}.{self.parameter}" if self.parameter else self.selector
        return f"{self.scope}/{selector}" if self.scope else selector

    @property
    def key(self) -> tuple[str, str, str]:
        """(scope, selector, parameter) as gin binds it."""
        if self.parameter:
            return self.scope, self.selector, self.parameter
        return self.name, "gin.macro", "value"


def read(file: str) -> Iterator[Binding]:
    """The bindings of a gin file and of the files that it includes, in order. `import` statements run on the way.

    Raises:
      UserError: a file is missing, is not text or includes itself, or gin cannot read a statement.
    """
    yield from _read(_find(file, f"--gin_file={file}", ()), file, ())


def import_module(name: str, place: str) -> None:
    """Import a Python module, which registers what it defines.

    Raises:
      UserError: beginning with `place`, if the module raises anything.
    """
    try:
        importlib.import_module(name)
    except Exception as error:
        raise UserError(f"{place} failed: {shorten(str(error))}") from error


def option(text: str) -> Binding:
    """The binding of `--gin.NAME=VALUE`, given NAME=VALUE.

    Raises:
      UserError: not one binding.
    """
    place = f"--gin.{shorten(text)}"
    statements = list(_statements(text, place, file=False))
    if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
        raise UserError(f"{place}: expected one binding, --gin.NAME=VALUE")
    return _binding(statements[0], place, ())


def bind(binding: Binding) -> tuple[str, str, str]:
    """Hand a binding to gin; returns (scope, whole selector, parameter).

    Raises:
      UserError: gin knows no such name.
    """
    try:
        key = gin.config.ParsedBindingKey.parse(binding.key)
        gin.bind_parameter(key, binding.value)
    except Exception as error:
        raise UserError(f"{binding.place}: {_unknown(str(error))}") from error
    return key.scope, key.complete_selector, key.arg_name


# Two private tables of gin are read here and nowhere else, because no public function lists them. `setup.py` pins gin for
# that reason. If gin renames `_REGISTRY`, messages suggest no near names and `xalign list` ends with an AttributeError. If
# gin renames `_OPERATIVE_CONFIG`, every `config.load` does: misspelt scopes would otherwise pass unseen.


def registered() -> dict[str, Callable]:
    """The classes and functions that gin files may name, by their whole selector, such as "xalign_jax.recipe.Stage"."""
    return {selector: found.wrapped for selector, found in gin.config._REGISTRY.items()}


def used() -> dict[tuple[str, str], dict[str, Any]]:
    """(scope, whole selector) -> the parameters that gin has given a value since it was cleared."""
    return gin.config._OPERATIVE_CONFIG


def macros(value: Any) -> Iterator[str]:
    """The macros that a bound value names."""
    if isinstance(value, gin.config.ConfigurableReference):
        if str(value).startswith("%"):
            yield str(value)[1:]
    elif isinstance(value, dict):
        yield from macros([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from macros(item)


def shorten(text: str) -> str:
    """The text on one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def near(name: str, known: Sequence[str]) -> str:
    """ "; near: ..." with the known names that look like `name`, or ""."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; near: {', '.join(close)}" if close else ""


def recipes_of(part: str) -> list[str]:
    """The packaged files that include this part, directly or not, and that no other file includes."""
    users: dict[str, list[str]] = {}
    for path in sorted(gin_root().rglob("*.gin")):
        for included in re.findall(r"^include '(.+)'", path.read_text(encoding="utf-8"), re.MULTILINE):
            users.setdefault(included, []).append(str(path.relative_to(gin_root())))

    def whole(file: str) -> set[str]:
        return set().union(*map(whole, users[file])) if file in users else {file}

    return sorted(whole(part) - {part})


def _find(file: str, place: str, inside: tuple[str, ...]) -> str:
    """The absolute path or the URL of a file that `--gin_file` or the innermost of the files `inside`, which are being
    read, names."""
    if is_url(file):
        found = [file]  # whether it is there shows when it is read
    else:
        packaged = gin_root() / file
        own = inside and Path(inside[-1]).is_relative_to(gin_root())
        paths = [path for path in ([packaged] if own else [Path(file), packaged]) if os.path.isfile(path)]
        found = [str(path.resolve()) for path in paths]
    if not found:
        stems = {path.stem: str(path.relative_to(gin_root())) for path in sorted(gin_root().rglob("*.gin"))}
        close = [stems[stem] for stem in difflib.get_close_matches(Path(file).stem, list(stems), n=3, cutoff=0.75)]
        raise UserError(
            f"{place}: no such file here or in {gin_root()}" + (f"; near: {', '.join(close)}" if close else "")
        )
    fresh = [path for path in found if path not in inside]
    if not fresh:
        chain = [path.rpartition("/")[2] for path in inside[inside.index(found[0]) :]]
        shown = chain if len(chain) <= 8 else [*chain[:4], "...", *chain[-3:]]
        raise UserError(f"{place}: a file cannot include itself: {' includes '.join([*shown, chain[0]])}")
    return fresh[0]


def _read(path: str, name: str, outer: tuple[tuple[str, str], ...]) -> Iterator[Binding]:
    inside = (*outer, (path, name))
    if len(inside) > DEEPEST:
        raise UserError(f"{name}: includes are nested more than {DEEPEST} files deep")
    files = tuple(name for _, name in inside)
    for statement in _statements(_text(path, name), name, file=True):
        place = f"{name}:{statement.location.line_num}"
        match statement:
            case config_parser.BindingStatement():
                yield _binding(statement, place, files)
            case config_parser.IncludeStatement():
                included = statement.filename
                found = _find(included, f"{place}: include '{shorten(included)}'", tuple(path for path, _ in inside))
                yield from _read(found, included, inside)
            case config_parser.ImportStatement():
                import_module(statement.module, f"{place}: {shorten(statement.format())}")


def _text(path: str, name: str) -> str:
    try:
        with open_bytes(path) as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _binding(statement: config_parser.BindingStatement, place: str, files: tuple[str, ...]) -> Binding:
    return Binding(statement.scope, statement.selector, statement.arg_name, statement.value, place, files)


def _statements(text: str, place: str, file: bool) -> Iterator[Any]:
    """Parse a text into gin's statements.

    Raises:
      UserError: gin cannot read a statement. If the text is a file, the message names the line.
    """
    parser, start = None, 1
    try:
        parser = config_parser.ConfigParser(io.StringIO(text), gin.config.ParserDelegate())
        while True:
            start = parser.current_token.start[0]
            statement = parser.parse_statement()
            if statement is None:
                return
            yield statement
    except Exception as error:
        lines = [*text.split("\n"), ""]
        last = getattr(error, "lineno", None) or (parser.current_token.start[0] if parser else start)
        while start < last and not lines[start - 1].split("#")[0].strip():
            start += 1  # blank lines and comments before the statement
        what = _mistake(error, "\n".join(lines[start - 1 : last]), file)
        if file:
            line = start if isinstance(error, tokenize.TokenError) else last
            opened = f"; is a bracket of line {start} left open?" if line > start and "=" in lines[start - 1] else ""
            place, what = f"{place}:{line}", f"{what}{opened} (it reads: {shorten(lines[line - 1])})"
        raise UserError(f"{place}: {what}") from error


def _mistake(error: Exception, source: str, file: bool) -> str:
    """What is wrong with a statement that gin cannot read."""
    quoted = "a string needs quotes, " + ('NAME = "text"' if file else """--gin.NAME='"text"'""")
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    token = re.search(r"Failed to parse token '(.*)'", text, re.DOTALL)
    if isinstance(error, tokenize.TokenError):
        return "a bracket or a quote is not closed"
    if isinstance(error, IndentationError):
        return "indent all lines of a block alike"
    if re.search("[“”„‘’«»]", source):
        return "write quotes as \" or '"
    if token and token[1].lower() in LITERALS:
        return f"write {LITERALS[token[1].lower()]}, not {token[1]}"
    if token:
        return f"{shorten(token[1])} is not a value" + (f"; {quoted}" if token[1][:1].isalpha() else "")
    if re.match(r"\s*[\w./]+\s*:\s*\S", source):
        return "expected NAME = VALUE, not NAME: VALUE"
    if re.search(r"=\s*$", source):
        return "no value after ="
    if "Unable to parse value" in text:
        return f"gin cannot read this value; {quoted}"
    if "Expected newline" in text:
        return f"more than one value; {quoted}"
    if "Unexpected token" in text or "Couldn't parse statement" in text:
        return "expected NAME = VALUE, include 'FILE' or import MODULE"
    if isinstance(error, RecursionError):
        return "too many brackets inside each other"
    return _unknown(text)


def _unknown(text: str) -> str:
    """gin's message about a name that it does not know, and names that look like it."""
    text = text.split("\n")[0] or "gin cannot read this"
    known = [selector.rpartition(".")[2] for selector in registered()]
    name = re.search(r"No configurable matching (?:reference )?'@?(?:.*/)?([\w.]+?)(?:\(\))?'", text)
    return shorten(text) + (near(name[1].split(".")[0], known) if name else "")
