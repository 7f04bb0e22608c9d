"""Who imports whom in a checkout: rooms, modules, circles and arrows that DESIGN does not draw. Reads source text only.

A room is a file or a folder directly in `xalign_jax/`; `tasks/` is one more. Imports inside functions count like all
others. Imports for annotations only (`if TYPE_CHECKING:`) never run, so callers may leave them out.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = "xalign_jax"
FOLDERS = (PACKAGE, "tasks")

# Plain values, base classes, errors and array functions that several rooms need: every room may import them.
OPEN = {"recipe", "interfaces", "errors", "arrays", "matrix_product", "records", "remote_files", "target", "__init__"}

# Rooms from which everything is called.
TOP = {"cli", "api"}

# Room -> the rooms to which DESIGN draws an arrow from it. Along these arrows a room may also import what lies deeper.
DRAWN = {
    "__init__": {"api"},  # `xalign_jax.load`, imported when it is first used
    "harnesses": {"api", "evaluation"},  # they load models as users do
    "scale": {"training"},
    "training": {"objectives", "parametrizations", "data", "models", "runtime"},
    "evaluation": {"models", "data", "alignment", "runtime"},
    "interop": {"models", "data", "alignment", "runtime"},
    "objectives": {"alignment"},
    "parametrizations": {"data"},  # which tokens translate each other is data
    "reports": {"recipe"},
    "config": {"gin_files"},
    "catalogue": {"gin_files", "tasks"},
    "tasks": {"data"},
    "preparing": {"tasks"},
}


class Import(NamedTuple):
    """One import of one module.

    Attributes:
      path: the importing file, relative to the checkout.
      source: the importing module, "xalign_jax.data.corpus".
      module: the imported module, of this package or of another.
      lazy: it runs inside a function only.
      types: it stands under `if TYPE_CHECKING:` and never runs.
    """

    path: str
    line: int
    source: str
    module: str
    lazy: bool
    types: bool

    @property
    def room(self) -> str:
        """The room of the importing file."""
        return room_of(self.source)

    @property
    def inside(self) -> bool:
        """Whether the imported module belongs to this package."""
        return self.module.split(".")[0] == PACKAGE

    @property
    def kind(self) -> str:
        """When the import runs, if not at once."""
        return " (for annotations)" if self.types else " (in a function)" if self.lazy else ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}{self.kind}"


def python_files(root: Path, *folders: str) -> list[Path]:
    """The Python files of some folders of a checkout."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a dotted module: "xalign_jax.data.store.store" -> "data", "xalign_jax" -> "__init__"."""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path, root: Path) -> str:
    """The dotted name of a file: tasks/django.py -> "xalign_jax.tasks.django", data/__init__.py -> "xalign_jax.data"."""
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts if parts[0] == PACKAGE else (PACKAGE, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read(root: Path) -> list[Import]:
    """Every import of the package and of its tasks."""
    files = python_files(root, *FOLDERS)
    modules = {module_of(path, root) for path in files}
    return [found for path in files for found in _imports_of(path, root, modules)]


def _imports_of(path: Path, root: Path, modules: Collection[str]) -> Iterator[Import]:
    source = module_of(path, root)
    package = source if path.name == "__init__.py" else source.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = _inside(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))
    types = _inside(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for node in ast.walk(tree):
        for name in _names(node, package, modules):
            place = str(path.relative_to(root))
            yield Import(place, node.lineno, source, name, id(node) in lazy, id(node) in types)


def _inside(tree: ast.AST, outer) -> set[int]:
    return {id(inner) for node in ast.walk(tree) if outer(node) for inner in ast.walk(node)}


def _names(node: ast.AST, package: str, modules: Collection[str]) -> list[str]:
    """The modules that a statement imports: by `import`, by `from`, or by name through `import_module`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join(filter(None, [*above, node.module or ""]))
        # `from xalign_jax.data import store` imports the module `store`, `from ...corpus import Corpus` imports `corpus`.
        names = [f"{base}.{alias.name}" for alias in node.names]
        return list(dict.fromkeys(name if name in modules else base for name in names))
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return []


@functools.cache
def below(room: str) -> frozenset[str]:
    """All rooms below a room that is neither at the top nor open."""
    drawn = DRAWN.get(room, set())
    return frozenset(drawn.union(*map(below, drawn)))


def allowed(room: str) -> frozenset[str]:
    """The rooms that a room may import."""
    everything = {"api", *DRAWN, *set().union(*DRAWN.values())}
    return frozenset(OPEN | {room} | (everything if room in TOP else below(room)))


def skips(found: Import) -> bool:
    """Whether an import goes down past a room that lies between."""
    target = room_of(found.module)
    return target in below(found.room) - DRAWN.get(found.room, set()) - OPEN


def arrows(found: Iterable[Import]) -> dict[str, dict[str, list[Import]]]:
    """Room -> the other rooms that it imports -> by which imports."""
    rooms: dict[str, dict[str, list[Import]]] = {}
    for one in found:
        target = room_of(one.module)
        if one.inside and target != one.room:
            rooms.setdefault(one.room, {}).setdefault(target, []).append(one)
    return rooms


def not_drawn(found: Iterable[Import]) -> list[Import]:
    """Imports of rooms that do not lie below the importing one: upwards or sideways."""
    return [one for one in found if one.inside and room_of(one.module) not in allowed(one.room)]


def is_upward(found: Import) -> bool:
    """Whether an import points from a room to one that lies above it."""
    return found.room in allowed(room_of(found.module)) and room_of(found.module) not in allowed(found.room)


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm, each sorted; deepest first."""
    targets: dict[str, list[str]] = {}
    for source, target in edges:
        targets.setdefault(source, []).append(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in targets.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1 or node in targets.get(node, ()):
                found.append(sorted(group))

    for node in sorted(targets):
        if node not in index:
            visit(node)
    return found


def room_circles(found: Iterable[Import]) -> list[tuple[list[str], list[Import]]]:
    """Rooms that import each other, and the imports between them."""
    inside = [one for one in found if one.inside and room_of(one.module) != one.room]
    groups = circles((one.room, room_of(one.module)) for one in inside)
    return [(group, [one for one in inside if {one.room, room_of(one.module)} <= {*group}]) for group in groups]


def module_circles(found: Iterable[Import]) -> list[tuple[list[str], list[Import]]]:
    """Modules that import each other, and the imports between them."""
    inside = [one for one in found if one.inside]
    groups = circles((one.source, one.module) for one in inside)
    return [(group, [one for one in inside if {one.source, one.module} <= {*group}]) for group in groups]


def layers(rooms: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Rooms from top to bottom: each lies above all that it imports. Rooms of one circle share a layer."""
    names = sorted({*rooms, *(target for targets in rooms.values() for target in targets)})
    group = {name: (name,) for name in names}
    for circle in circles((room, target) for room in rooms for target in rooms[room]):
        group |= dict.fromkeys(circle, tuple(circle))

    @functools.cache
    def height(members: tuple[str, ...]) -> int:
        below = {group[target] for room in members for target in rooms.get(room, ())} - {members}
        return 1 + max(map(height, below), default=-1)

    heights = {name: height(group[name]) for name in names}
    return [[name for name in names if heights[name] == level] for level in range(max(heights.values()), -1, -1)]
