"""safetensors files: read tensor by tensor, written in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xalign_jax.errors import UserError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_READABLE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHARD_BYTES = 1 << 30


class Tensors:
    """The tensors of a checkpoint by name; nothing is read but headers until `read`.

    Raises:
      UserError: no safetensors files, or one that is missing or cut short.
    """

    def __init__(self, source: Path, renamed: Sequence[tuple[str, str]] = ()) -> None:
        self._files: dict[str, Any] = {}
        self._names: dict[str, tuple[str, str]] = {}  # name -> (file, name there)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.source = source
        for file in _files(source):
            handle = self._files[file] = _open(source / file)
            for name in handle.keys():  # noqa: SIM118 - not a dict
                shown = next((name.removesuffix(old) + new for old, new in renamed if name.endswith(old)), name)
                slice_ = handle.get_slice(name)
                self._names[shown] = file, name
                self.shapes[shown], self.dtypes[shown] = tuple(slice_.get_shape()), slice_.get_dtype()

    def check_dtypes(self, names: Iterable[str]) -> None:
        """Refuse tensors that are not floating-point numbers of at most 32 bits."""
        for name in names:
            if self.dtypes[name] not in _READABLE:
                raise UserError(
                    f"{self.source / self._names[name][0]}: {name} is {self.dtypes[name]}; only {', '.join(_READABLE)}"
                )

    def read(self, name: str) -> np.ndarray:
        """A tensor in its own dtype."""
        file, stored = self._names[name]
        return self._files[file].get_tensor(stored)


def _files(source: Path) -> list[str]:
    if (source / SINGLE).is_file():  # as transformers does: an index beside it is of an earlier save
        found = [SINGLE]
    elif (source / INDEX).is_file():
        try:
            found = sorted(set(json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise UserError(f"{source / INDEX}: not an index of shards ({error})") from None
    else:
        other = sorted(path.name for path in source.glob("*.bin")) if source.is_dir() else []
        hint = f"; {other[0]} is not read: save the model as safetensors" if other else ""
        raise UserError(f"{source}: no {SINGLE} and no {INDEX} there{hint}")
    for file in found:
        if not (source / file).is_file():
            raise UserError(f"{source / file}: missing; {INDEX} names it")
    return found


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise UserError(f"{file}: cut short or not safetensors ({error})") from None


class Tensor(NamedTuple):
    """A tensor to be written; `make` gives it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write(output: Path, tensors: Sequence[Tensor], dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Write shards of at most `shard_bytes` (or one tensor) and their index; a single shard needs no index."""
    size = {t.name: int(np.prod(t.shape)) * DTYPES[dtype].itemsize for t in tensors}
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(size[t.name] for t in shards[-1]) + size[tensor.name] > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = [SINGLE] if len(shards) == 1 else names
    for name, members in zip(names, shards, strict=True):
        arrays = {t.name: np.ascontiguousarray(cast(t.name, t.make(), dtype)) for t in members}
        save_file(arrays, output / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(size.values())},
            "weight_map": {t.name: name for name, members in zip(names, shards, strict=True) for t in members},
        }
        (output / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in another dtype. Raises UserError where float16 has no such values."""
    with np.errstate(over="ignore"):
        made = array.astype(DTYPES[dtype], copy=False)
    if dtype == "float16" and not np.isfinite(made).all():
        raise UserError(f"--dtype=float16: {name} has values beyond 65,504; use bfloat16 or float32")
    return made


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any of the regular expressions occurs in a name."""
    return any(re.search(pattern, name) for pattern in patterns)
