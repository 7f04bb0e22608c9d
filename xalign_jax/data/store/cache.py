"""Directories of the cache: made whole or not at all, sealed with checksums, and made again where they are damaged.

A run draws its batches from these files for days and would not notice wrong tokens. So each directory holds the size
and the CRC-32 of each of its files, and every run compares them before it starts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xalign_jax.errors import UserError

SEAL = "checksums.json"
CHECKED = (
    2**34
)  # bytes that are read of a file (one core reads about 2 GB a second); beyond, its size alone is compared
_BLOCK = 2**22
ADVICE = "run `xalign data prepare`, which makes it again"


def make(directory: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory whole or not at all. One that is there already stays, unless it is damaged.

    Args:
      fill: writes the files into the folder that it is given.
    """
    found = damage(directory)
    if found is None:
        return
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        _seal(temporary)
        if directory.exists():
            print(f"{found}; making {directory} again", file=sys.stderr)
            shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except OSError:
        if damage(directory) is not None:  # else another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def damage(directory: Path) -> str | None:
    """What is wrong with a directory of `make`, naming the file; None if it is as it was made."""
    try:
        sealed = {str(name): tuple(sums) for name, sums in json.loads((directory / SEAL).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return f"{directory / SEAL}: missing or damaged"
    for name, sums in sealed.items():
        try:
            if _sums(directory / name) != sums:
                return f"{directory / name}: damaged (not the bytes that were written)"
        except (OSError, ValueError) as error:
            return f"{directory / name}: cannot be read ({getattr(error, 'strerror', None) or error})"
    return None if sealed else f"{directory / SEAL}: names no file"


def read_object(file: Path, **kinds: type) -> dict[str, Any]:
    """A JSON object of the cache whose keys `kinds` hold values of these types.

    Raises: FileNotFoundError, or UserError naming a file that holds no such object.
    """
    try:
        content = json.loads(file.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # refuses halves of surrogate pairs, which "\\ud800" spells
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged ({error}); {ADVICE}") from None
    for key, kind in kinds.items():
        if not (isinstance(content, dict) and isinstance(content.get(key), kind)):
            raise UserError(f"{file}: damaged (no {key!r} of type {kind.__name__}); {ADVICE}")
    return content


def _seal(directory: Path) -> None:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    sums = {str(path.relative_to(directory)): _sums(path) for path in files}
    (directory / SEAL).write_text(json.dumps(sums, indent=1) + "\n")


def _sums(file: Path) -> tuple[int, int]:
    """A file's size, and the CRC-32 of as much as is read of it."""
    checksum, read = 0, 0
    with open(file, "rb") as content:
        while read < CHECKED and (block := content.read(_BLOCK)):
            checksum, read = zlib.crc32(block, checksum), read + len(block)
        return os.fstat(content.fileno()).st_size, checksum
