"""Gin files in, dataclasses out, and back: parsing, checking for unused bindings, writing `config.gin`."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

from xalign_jax.errors import UserError


def gin_root() -> Path:
    """The folder of packaged gin files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    return next(root for root in (package / "gin", package.parent / "gin") if root.is_dir())


def load(files: Sequence[str], bindings: Sequence[str], build: Sequence[type]) -> list[Any]:
    """Parse gin files and bindings afresh and build the given configurables, one each.

    Args:
      files: paths, resolved against the current directory first, then against the packaged gin root.
      bindings: "Name.parameter = value" or "MACRO = value", applied last.
      build: classes to call with what gin knows, for example `(Recipe, Runtime)`.

    Raises:
      UserError: a missing file, an unknown name, a wrong value, a nested scope, or a binding nothing used.
    """
    gin.clear_config()
    gin.config._OPERATIVE_CONFIG.clear()
    texts: list[str] = []

    def read(path: str) -> Any:
        texts.append(Path(path).read_text(encoding="utf-8"))
        return io.StringIO(texts[-1])

    gin.config._FILE_READERS[:] = [(read, os.path.isfile)]  # not packages: `models/x.gin` is no module `models`
    gin.add_config_file_search_path(str(gin_root()))
    try:
        for file in files:
            _existing(file)
            gin.parse_config_file(file)
        _refuse_unknown_macros(bindings)
        gin.parse_config(list(bindings))
        _refuse_nested_scopes()
        _refuse_missing_macros()
        built = [cls() for cls in build]
    except Exception as error:
        cause = next((e for e in _causes(error) if isinstance(e, UserError)), None)
        # gin adds a second line to messages: the call in which it was.
        raise UserError(str(cause).splitlines()[0] if cause else _one_line(error)) from error
    _refuse_unused_bindings(texts)
    _refuse_idle_bindings(bindings)
    return built


def _existing(file: str) -> None:
    if not (Path(file).is_file() or (gin_root() / file).is_file()):
        known = sorted(str(p.relative_to(gin_root())) for p in gin_root().rglob("*.gin"))
        raise UserError(f"--gin_file={file}: no such file here or in {gin_root()}{_near(file, known)}")


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "No configurable matching" in text:
        name = text.split("'")[1].split("/")[-1].split(".")[0]
        known = [selector.split(".")[-1] for selector, _ in gin.config._REGISTRY.items()]
        text += _near(name, known)
    return f"gin: {text}"


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; near: {', '.join(close)}" if close else ""


def _macros() -> dict[str, Any]:
    """Values by name."""
    return {
        scope: values["value"] for (scope, selector), values in gin.config._CONFIG.items() if selector == "gin.macro"
    }


def _bound(bindings: Sequence[str]) -> list[str]:
    """What bindings of the command line bind: macros, "Name.parameter", "scope/Name.parameter"."""
    return [binding.split("=")[0].strip() for binding in bindings]


def _refuse_unknown_macros(bindings: Sequence[str]) -> None:
    for name in _bound(bindings):
        if "." not in name and name not in _macros():
            raise UserError(f"--gin.{name}: no gin file defines this macro{_near(name, sorted(_macros()))}")


def _refuse_nested_scopes() -> None:
    for scope, selector in gin.config._CONFIG:
        if "/" in scope:
            raise UserError(
                f"gin: nested scope {scope}/{selector.split('.')[-1]}; give the inner object a scope of its own"
            )


def _refuse_missing_macros() -> None:
    """gin hands the value of `%gin.REQUIRED` on through a macro; what it is used for would fail much later."""
    missing = [f"--gin.{name}" for name, value in _macros().items() if repr(value) == "%gin.REQUIRED"]
    if missing:
        raise UserError(f"bind {', '.join(missing)}: the recipe leaves that to you (its gin file says what goes there)")


def _refuse_unused_bindings(texts: Sequence[str]) -> None:
    """gin accepts a misspelt scope in silence; here every scoped binding must have been used, and every macro named.

    A macro that a file names for what another file or the command line binds otherwise is no mistake.
    """
    named = {name for text in texts for name in re.findall(r"%(\w+)", re.sub(r"#.*", "", text))}
    used: set[tuple[str, str, str]] = set()
    for (scope, selector), values in gin.config._OPERATIVE_CONFIG.items():
        for part in scope.split("/"):
            used.update((part, selector, name) for name in values)
    scopes = sorted({scope for scope, _, _ in used if scope})
    for (scope, selector), values in gin.config._CONFIG.items():
        for name in values if scope else ():
            if (scope, selector, name) in used:
                continue
            if selector == "gin.macro":
                if scope in named:
                    continue
                raise UserError(f"gin: macro {scope} is defined but nothing uses it{_near(scope, scopes)}")
            binding = f"{scope}/{selector.split('.')[-1]}.{name}"
            raise UserError(f"gin: nothing used the binding {binding}{_near(scope, scopes)}")


def _refuse_idle_bindings(bindings: Sequence[str]) -> None:
    """Files may bind what some recipes lack; a value given to one run that reaches nothing in it is a mistake."""
    for bound in _bound(bindings):
        name, _, parameter = bound.rpartition(".")
        if not name or "/" in name:
            continue  # macros and scoped bindings have been looked at
        selector = gin.config._REGISTRY.get_match(name).selector
        users = [
            s for (s, kind), values in gin.config._OPERATIVE_CONFIG.items() if kind == selector and parameter in values
        ]
        own = sorted(scope for scope in users if scope and parameter in gin.config._CONFIG.get((scope, selector), ()))
        if not users:
            raise UserError(f"--gin.{bound}: the recipe has no {name}")
        if len(own) == len(users):
            there = ", ".join(f"--gin.{scope}/{name}.{parameter}" for scope in own)
            raise UserError(f"--gin.{bound} reaches no {name}, each has a value of its own; bind {there}")


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
