"""Directories of the cache. Each is made whole or not at all, sealed with checksums, and made again if it is damaged.

A run draws its batches from these files for days and would not notice wrong tokens. So each directory holds the size
and the CRC-32 of each of its files, and every run compares them before it starts.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xalign_jax.errors import UserError

SEAL = "checksums.json"
# The bytes of a file that are compared (one core reads about 2 GB a second). Beyond them only the size is compared.
CHECKED = 2**34
_BLOCK = 2**22
ADVICE = "run `xalign data prepare`, which makes it again"


def make(directory: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory whole or not at all. An existing directory stays, unless it is damaged.

    Args:
      fill: writes the files into a given folder.
    Raises:
      OSError: the files cannot be written.
    """
    found = damage(directory)
    if found is None:
        return
    # Fill a folder of another name and rename it, so that no process ever sees half a directory.
    _delete_left(directory)
    temporary = directory.with_name(f".{directory.name}.{platform.node()}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        _seal(temporary)
        if directory.exists():
            # Another process may have made it meanwhile, and may be reading it.
            if damage(directory) is None:
                return
            print(f"{found}; making {directory} again", file=sys.stderr)
            shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except OSError:
        if damage(directory) is not None:  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _delete_left(directory: Path) -> None:
    """Delete what killed processes of this host have left of a directory."""
    for left in directory.parent.glob(f".{directory.name}.{platform.node()}.*"):
        process = left.name.rpartition(".")[2]
        if process == str(os.getpid()) or not Path("/proc", process).exists():
            shutil.rmtree(left, ignore_errors=True)


def damage(directory: Path) -> str | None:
    """One line that says which file of a directory is damaged and how; None if `make` made it and it is as it was."""
    try:
        # File name -> (size, CRC-32) as they were when the directory was made.
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
    """A JSON object of the cache. `kinds` gives the types of its values by key.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: naming the file, if it holds no such object.
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
    """Write the sizes and checksums of all files of a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    sums = {str(path.relative_to(directory)): _sums(path) for path in files}
    (directory / SEAL).write_text(json.dumps(sums, indent=1) + "\n")


def _sums(file: Path) -> tuple[int, int]:
    """A file's size, and the CRC-32 of its first `CHECKED` bytes."""
    checksum, read = 0, 0
    with open(file, "rb") as content:
        while read < CHECKED and (block := content.read(_BLOCK)):
            checksum, read = zlib.crc32(block, checksum), read + len(block)
        return os.fstat(content.fileno()).st_size, checksum
