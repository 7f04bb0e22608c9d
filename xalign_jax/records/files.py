"""Reads the JSON files of a model directory. A value of another kind than was written gives one line of error."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from etils import epath

from xalign_jax.errors import UserError, one_line
from xalign_jax.recipe import as_json
from xalign_jax.records.pictures import KINDS, Drawn, wrong

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from xalign_jax.interfaces import ModelConfig

# The end of every message: a damaged file is not fatal where one can do without it.
WITHOUT = "bring it back, or remove it to go on without it"
NUMBER = (int, float, type(None))
TEXT = (str, type(None))

# Shapes of JSON values. A type stands for its values, a tuple for any of its shapes, [shape] for a list, and
# [shape, shape] for a pair. A dict gives the shapes of named values, which may be absent. Its shape under `str` is for
# all other names; without it, they may hold anything.
Shape: TypeAlias = "type | tuple[Shape, ...] | list[Shape] | dict[Any, Shape]"
ENVIRONMENT: dict[Any, Any] = {
    "recipe_name": str,
    "seed": int,
    "identity": str,
    "run_id": str,
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
# Newer rows have these. `low` and `high` are an interval of 95 %.
OPTIONAL: dict[Any, Any] = {"settings": (dict, type(None)), "data": TEXT, "reason": TEXT, "low": NUMBER, "high": NUMBER}
# How reports show a probe (`interfaces.Probe.shown`), by its name.
COLUMN: dict[Any, Any] = {"heading": str, "short": str, "best": str, "meaning": str}
SHOWN: dict[Any, Any] = {str: {"title": str, "meaning": str, "columns": {str: COLUMN}}}
# Entries of pictures.json, and the fields of each kind (`records.pictures`).
DRAWN: dict[Any, Any] = {"stage": str, "step": int, "probe": str, "settings": dict, "kind": str, "picture": dict}
PICTURES: dict[str, dict[Any, Any]] = {
    "points": {"x": [NUMBER], "y": [NUMBER], "languages": [str], "groups": [int]},
    "histogram": {"edges": [(int, float)], "series": {str: [int]}},
    "links": {"source": [str], "target": [str], "links": [[int, int, NUMBER]], "gold": [[int, int, int]]},
}
METRICS: dict[Any, Any] = {"stage": str, "step": int, str: NUMBER}


def read_environment(directory: Path | epath.Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The contents of `environment.json`; {} if there is no such file.

    Raises:
      UserError: the file is damaged, or lacks one of the names in `needs`.
    """
    path = directory / "environment.json"
    return _checked(path, path.read_bytes(), ENVIRONMENT, needs) if path.exists() else {}


def check_shape(label: str, directory: Path | epath.Path, config: ModelConfig) -> None:
    """Check that a directory holds a model of the shape `config`. No parameters are read.

    Args:
      label: the option or gin binding that names the directory, with its value.

    Raises:
      UserError: it is no model directory, or its model has another shape; the line names the difference.
    """
    other = read_environment(directory).get("recipe", {}).get("model")
    if not isinstance(other, dict):
        raise UserError(f"{label}: no model directory; `xalign import` makes one of a Hugging Face folder")
    # A directory may be older than a field of the configuration, which then had its default.
    fields = dataclasses.fields(cast("DataclassInstance", config))
    own, other = as_json(config), {field.name: as_json(field.default) for field in fields} | other
    for key in [*own, *other]:
        if own.get(key) != other.get(key):
            raise UserError(
                f"{label}: a model with {key} = {other.get(key)}, and this one has {own.get(key)}; they must have the "
                "same shape"
            )


def stream_of(directory: Path | epath.Path, objective: str) -> dict[str, Any] | None:
    """The last stream of a run whose objective is of this class, as plain values (`recipe.as_json`); None if none is.

    Raises:
      UserError: `environment.json` is damaged.
    """
    stages = read_environment(directory).get("recipe", {}).get("stages") or ()
    streams = [stream for stage in stages for stream in stage["streams"]]
    return next((stream for stream in reversed(streams) if stream["objective"]["class"] == objective), None)


def read_results(directory: Path | epath.Path) -> list[dict[str, Any]]:
    """The rows of `results.json`; none if there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    path = directory / "results.json"
    rows = _checked(path, path.read_bytes(), [RESULT | OPTIONAL]) if path.exists() else []
    # Shapes allow absent names; the names of RESULT must be in every row.
    for number, row in enumerate(rows, start=1):
        if lacking := [name for name in RESULT if name not in row]:
            raise _damaged(path, f"row {number} has no {lacking[0]!r}")
    return rows


def read_shown(directory: Path | epath.Path) -> dict[str, dict[str, Any]]:
    """How reports show the probes of a directory, by name; {} if there is no `probes.json`, as in older ones.

    Raises:
      UserError: it is damaged.
    """
    path = directory / "probes.json"
    return _checked(path, path.read_bytes(), SHOWN) if path.exists() else {}


def read_pictures(directory: Path | epath.Path) -> list[Drawn]:
    """The pictures of `pictures.json`; none if there is no such file, as in older directories.

    Raises:
      UserError: the file is damaged.
    """
    path = directory / "pictures.json"
    found = _checked(path, path.read_bytes(), [DRAWN]) if path.exists() else []
    return [_drawn(path, number, plain) for number, plain in enumerate(found, start=1)]


def _drawn(path: Path | epath.Path, number: int, plain: dict[str, Any]) -> Drawn:
    """An entry of `pictures.json`. Raises UserError if it is damaged."""
    place = f"picture {number}"
    if lacking := [name for name in DRAWN if name not in plain]:
        raise _damaged(path, f"{place} has no {lacking[0]!r}")
    if plain["kind"] not in KINDS:
        raise _damaged(path, f"{place} is of kind {plain['kind'][:40]!r}")
    fields = {"title": str, "about": str} | PICTURES[plain["kind"]]
    if misfit := _misfit(plain["picture"], fields, place):
        raise _damaged(path, misfit)
    if differing := sorted(fields.keys() ^ plain["picture"].keys()):
        known = "no" if differing[0] in fields else "an unknown"
        raise _damaged(path, f"{place} has {known} {differing[0][:40]!r}")
    drawn = Drawn.of(plain)
    if found := wrong(drawn.picture):
        raise _damaged(path, f"{place}: {found}")
    return drawn


def read_metrics(directory: Path | epath.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; none if there is no such file. Half a last line is ignored: a run may be writing.

    Raises:
      UserError: another line is damaged.
    """
    path, rows = directory / "metrics.jsonl", []
    for number, row in metrics_rows(path):
        if isinstance(row, UserError):
            raise UserError(f"{path}:{number}: not a row of metrics; remove the line")
        rows.append(row)
    return rows


def metrics_rows(path: Path | epath.Path) -> Iterator[tuple[int, Any]]:
    """(line number, row) of each complete line of a `metrics.jsonl`, with a UserError in place of a damaged row."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else (), start=1):
        try:
            yield number, _checked(path, line, METRICS, ("step",))
        except UserError as error:
            yield number, error


def _checked(path: Path | epath.Path, contents: bytes, shape: Shape, needs: Sequence[str] = ()) -> Any:
    """The JSON value of a file's contents. Raises UserError if it does not have the shape or lacks a name."""
    try:
        found = json.loads(contents.decode())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); {WITHOUT}") from None
    # Not UTF-8, or nested deeper than Python can follow.
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {one_line(error, 100)}") from None
    if wrong := _misfit(found, shape, ""):
        raise _damaged(path, wrong)
    if lacking := [name for name in needs if name not in found]:
        raise _damaged(path, f"no {lacking[0]!r}")
    return found


def _damaged(path: Path | epath.Path, wrong: str) -> UserError:
    return UserError(f"{path} is not what a run wrote ({wrong}); {WITHOUT}")


def _misfit(value: object, shape: Shape, place: str) -> str | None:
    """Where and how a value differs from its shape; None if it does not. `place`: the value's path in the file."""
    # One fitting shape suffices; otherwise report how the first one differs.
    if isinstance(shape, tuple):
        misfits = [_misfit(value, one, place) for one in shape]
        return misfits[0] if all(misfits) else None
    # First the type of the value itself. JSON's true is no number, although Python's bool is an int.
    kind: Any = list if isinstance(shape, list) else dict if isinstance(shape, dict) else shape
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        return f"{place or 'it'} is {str(value)[:40]!r}"
    inside: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(shape, list):
        # [shape] fits any number of items, [shape, shape] exactly two. A dict's own names go before `str`.
        if len(shape) > 1 and len(value) != len(shape):
            return f"{place} has {len(value)} values"
        pairs = zip(value, itertools.cycle(shape), strict=False)
        inside = ((f"{place}[{number}]", item, own) for number, (item, own) in enumerate(pairs))
    elif isinstance(shape, dict):
        inside = ((f"{place}.{name}", item, shape.get(name, shape.get(str, object))) for name, item in value.items())
    return next((wrong for name, item, own in inside if (wrong := _misfit(item, own, name))), None)
