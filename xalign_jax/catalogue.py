"""What gin files may name, a line each: recipes, probes, objectives, parametrizations."""

from __future__ import annotations

import inspect
import re

from xalign_jax import gin_files

# Kind -> the room whose classes are meant.
ROOMS: dict[str, str | tuple[str, ...]] = {
    "probes": "xalign_jax.evaluation.probes.",
    "objectives": "xalign_jax.objectives.",
    "parametrizations": ("xalign_jax.parametrizations.", "xalign_jax.interfaces"),
}
KINDS = ("recipes", *ROOMS)


def lines(kind: str) -> list[str]:
    """The things of a kind, sorted: name, and the first sentence of the header or the docstring."""
    found = _recipes() if kind == "recipes" else _classes(ROOMS[kind])
    width = max(map(len, found))
    return [f"{name:<{width}}  {about}" for name, about in sorted(found.items())]


def _recipes() -> dict[str, str]:
    files = (gin_files.gin_root() / "recipes").glob("*.gin")
    headers = {file.name: file.read_text(encoding="utf-8").partition("\n#\n")[0] for file in files}
    return {f"recipes/{name}": re.sub(r"\n?# ", " ", header).strip() for name, header in headers.items()}


def _classes(room: str | tuple[str, ...]) -> dict[str, str]:
    """Methods only: what an objective is made of, such as a corruption, lies in parts/."""
    classes = [
        cls for cls in gin_files.registered() if cls.__module__.startswith(room) and ".parts." not in cls.__module__
    ]
    return {
        f"@{cls.__name__}()": (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ") for cls in classes
    }
