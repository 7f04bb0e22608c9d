"""A recipe and a runtime as the text of a gin file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from xalign_jax.recipe import Recipe, Runtime, Stage, Stream

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def as_gin(recipe: Recipe, runtime: Runtime) -> str:
    """The text of `config.gin`: every resolved value, without macros. `config.load` rebuilds equal objects from it.

    For example:

        Recipe.model = @Llama()
        Recipe.stages = (@pretrain/Stage(), )
        pretrain/Stage.steps = 500
    """
    writer = _Writer()
    writer.reference(recipe, "")
    writer.reference(runtime, "")
    # gin needs the user's own modules to register their classes. Ours are registered by `api.register`.
    imports = sorted(m for m in writer.modules if not m.startswith("xalign_jax."))
    return "\n".join([*(f"import {module}" for module in imports), *writer.lines]) + "\n"


class _Writer:
    """Collects the lines of bindings while it walks through configs that hold other configs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.modules: set[str] = set()
        self.written: dict[tuple[str, str], DataclassInstance] = {}

    def reference(self, config: DataclassInstance, scope: str) -> str:
        """Write the bindings of `config` once and return the gin reference to it."""
        # A scope, such as "pretrain/", tells objects of one class apart. Stages and streams have names, which
        # become the scopes of all within them.
        kind = type(config).__name__
        scope = config.name if isinstance(config, Stage | Stream) else scope
        # A name that is taken by another object of the class gets a number. An equal object is the same one.
        free, number = scope, 2
        while self.written.get((free, kind), config) != config:
            free, number = f"{scope or 'recipe'}_{number}", number + 1
        label = f"{free}/{kind}" if free else kind
        if (free, kind) not in self.written:
            self.written[(free, kind)] = config
            self.modules.add(type(config).__module__)
            # Fields first, so that what they hold is written before the config that refers to it.
            values = [(f.name, self.value(getattr(config, f.name), free)) for f in dataclasses.fields(config)]
            self.lines += ["", *(f"{label}.{name} = {value}" for name, value in values)]
        return f"@{label}()"

    def value(self, value: object, scope: str) -> str:
        """A field's value as gin text; a config becomes a reference."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.reference(value, scope)
        if isinstance(value, tuple):
            # A comma after every item: a tuple of one item needs it.
            return "(" + "".join(f"{self.value(item, scope)}, " for item in value) + ")"
        return repr(value)
