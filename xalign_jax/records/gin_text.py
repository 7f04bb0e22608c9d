"""A recipe and a runtime as the text of a gin file."""

from __future__ import annotations

import dataclasses
from typing import Any

from xalign_jax.recipe import Recipe, Runtime


def as_gin(recipe: Recipe, runtime: Runtime) -> str:
    """The text of `config.gin`: every resolved value, without macros. `config.load` rebuilds equal objects from it."""
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
