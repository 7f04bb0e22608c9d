"""What a model directory records as JSON, read back. Every value has its type, or an error names the value."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from xalign_jax.errors import UserError

# The end of every message: a damaged file is not fatal where it can be done without.
WITHOUT = "bring it back, or remove it to go on without it"
NUMBER = (int, float, type(None))
TEXT = (str, type(None))

# Shapes say what a JSON value may be. A type stands for its values, and a tuple for any of the shapes in it. [shape] is
# a list, and [shape, shape] a pair. A dict gives the shapes of these names where they are present; the shape under
# `str` is for all other names, which otherwise may hold anything.
Shape: TypeAlias = "type | tuple[Shape, ...] | list[Shape] | dict[Any, Shape]"
ENVIRONMENT: dict[Any, Any] = {
    "recipe_name": str,
    "seed": int,
    "identity": str,
    "vocabulary_fingerprint": str,
    "git": TEXT,
    "texts": {str: {str: {str: str}}},
    "inputs": {str: [str, str]},
    "recipe": {"lexicon": ({"languages": [str]}, type(None))},
}
RESULT: dict[Any, Any] = {
    "stage": str,
    "step": int,
    "probe": str,
    "metric": str,
    "value": NUMBER,
    "n": NUMBER,
    "language": TEXT,
    "level": (int, str, type(None)),
    "split": TEXT,
    "seed": NUMBER,
    "control": TEXT,
}
# Newer rows also have these.
OPTIONAL: dict[Any, Any] = {"settings": (dict, type(None)), "data": TEXT, "reason": TEXT}
# How reports show a probe (`interfaces.Probe.shown`), by the probe's name.
COLUMN: dict[Any, Any] = {"heading": str, "short": str}
SHOWN: dict[Any, Any] = {str: {"title": str, "columns": {str: COLUMN}}}
# Every column but these two is a number; the names of columns are open.
METRICS: dict[Any, Any] = {"stage": str, "step": int, str: NUMBER}


def read_environment(directory: Path | epath.Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The contents of `environment.json`; {} if there is no such file.

    Raises:
      UserError: it is damaged, or lacks a name of `needs`.
    """
    path = directory / "environment.json"
    return _checked(path, path.read_bytes(), ENVIRONMENT, needs) if path.exists() else {}


def read_results(directory: Path | epath.Path) -> list[dict[str, Any]]:
    """The rows of `results.json`; none if there is no such file.

    Raises:
      UserError: it is damaged.
    """
    path = directory / "results.json"
    rows = _checked(path, path.read_bytes(), [RESULT | OPTIONAL]) if path.exists() else []
    # A missing name and a wrong value have messages of their own.
    for number, row in enumerate(rows, start=1):
        if lacking := [name for name in RESULT if name not in row]:
            raise _damaged(path, f"row {number} has no {lacking[0]!r}")
    return rows


def read_shown(directory: Path | epath.Path) -> dict[str, dict[str, Any]]:
    """How reports show the probes of a directory, by name; {} if there is no `probes.json`, as in older directories.

    Raises:
      UserError: it is damaged.
    """
    path = directory / "probes.json"
    return _checked(path, path.read_bytes(), SHOWN) if path.exists() else {}


def read_metrics(directory: Path | epath.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; none if there is no such file. The last line of a run that is writing may be half.

    Raises:
      UserError: a whole line is damaged.
    """
    path, rows = directory / "metrics.jsonl", []
    for number, row in metrics_rows(path):
        if isinstance(row, UserError):
            raise UserError(f"{path}:{number}: not a row of metrics; remove the line")
        rows.append(row)
    return rows


def metrics_rows(path: Path | epath.Path) -> Iterator[tuple[int, Any]]:
    """(line number, row) of each whole line of a `metrics.jsonl`; a UserError in place of a row that is damaged."""
    # What follows the last newline is empty or half a line.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else (), start=1):
        try:
            yield number, _checked(path, line, METRICS, ("step",))
        except UserError as error:
            yield number, error


def _checked(path: Path | epath.Path, contents: bytes, shape: Shape, needs: Sequence[str] = ()) -> Any:
    """The JSON value of a file's contents, once it has the shape and all names of `needs`."""
    try:
        found = json.loads(contents.decode())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); {WITHOUT}") from None
    # Not UTF-8, or nested deeper than Python can follow.
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {' '.join(str(error).split())[:100]}") from None
    if wrong := _misfit(found, shape, ""):
        raise _damaged(path, wrong)
    if lacking := [name for name in needs if name not in found]:
        raise _damaged(path, f"no {lacking[0]!r}")
    return found


def _damaged(path: Path | epath.Path, wrong: str) -> UserError:
    return UserError(f"{path} is not what a run wrote ({wrong}); {WITHOUT}")


def _misfit(value: object, shape: Shape, place: str) -> str | None:
    """The place and the value that differ from the shape, in words; None if nothing does."""
    # One fitting shape is enough. If none fits, the first one names the misfit.
    if isinstance(shape, tuple):
        misfits = [_misfit(value, one, place) for one in shape]
        return misfits[0] if all(misfits) else None
    # What the value itself must be. True is an int in Python but no number here.
    kind: Any = list if isinstance(shape, list) else dict if isinstance(shape, dict) else shape
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        return f"{place or 'it'} is {str(value)[:40]!r}"
    # Then what is inside: (its place, the value, its shape).
    inside: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(shape, list):
        if len(shape) > 1 and len(value) != len(shape):
            return f"{place} has {len(value)} values"
        pairs = zip(value, itertools.cycle(shape), strict=False)
        inside = ((f"{place}[{number}]", item, own) for number, (item, own) in enumerate(pairs))
    elif isinstance(shape, dict):
        inside = ((f"{place}.{name}", item, shape.get(name, shape.get(str, object))) for name, item in value.items())
    return next((wrong for name, item, own in inside if (wrong := _misfit(item, own, name))), None)
