"""safetensors files: read tensor by tensor, written in shards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xalign_jax.data.tokens.backends import why_unreadable
from xalign_jax.errors import UserError
from xalign_jax.interop.settings import bare, read_json, shown

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_READABLE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHARD_BYTES = 1 << 30  # of a file; larger models are written as several
_LONGEST_NAME = 255  # of a file, in bytes
_PART = 1 << 24  # numbers of a tensor that are compared at a time, 64 MiB of float32


class Tensors:
    """The tensors of a checkpoint by name. Only headers are read before `read`.

    Raises:
      UserError: no safetensors files, one that is missing or cut short, or two tensors of one name.
    """

    def __init__(self, source: Path, renamed: Sequence[tuple[str, str]] = ()) -> None:
        # file -> its open handle, from which tensors are read one by one.
        self._files: dict[str, Any] = {}
        self._names: dict[str, tuple[str, str]] = {}  # name -> (file, name there)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.source = source
        # All headers are read here, so that a name that is there twice is found before any tensor is loaded.
        for file in _files(source):
            handle = self._files[file] = _open(source / file)
            for name in handle.keys():  # noqa: SIM118 - not a dict
                # `shown` is the name that tables know: some checkpoints have old endings.
                shown = next((name.removesuffix(old) + new for old, new in renamed if name.endswith(old)), name)
                if shown in self._names:
                    raise UserError(
                        f"{source / file}: {bare(name)} is there twice, as {'/'.join(self._names[shown])} too"
                    )
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

    def leave_out(self, name: str) -> None:
        """Forget a tensor that need not be read."""
        for known in (self._names, self.shapes, self.dtypes):
            del known[name]

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same numbers, whatever their dtypes. Reads both in parts."""
        if self.shapes[one] != self.shapes[other]:
            return False
        # A scalar has no rows to cut.
        if not self.shapes[one]:
            return np.array_equal(self.read(one), self.read(other))
        slices = [self._files[file].get_slice(stored) for file, stored in (self._names[one], self._names[other])]
        # Rows of axis 0 whose numbers make up one part.
        rows = max(1, _PART // max(1, math.prod(self.shapes[one][1:])))
        length = self.shapes[one][0]
        for start in range(0, length, rows):
            end = min(start + rows, length)
            # Compared in float32, which holds every number of the smaller dtypes.
            first, second = (np.asarray(part[start:end], np.float32) for part in slices)
            if not np.array_equal(first, second):
                return False
        return True


def _files(source: Path) -> list[str]:
    """The names of a checkpoint's files, by its index if it has several."""
    # As transformers does: an index beside a single file belongs to an earlier save.
    if (source / SINGLE).is_file():
        return [SINGLE]
    if not (source / INDEX).is_file():
        raise UserError(f"{source}: no {SINGLE} and no {INDEX} there{_conversion(source)}")
    index = read_json(source / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{source / INDEX}: not an index of shards (no weight_map of file names)")
    # An index is foreign text: its names must be those of files beside it, and nothing else.
    found = sorted(set(names.values()))
    for file in found:
        if Path(file).name != file or not file.isprintable() or len(file.encode()) > _LONGEST_NAME:
            raise UserError(f"{source / INDEX}: {shown(file)} is not the name of a file beside it")
        if not (source / file).is_file():
            raise UserError(f"{source / file}: missing; {INDEX} names it")
    return found


def _conversion(source: Path) -> str:
    """The command that converts a checkpoint in PyTorch's own format; "" if there is none to convert."""
    if not any(source.glob("pytorch_model*.bin")):
        return ""
    return (
        '; convert pytorch_model.bin: python -c "import glob, torch, safetensors.torch as s; '
        f"t = {{k: v.clone() for f in glob.glob('{source}/pytorch_model*.bin') "
        f"for k, v in torch.load(f, weights_only=True).items()}}; s.save_file(t, '{source}/{SINGLE}')\""
    )


def _open(file: Path) -> Any:
    """A handle that reads single tensors of a file."""
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        # The beginning of the file says what it is instead, such as a pointer of Git LFS or a web page.
        with file.open("rb") as opened:
            start = opened.read(200)
        raise UserError(
            f"{file}: {why_unreadable(start, f'cut short or not safetensors ({shown(str(error))})')}"
        ) from None


class Tensor(NamedTuple):
    """A tensor to be written. `make` gives its array when its turn comes, so that one shard at a time is in memory."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write(output: Path, tensors: Sequence[Tensor], dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Write shards of at most `shard_bytes` (or one tensor) and their index; a single shard needs no index."""
    # Bytes of each tensor in the dtype of the files.
    size = {t.name: int(np.prod(t.shape)) * DTYPES[dtype].itemsize for t in tensors}
    # Fill a shard until the next tensor would not fit.
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(size[t.name] for t in shards[-1]) + size[tensor.name] > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = [SINGLE] if len(shards) == 1 else names
    for name, members in zip(names, shards, strict=True):
        # One shard at a time is made and written.
        arrays = {t.name: np.ascontiguousarray(cast(t.name, t.make(), dtype)) for t in members}
        save_file(arrays, output / name, metadata={"format": "pt"})
    # The index tells transformers which file holds a tensor.
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(size.values())},
            "weight_map": {t.name: name for name, members in zip(names, shards, strict=True) for t in members},
        }
        (output / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array in another dtype. Raises UserError where float16 cannot hold its values."""
    # numpy only warns when a number overflows to infinity; the check below refuses it.
    with np.errstate(over="ignore"):
        made = array.astype(DTYPES[dtype], copy=False)
    if dtype == "float16" and not np.isfinite(made).all():
        raise UserError(f"--dtype=float16: {name} has values beyond 65,504; use bfloat16 or float32")
    return made
