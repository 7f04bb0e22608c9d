"""Stamps tell cheaply whether a file or a package has changed. A hash identifies the content of a file exactly."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence

from xalign_jax.data.text.lines import reading
from xalign_jax.data.text.remote import file_state, open_bytes


def stamp_file(path: str) -> tuple[str, ...]:
    """("file", path, size, modification time or etag); the size is "missing" if there is no such file."""
    return ("file", path, *file_state(path))


def stamp_package(name: str) -> tuple[str, ...]:
    """("package", name, installed version or "missing")."""
    try:
        return ("package", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ("package", name, "missing")


def is_current(stamp: Sequence[str]) -> bool:
    """True if the file or package is still as the stamp says."""
    fresh = stamp_file(stamp[1]) if stamp[0] == "file" else stamp_package(stamp[1])
    return tuple(stamp) == fresh


def hash_file(path: str) -> str:
    """The SHA-256 of a file's bytes. Raises UserError if the file cannot be read."""
    digest = hashlib.sha256()
    with reading(path), open_bytes(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
