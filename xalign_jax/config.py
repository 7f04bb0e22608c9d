"""Load gin files into dataclasses, and refuse bindings that nothing uses."""

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
    """Parse gin files and bindings afresh, and build one object of each given class.

    Args:
      files: paths, resolved against the current directory first, then against the packaged gin root.
      bindings: "Name.parameter = value" or "MACRO = value", applied last.
      build: classes whose arguments gin fills, for example `(Recipe, Runtime)`.
      base: files that are read first. The other files may replace each of their values.

    Raises:
      UserError: a missing file, an unknown name, a wrong value, a nested scope, a value that an include replaces unseen,
        or a binding that nothing uses.
    """
    gin.clear_config()
    bound: dict[Key, Binding] = {}
    named: set[str] = set()  # macros that files refer to
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
    """Refuse a binding in an included file that replaces a binding of the file, or of a file, around the include.

    To change a value of an included file, bind it after the `include`. If a file includes A and then B, B may replace
    values of the files that A includes. Files that B includes may not replace values that A itself binds.
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
    """Refuse macros that are left to the user. gin would pass `%gin.REQUIRED` on as a value, and fail much later."""
    missing = [binding for binding in bound.values() if repr(binding.value) == REQUIRED]
    if missing:
        names = ", ".join(f"--gin.{binding.name}" for binding in missing)
        raise UserError(f"bind {names}: the recipe leaves them to you; {_shown(missing[0])} describes them")


def _shown(binding: Binding) -> str:
    """The path of the file that holds a binding, or the option that gives it."""
    packaged = gin_root() / binding.files[-1] if binding.files else None
    return str(packaged) if packaged and packaged.is_file() else binding.place


def _mistake(error: Exception, bound: dict[Key, Binding], files: Sequence[str]) -> str:
    """Why gin could not build an object, in one line."""
    chain = list(_causes(error))
    if any(isinstance(cause, RecursionError) for cause in chain):
        return "gin: an object or a macro refers to itself, or nests too many others"
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
    """A hint, if the last file is a packaged part of recipes and no recipe itself; else ""."""
    recipes = gin_files.recipes_of(files[-1]) if files and not files[-1].startswith("recipes/") else []
    whole = ", ".join(recipes[:3]) + (", ..." if recipes[3:] else "")
    return f"; {files[-1]} may be a part of recipes: {whole} include it" if recipes else ""


def _refuse_unused_bindings(bound: dict[Key, Binding], named: set[str]) -> None:
    """Refuse a scoped binding that gin has not used, and a macro that no file refers to. gin accepts both in silence.

    A macro counts as used if a file binds it to a parameter, even if a later binding replaces that one.
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
    """Refuse an option that changes nothing in the recipe. In a file it is no mistake: several recipes share files."""
    for option in options:
        if option.scope or not option.parameter:
            continue  # `_refuse_unused_bindings` has looked at macros and scoped bindings
        _, selector, parameter = gin_files.bind(option)
        users = [s for (s, kind), values in gin_files.used().items() if kind == selector and parameter in values]
        own = sorted(scope for scope in users if scope and (scope, selector, parameter) in bound)
        if not users:
            raise UserError(f"--gin.{option.name}: the recipe has no {option.selector}")
        if len(own) == len(users):
            there = ", ".join(f"--gin.{scope}/{option.name}" for scope in own)
            raise UserError(f"--gin.{option.name} reaches no {option.selector}: each has its own value; bind {there}")
