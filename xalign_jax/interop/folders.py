"""Folders of many files that appear whole or not at all, and replace only what was written in this way before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from xalign_jax.errors import RunError, UserError
from xalign_jax.runtime.storage import write_atomically

LIST = "xalign_files.json"  # what was written into a folder, so that --overwrite tells it from files of the user's


@contextlib.contextmanager
def whole(folder: Path, option: str, overwrite: bool) -> Iterator[Path]:
    """A place to write the files of `folder`: they are moved there, with a list of them, if nothing is raised within.

    With `overwrite` they replace the files of an earlier list; files that no list names stay.

    Args:
      option: what named the folder on the command line.

    Raises:
      UserError: the folder cannot be made, is not empty (without `overwrite`), or has files of others in the way.
    """
    _refuse(folder, option, overwrite)
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


def _refuse(folder: Path, option: str, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{option}={folder} is a file; name a folder")
    if any(folder.iterdir()):
        if not (folder / LIST).is_file():
            raise UserError(
                f"{option}={folder} holds files that this command did not write (it has no {LIST}), and --overwrite does "
                f"not remove them; name another folder"
            )
        _listed(folder)
        if not overwrite:
            raise UserError(f"{option}={folder} is not empty; name another folder or add --overwrite")


def _install(building: Path, folder: Path, option: str) -> None:
    new = {file.relative_to(building).as_posix() for file in building.rglob("*") if not file.is_dir()}
    if not folder.exists():
        _write_list(building, new)
        building.rename(folder)
        return
    old = _listed(folder) if (folder / LIST).is_file() else set()
    strangers = sorted(name for name in new - old if os.path.lexists(folder / name))
    if strangers:
        raise UserError(
            f"{option}={folder}: {strangers[0]} is not of an earlier export or import, and --overwrite does not replace it; "
            "move it away"
        )
    try:
        _write_list(folder, old | new)  # first, so that a run that is stopped here can be repeated
        for name in sorted(old - new):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(new):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(building / name, folder / name)
        _write_list(folder, new)
        for parent in sorted({folder / parent for name in old - new for parent in PurePosixPath(name).parents}):
            _remove_if_empty(parent)
    except OSError as error:
        raise RunError(f"{option}={folder}: cannot be written ({error.strerror}: {error.filename})") from None


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _removed(building: Path) -> None:
    if building.exists():
        shutil.rmtree(building)


def _write_list(folder: Path, names: set[str]) -> None:
    write_atomically(folder / LIST, json.dumps(sorted(names), indent=1) + "\n")


def _listed(folder: Path) -> set[str]:
    """The names of a list, all inside the folder."""
    try:
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))
        inside = all(not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in names)
        if not isinstance(names, list) or not inside:
            raise ValueError("names of files are expected")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / LIST}: not a list of written files ({error}); name another folder") from None
    return set(names)
