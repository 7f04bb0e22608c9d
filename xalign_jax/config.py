"""Gin files in, dataclasses out, and back: parsing, checking for unused bindings, writing `config.gin`."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin

from xalign_jax import gin_files
from xalign_jax.errors import UserError
from xalign_jax.gin_files import Binding, gin_root, near, shorten

MACRO, REQUIRED = "gin.macro", "%gin.REQUIRED"
Key = tuple[str, str, str]  # scope, whole selector, parameter


def load(files: Sequence[str], bindings: Sequence[str], build: Sequence[type], base: Sequence[str] = ()) -> list[Any]:
    """Parse gin files and bindings afresh and build the given configurables, one each.

    Args:
      files: paths, resolved against the current directory first, then against the packaged gin root.
      bindings: "Name.parameter = value" or "MACRO = value", applied last.
      build: classes to call with what gin knows, for example `(Recipe, Runtime)`.
      base: files read first, whose every value the others may replace.

    Raises:
      UserError: a missing file, an unknown name, a wrong value, a nested scope, a value that an include replaces unseen,
        or a binding nothing used.
    """
    gin.clear_config()
    bound: dict[Key, Binding] = {}
    named: set[str] = set()  # macros that files make use of
    for binding in itertools.chain.from_iterable(map(gin_files.read, base)):
        bound[gin_files.bind(binding)] = dataclasses.replace(binding, files=())
    for binding in itertools.chain.from_iterable(map(gin_files.read, files)):
        key = gin_files.bind(binding)
        _refuse_unseen(bound.get(key, binding), binding)
        named.update(gin_files.macros(binding.value))
        bound[key] = binding
    options = [gin_files.option(text) for text in bindings]
    _refuse_unknown_macros(options, bound)
    bound |= {gin_files.bind(option): option for option in options}
    _refuse_nested_scopes(bound)
    _refuse_missing_values(bound)
    try:
        built = [cls() for cls in build]
    except Exception as error:
        raise UserError(_mistake(error, bound, files)) from error
    _refuse_unused_bindings(bound, named)
    _refuse_idle_options(options, bound)
    return built


def _refuse_unseen(old: Binding, new: Binding) -> None:
    """Refuse a value that an include replaces although a nearer file has bound it.

    A file binds after its includes what it wants otherwise than they. Where a file includes two others, the second may
    replace what the first includes; what the second itself includes may not replace what the first binds.
    """
    if not old.files or old.files == new.files or repr(old.value) == repr(new.value):
        return
    nearer = len(new.files) < len(old.files)
    if nearer or (len(new.files) == len(old.files) and repr(new.value) != REQUIRED):
        return
    shared = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old.files, new.files, strict=False))
    )
    first = f"include '{new.files[shared]}'" if shared else f"give --gin_file={new.files[0]}"
    raise UserError(f"{new.place} would replace {new.name} of {old.place}: {first} before that")


def _refuse_unknown_macros(options: Sequence[Binding], bound: dict[Key, Binding]) -> None:
    known = sorted(scope for scope, selector, _ in bound if selector == MACRO)
    for option in options:
        if not option.parameter and option.name not in known:
            raise UserError(f"--gin.{shorten(option.name)}: no gin file defines this macro{near(option.name, known)}")


def _refuse_nested_scopes(bound: dict[Key, Binding]) -> None:
    for (scope, _, _), binding in bound.items():
        if "/" in scope:
            raise UserError(
                f"{binding.place}: nested scope {shorten(binding.name)}; give the inner object a scope of its own"
            )


def _refuse_missing_values(bound: dict[Key, Binding]) -> None:
    """gin hands the value of `%gin.REQUIRED` on through a macro; what it is used for would fail much later."""
    missing = [binding for binding in bound.values() if repr(binding.value) == REQUIRED]
    if missing:
        names = ", ".join(f"--gin.{binding.name}" for binding in missing)
        raise UserError(f"bind {names}: the recipe leaves that to you; {_shown(missing[0])} says what goes there")


def _shown(binding: Binding) -> str:
    """The whole path of a binding's file."""
    packaged = gin_root() / binding.files[-1] if binding.files else None
    return str(packaged) if packaged and packaged.is_file() else binding.place


def _mistake(error: Exception, bound: dict[Key, Binding], files: Sequence[str]) -> str:
    """Why gin could not build what it was told to: one line."""
    chain = list(_causes(error))
    if any(isinstance(cause, RecursionError) for cause in chain):
        return "gin: an object or a macro is made of itself, or of too many others"
    refused = next((cause for cause in chain if isinstance(cause, UserError)), None)
    text, *calls = re.split(r"\n\s*In call to configurable ", str(refused or error))
    if refused:
        return " ".join(text.split())
    inner = re.match(r"'(?P<name>\w+)' .*?(?: in scope '(?P<scope>\S+)')?$", calls[0].strip()) if calls else None
    where = "/".join(filter(None, (inner["scope"], inner["name"]))) if inner else "gin"
    if where.endswith("/macro"):
        macro = where.split("/")[-2]
        place = next((b.place for b in bound.values() if macro in gin_files.macros(b.value)), "gin")
        return f"{place}: %{macro} has no value; bind {macro} = VALUE{_part(files)}"
    lacking = re.match(r"Required bindings for `(.*)` not provided in config: \[(.*)\]", text)
    if lacking:
        names = ", ".join(f"{lacking[1]}.{name}" for name in re.findall(r"'(\w+)'", lacking[2]))
        return f"{', '.join(files)}: no value for {names}{_part(files)}"
    return f"{where}: {shorten(text)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _part(files: Sequence[str]) -> str:
    """A hint if the last file is a packaged part of recipes."""
    recipes = gin_files.recipes_of(files[-1]) if files else []
    whole = ", ".join(recipes[:3]) + (", ..." if recipes[3:] else "")
    return f"; {files[-1]} may be a part, {whole} include it" if recipes else ""


def _refuse_unused_bindings(bound: dict[Key, Binding], named: set[str]) -> None:
    """gin accepts a misspelt scope in silence; here every scoped binding must have been used, and every macro named.

    A macro that a file names for what another file or the command line binds otherwise is no mistake.
    """
    used = {
        (part, kind, name)
        for (scope, kind), values in gin_files.used().items()
        for part in scope.split("/")
        for name in values
    }
    scopes = sorted({scope for scope, _, _ in used if scope})
    for key, binding in bound.items():
        scope, selector, _ = key
        if not scope or key in used or (selector == MACRO and scope in named):
            continue
        what = shorten(f"macro {scope}" if selector == MACRO else binding.name)
        raise UserError(f"{binding.place}: nothing uses {what}{near(scope, scopes)}")


def _refuse_idle_options(options: Sequence[Binding], bound: dict[Key, Binding]) -> None:
    """Files may bind what some recipes lack; a value given to one run that reaches nothing in it is a mistake."""
    for option in options:
        if option.scope or not option.parameter:
            continue  # macros and scoped bindings have been looked at
        _, selector, parameter = gin_files.bind(option)
        users = [s for (s, kind), values in gin_files.used().items() if kind == selector and parameter in values]
        own = sorted(scope for scope in users if scope and (scope, selector, parameter) in bound)
        if not users:
            raise UserError(f"--gin.{option.name}: the recipe has no {option.selector}")
        if len(own) == len(users):
            there = ", ".join(f"--gin.{scope}/{option.name}" for scope in own)
            raise UserError(
                f"--gin.{option.name} reaches no {option.selector}, each has a value of its own; bind {there}"
            )


def dump(recipe: Any, runtime: Any) -> str:
    """`config.gin`: every resolved value, no macros; `load` rebuilds equal objects from it."""
    writer = _Writer()
    writer.reference(recipe, "")
    writer.reference(runtime, "")
    imports = sorted(m for m in writer.modules if not m.startswith("xalign_jax."))
    return "\n".join([*(f"import {module}" for module in imports), *writer.lines]) + "\n"


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.modules: set[str] = set()
        self.written: dict[tuple[str, str], Any] = {}

    def reference(self, config: Any, scope: str) -> str:
        """Write the bindings of `config` once and return the gin reference to it."""
        kind = type(config).__name__
        scope = getattr(config, "name", scope)
        free, number = scope, 2
        while self.written.get((free, kind), config) != config:
            free, number = f"{scope or 'recipe'}_{number}", number + 1
        label = f"{free}/{kind}" if free else kind
        if (free, kind) not in self.written:
            self.written[(free, kind)] = config
            self.modules.add(type(config).__module__)
            values = [(f.name, self.value(getattr(config, f.name), free)) for f in dataclasses.fields(config)]
            self.lines += ["", *(f"{label}.{name} = {value}" for name, value in values)]
        return f"@{label}()"

    def value(self, value: Any, scope: str) -> str:
        if dataclasses.is_dataclass(value):
            return self.reference(value, scope)
        if isinstance(value, tuple):
            return "(" + "".join(f"{self.value(item, scope)}, " for item in value) + ")"
        return repr(value)
