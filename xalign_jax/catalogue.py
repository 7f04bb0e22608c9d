"""The recipes, tasks, probes, objectives and parametrizations that gin files may name, a line each."""

from __future__ import annotations

import inspect
import re

from xalign_jax import gin_files

# Kind -> the modules that define it.
ROOMS: dict[str, tuple[str, ...]] = {
    "probes": ("xalign_jax.evaluation.probes.",),
    "objectives": ("xalign_jax.objectives.",),
    "parametrizations": ("xalign_jax.parametrizations.", "xalign_jax.interfaces"),
}
KINDS = ("recipes", "tasks", *ROOMS)


def lines(kind: str) -> list[str]:
    """All of one kind, sorted: the name, and the first paragraph of the recipe's header or of the docstring."""
    found = _recipes() if kind == "recipes" else _tasks() if kind == "tasks" else _classes(ROOMS[kind])
    width = max(map(len, found))
    return [f"{name:<{width}}  {about}" for name, about in sorted(found.items())]


def _recipes() -> dict[str, str]:
    files = (gin_files.gin_root() / "recipes").glob("*.gin")
    headers = {file.name: file.read_text(encoding="utf-8").partition("\n#\n")[0] for file in files}
    return {f"recipes/{name}": re.sub(r"\n?# ", " ", header).strip() for name, header in headers.items()}


def _tasks() -> dict[str, str]:
    """The tasks that are ready. Importing them takes some seconds, because seqio loads TensorFlow."""
    from xalign_jax.tasks.registration import ABOUT

    return dict(ABOUT)


def _classes(modules: tuple[str, ...]) -> dict[str, str]:
    """Classes of these modules, without the ingredients of methods in parts/, such as a corruption."""
    found = {}
    for cls in gin_files.registered().values():
        if isinstance(cls, type) and cls.__module__.startswith(modules) and ".parts." not in cls.__module__:
            found[f"@{cls.__name__}()"] = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    return found
