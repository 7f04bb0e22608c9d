"""Small faults put into a source file on purpose: what a typing mistake or a hasty change would leave behind.

A mutant is one edit of one expression or statement; the rest of the file keeps its characters. Not mutated are messages
(what follows `raise`), annotations, decorators, f-strings, `strict=` of zip, and constants that have a name (defaults of
fields, module constants): a test of those would only say their value twice.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
OPPOSITES = [
    ("max", "min"), ("maximum", "minimum"), ("any", "all"), ("argmax", "argmin"), ("ones", "zeros"),
    ("ones_like", "zeros_like"), ("floor", "ceil"), ("append", "extend"), ("cumsum", "cumprod"), ("sum", "max"),
    ("mean", "sum"), ("logical_and", "logical_or"), ("startswith", "endswith"), ("union", "intersection"),
]  # fmt: skip
OTHER_NAME = {a: b for a, b in OPPOSITES} | {b: a for a, b in OPPOSITES if b not in dict(OPPOSITES)}
OTHER_WORD = {"left": "right", "right": "left"}
WRAPPERS = {
    "stop_gradient",
    "sorted",
    "reversed",
    "abs",
    "set",
    "l2_normalize",
    "log",
    "exp",
    "sqrt",
    "round",
    "unique",
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """`source[start:end]`, in bytes, becomes `text`; `line` is where."""

    line: int
    start: int
    end: int
    text: str

    def of(self, source: bytes) -> bytes:
        """The mutated file."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants(source: bytes) -> list[Mutant]:
    """Every mutant of a Python file, in the order of the file."""
    starts = list(itertools.accumulate((len(line) + 1 for line in source.split(b"\n")), initial=0))
    found = set()
    for node in _code(ast.parse(source), named=True):
        for place, text in _edits(node):
            start = starts[place.lineno - 1] + place.col_offset
            found.add(Mutant(place.lineno, start, starts[place.end_lineno - 1] + place.end_col_offset, text))
    return sorted(found, key=lambda m: (m.start, m.end, m.text))


def _code(node: ast.AST, named: bool) -> Iterator[Any]:
    """The nodes that may be mutated. named: an assignment here gives a constant its name."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Raise | ast.Import):
                continue
            if named and isinstance(child, ast.Assign | ast.AnnAssign):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            yield child
            yield from _code(child, named and not isinstance(child, ast.FunctionDef))


def _edits(node: Any) -> Iterator[tuple[Any, str]]:
    """(node, what may stand in its place)."""
    match node:
        case ast.If():
            yield node.test, "False"
            if not isinstance(node.body[0], ast.Raise):
                yield node.test, "True"
        case ast.comprehension():
            yield from ((test, "True") for test in node.ifs)
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                yield node, f"({_with(node, ops=[*node.ops[:i], COMPARISONS[type(operator)](), *node.ops[i + 1 :]])})"
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield node, f"({_with(node, op=OPERATORS[type(node.op)]())})"
        case ast.AugAssign() if type(node.op) in OPERATORS:
            yield node, _with(node, op=OPERATORS[type(node.op)]())
            yield node, "pass"
        case ast.BoolOp():
            yield node, f"({_with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())})"
            for i in range(len(node.values)):
                left = [*node.values[:i], *node.values[i + 1 :]]
                yield node, f"({_with(node, values=left) if len(left) > 1 else ast.unparse(left[0])})"
        case ast.UnaryOp():
            yield node, f"({ast.unparse(node.operand)})"
        case ast.Constant():
            yield from ((node, text) for text in _constants(node.value))
        case ast.IfExp():
            yield node, f"({ast.unparse(node.body)})"
            yield node, f"({ast.unparse(node.orelse)})"
        case ast.Subscript(slice=ast.Slice() as piece):
            for end in ("lower", "upper", "step"):
                if getattr(piece, end) is not None:
                    yield node, _with(node, slice=_copy(piece, **{end: None}))
        case ast.Call():
            yield from ((node, text) for text in _calls(node))
        case ast.Name(id=name, ctx=ast.Load()) if name in OTHER_NAME:
            yield node, OTHER_NAME[name]
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in OTHER_NAME:
            yield node, _with(node, attr=OTHER_NAME[name])
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield node, "pass"
        case ast.Continue():
            yield node, "break"
        case ast.Break():
            yield node, "continue"


def _constants(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int):
        yield str(value + 1)
        if value:
            yield str(value - 1)
    elif isinstance(value, float):
        yield str(value * 2 if value else 1.0)
    elif isinstance(value, str) and value in OTHER_WORD:
        yield repr(OTHER_WORD[value])


def _calls(node: ast.Call) -> Iterator[str]:
    """Arguments swapped, a keyword left out, a wrapper taken off, one branch of `where`."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    plain = name != "isinstance" and not any(isinstance(argument, ast.Starred) for argument in node.args)
    if name == "where" and len(node.args) == 3:
        condition, yes, no = node.args
        yield _with(node, args=[condition, no, yes])
        yield f"({ast.unparse(yes)})"
        yield f"({ast.unparse(no)})"
    elif len(node.args) >= 2 and plain and name not in OTHER_NAME and ast.dump(node.args[0]) != ast.dump(node.args[1]):
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    elif len(node.args) == 1 and plain and name in WRAPPERS:
        yield f"({ast.unparse(node.args[0])})"
    for i in (i for i, keyword in enumerate(node.keywords) if keyword.arg != "strict"):
        yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


def _copy(node: Any, **changes: Any) -> Any:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _with(node: Any, **changes: Any) -> str:
    return ast.unparse(_copy(node, **changes))
