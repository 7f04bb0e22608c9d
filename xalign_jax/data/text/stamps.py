"""Stamps tell cheaply whether a file or a package has changed. A hash identifies the content of a file exactly."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Sequence

from xalign_jax.data.text.lines import reading
from xalign_jax.errors import UserError
from xalign_jax.remote_files import file_state, hub_commit, open_bytes


def stamp_file(path: str) -> tuple[str, ...]:
    """("file", path, size, modification time or etag); the size is "missing" if there is no such file."""
    return ("file", path, *file_state(path))


def stamp_package(name: str) -> tuple[str, ...]:
    """("package", name, installed version or "missing")."""
    try:
        return ("package", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ("package", name, "missing")


def stamp_python() -> tuple[str, ...]:
    """("python", "3.11"). One version of a package may hold other files for another Python, as numpy does."""
    return ("python", f"{sys.version_info.major}.{sys.version_info.minor}")


def stamp_hub(name: str, revision: str | None) -> tuple[str, ...]:
    """("hub", data set on the Hugging Face Hub, revision, its commit or "unknown" if the Hub does not answer)."""
    try:
        return ("hub", name, revision or "", hub_commit(name, revision))
    except UserError:
        return ("hub", name, revision or "", "unknown")


def is_current(stamp: Sequence[str]) -> bool:
    """True if the file, package, Python or data set is still as the stamp says.

    A data set counts as unchanged while the Hub does not answer, so that prepared text can be used without a network.
    """
    if stamp[0] == "hub":
        fresh = stamp_hub(stamp[1], stamp[2] or None)
        return fresh[-1] in ("unknown", stamp[-1])
    if stamp[0] == "python":
        return tuple(stamp) == stamp_python()
    return tuple(stamp) == (stamp_file(stamp[1]) if stamp[0] == "file" else stamp_package(stamp[1]))


def hash_file(path: str) -> str:
    """The SHA-256 of a file's bytes. Raises UserError if the file cannot be read."""
    digest = hashlib.sha256()
    with reading(path), open_bytes(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
