"""What every measure and every map asks of its arrays. Each failure is one line that names the caller and the argument."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from xalign_jax.errors import UserError

ROWS_AT_ONCE = 65536  # rows that are looked at together, so that a memory map is never read as a whole


def refuse(caller: str, why: str) -> NoReturn:
    """Raise UserError with the name of the measure or the map in front."""
    raise UserError(f"{caller}: {why}")


def matrix(caller: str, name: str, array: np.ndarray, least: int = 1) -> np.ndarray:
    """The array itself if it is (N,D) of finite numbers with at least `least` rows.

    Raises:
      UserError: it has another shape, too few rows, no numbers, or a number that is NaN or infinite.
    """
    # A memory map stays one: it is read in pieces.
    array = np.asanyarray(array)
    if array.ndim != 2 or not array.shape[1]:
        refuse(caller, f"{name} has shape {array.shape}; it must be (rows, width)")
    if len(array) < least:
        refuse(caller, f"{name} has {len(array)} rows; the measure needs at least {least}")
    # Other kinds, such as bfloat16, are looked at as float32 below; text and objects hold no numbers.
    if array.dtype.kind in "OSUMmc":
        refuse(caller, f"{name} holds {array.dtype}; it must hold real numbers")
    for start in range(0, len(array), ROWS_AT_ONCE):
        finite = np.isfinite(np.asarray(array[start : start + ROWS_AT_ONCE], np.float32)).all(axis=1)
        if not finite.all():
            refuse(caller, f"row {start + int(np.argmin(finite))} of {name} is not finite; drop it or encode it again")
    return array


def paired(
    caller: str, source: np.ndarray, target: np.ndarray, least: int = 2, *, one_space: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays if row i of one translates row i of the other: (N,D) and (N,D), or (N,D) and (N,E).

    Args:
      least: the fewest rows for which the measure is defined.
      one_space: both widths must be equal.

    Raises:
      UserError: a side fails `matrix`, the numbers of rows differ, or the widths differ although they must not.
    """
    source, target = matrix(caller, "source", source, least), matrix(caller, "target", target, least)
    if len(source) != len(target):
        refuse(caller, f"source has {len(source)} rows and target has {len(target)}; row i must translate row i")
    if one_space and source.shape[1] != target.shape[1]:
        refuse(caller, f"source has width {source.shape[1]} and target has width {target.shape[1]}; they must be equal")
    return source, target


def column(caller: str, name: str, values: np.ndarray, rows: int | None = None) -> np.ndarray:
    """A finite float64 column (N,).

    Args:
      rows: the number of rows that it must have; None allows any.

    Raises:
      UserError: it has another shape or length, no numbers, or a number that is NaN or infinite.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "fiub":
        refuse(caller, f"{name} holds {found.dtype}; it must hold real numbers")
    found = found.astype(np.float64)
    if found.ndim != 1:
        refuse(caller, f"{name} has shape {found.shape}; it must be a column of numbers")
    if rows is not None and len(found) != rows:
        refuse(caller, f"{name} has {len(found)} rows; {rows} are needed")
    if not np.isfinite(found).all():
        refuse(caller, f"row {int(np.argmin(np.isfinite(found)))} of {name} is not finite")
    return found


def labels(caller: str, name: str, values: np.ndarray, rows: int) -> np.ndarray:
    """A column (N,) of labels, such as languages, groups or texts.

    Raises:
      UserError: it is no column, or it has another length.
    """
    found = np.asarray(values)
    if found.shape != (rows,):
        refuse(caller, f"{name} has shape {found.shape}; it must hold one label for each of {rows} rows")
    return found


def choice(caller: str, name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value, if it is one of the choices.

    Raises:
      UserError: it is not.
    """
    if value not in choices:
        refuse(caller, f"{name} = {value!r}; choose from {', '.join(choices)}")
    return value


def between(caller: str, name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a setting outside [low, high].

    Raises:
      UserError: it lies outside, or it is NaN.
    """
    if not low <= value <= high:
        refuse(caller, f"{name} = {value}; it must lie in [{low:g}, {high:g}]")
