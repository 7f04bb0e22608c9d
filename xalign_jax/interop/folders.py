"""Folders of many files that appear whole or not at all, and that replace only files written in the same way before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from xalign_jax.errors import RunError, UserError
from xalign_jax.runtime.storage import write_atomically

# In each written folder, the list of its files. By it --overwrite tells them from the user's own files.
LIST = "xalign_files.json"


@contextlib.contextmanager
def whole(folder: Path, option: str, overwrite: bool) -> Iterator[Path]:
    """A place to write the files of `folder`. If nothing is raised within, they are moved there, with a list of them.

    With `overwrite` they replace the files of an earlier list. Files that no list names stay.

    Args:
      option: the command line's option that named the folder, for messages.

    Raises:
      UserError: the folder cannot be made, is not empty (without `overwrite`), or has other files in the way.
    """
    _refuse(folder, option, overwrite)
    # On the same disk as the folder, so that moving costs nothing. Whatever a stopped command left is removed first.
    building = folder.absolute().parent / f".{folder.name}.unfinished"
    try:
        _removed(building)
        building.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{option}={folder}: cannot be written ({error.strerror}: {error.filename})") from None
    try:
        yield building
        _install(building, folder, option)
    finally:
        _removed(building)


def written(folder: Path) -> list[str]:
    """The names of the files that `whole` wrote into a folder, sorted. Raises UserError if there is no list of them."""
    return sorted(_listed(folder))


def _refuse(folder: Path, option: str, overwrite: bool) -> None:
    """Refuse a folder that may not be written, before hours are spent on its contents."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{option}={folder} is a file; name a folder")
    # An empty folder is as good as none.
    if any(folder.iterdir()):
        if not (folder / LIST).is_file():
            raise UserError(
                f"{option}={folder} holds files that this command did not write (it has no {LIST}), and "
                "--overwrite does not remove them; name another folder"
            )
        _listed(folder)
        if not overwrite:
            raise UserError(f"{option}={folder} is not empty; name another folder or add --overwrite")


def _install(building: Path, folder: Path, option: str) -> None:
    """Move the new files into the folder, replace those of an earlier list, and remove the rest of that list."""
    # Paths relative to the folder, with "/" on every system.
    new = {file.relative_to(building).as_posix() for file in building.rglob("*") if not file.is_dir()}
    # A new folder appears whole, by one rename.
    if not folder.exists():
        _write_list(building, new)
        building.rename(folder)
        return
    # Only files of the earlier list may be replaced.
    old = _listed(folder) if (folder / LIST).is_file() else set()
    strangers = sorted(name for name in new - old if os.path.lexists(folder / name))
    if strangers:
        raise UserError(
            f"{option}={folder}: {strangers[0]} is not of an earlier export or import, "
            "and --overwrite does not replace it; move it away"
        )
    try:
        # The list of old and new files first: a command that is stopped from here on can be repeated with --overwrite.
        _write_list(folder, old | new)
        # Then old files go and new ones come, one by one.
        for name in sorted(old - new):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(new):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(building / name, folder / name)
        # At last the list of what is there, and no empty folders of what is not.
        _write_list(folder, new)
        for parent in sorted({folder / parent for name in old - new for parent in PurePosixPath(name).parents}):
            _remove_if_empty(parent)
    except OSError as error:
        raise RunError(f"{option}={folder}: cannot be written ({error.strerror}: {error.filename})") from None


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; one that holds files stays."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _removed(building: Path) -> None:
    """Remove a folder with all its files, if it exists."""
    if building.exists():
        shutil.rmtree(building)


def _write_list(folder: Path, names: set[str]) -> None:
    """Write the list of a folder's files."""
    write_atomically(folder / LIST, json.dumps(sorted(names), indent=1) + "\n")


def _listed(folder: Path) -> set[str]:
    """The names in a folder's list. All of them lie inside the folder."""
    try:
        # A list is a file that anybody could write: a path that leads out of the folder must not remove anything there.
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))
        inside = all(not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in names)
        if not isinstance(names, list) or not inside:
            raise ValueError("names of files are expected")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / LIST}: not a list of written files ({error}); name another folder") from None
    return set(names)
