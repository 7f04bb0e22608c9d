"""Model directories on local disks and in object stores (gs://)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from xalign_jax.errors import UserError, one_line, run_error

os.environ.setdefault("EPATH_USE_TF", "false")  # otherwise etils loads TensorFlow to reach a bucket


def model_directory(text: str) -> epath.Path:
    """The path of a model directory that will be written.

    Raises:
      UserError: the folder cannot be written, or as `directory`.
    """
    if "://" not in text:
        check_writable("--model_dir", Path(text))
    return directory("--model_dir", text)


def directory(option: str, text: str) -> epath.Path:
    """The path of a folder, which may lie in a bucket (gs://). It need not exist.

    Args:
      option: the option or the gin binding that names it, for messages.

    Raises:
      UserError: the object store is of another kind, gcsfs is not installed, or the bucket cannot be reached.
    """
    # A path without a scheme is a local folder.
    scheme, separator, _ = text.partition("://")
    if not separator:
        return epath.Path(text)
    if scheme != "gs":  # Orbax supports no other store
        raise UserError(f"{option}={text}: expected a folder or gs://BUCKET/FOLDER")
    try:
        path = epath.Path(text)
        path.exists()
    except ImportError:
        raise UserError(f"{option}={text}: pip install gcsfs") from None
    except Exception as error:  # each object store raises its own exceptions
        raise UserError(f"{option}={text} cannot be reached: {one_line(error, 300)}") from error
    return path


def check_writable(option: str, folder: Path) -> None:
    """Check that a local folder can be written or made, before there is any work to lose.

    Raises:
      UserError: naming the option, if it cannot.
    """
    try:
        # The nearest existing folder must be writable: the missing ones are made in it.
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        wrong = "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"
        wrong = wrong if there.is_dir() else f"{there} is a file"
    except OSError as error:
        wrong = str(error.strerror)
    if wrong:
        raise UserError(f"{option}={folder}: {wrong}; choose another folder")


def is_remote(path: os.PathLike) -> bool:
    """True if a path lies in an object store."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn any exception within this context into a RunError, because each store and file system has its own ones."""
    try:
        yield
    except Exception as error:
        raise run_error(f"{what} could not be written: {one_line(error, 300)}", error) from error


def write_atomically(path: Path | epath.Path, content: str | bytes) -> None:
    """Replace a file completely or not at all. Object stores do so by themselves. Text is written as UTF-8.

    Raises:
      RunError: the file could not be written; the old one stays.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(str(path)):
        if is_remote(path):
            path.write_bytes(data)
            return
        # Renaming replaces the file at once, so that readers see the old or the new contents.
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def move(folder: epath.Path, target: epath.Path) -> None:
    """Move a folder, and replace the target. Object stores have no folders, so each object is copied there."""
    # A target that is left from an earlier attempt would be mixed with the folder.
    target.rmtree(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(folder):
        folder.rename(target)
        return
    _copy(folder, target)
    folder.rmtree()


def _copy(folder: epath.Path, target: epath.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for place in folder.iterdir():
        if place.is_dir():
            _copy(place, target / place.name)
        else:
            place.copy(target / place.name)


def upload(folder: Path, directory: epath.Path) -> None:
    """Copy the files of a local folder, and of folders in it, into a directory of an object store.

    Raises:
      RunError: one of them could not be written.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            target = directory / file.relative_to(folder)
            with writing(str(target)):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


@contextlib.contextmanager
def as_local(directory: epath.Path) -> Iterator[Path]:
    """A local folder with the files of a directory: the directory itself, which is made if it is missing.

    For a directory in an object store it is a copy, whose files are copied back at the end of the context.
    """
    if not is_remote(directory):
        directory.mkdir(parents=True, exist_ok=True)
        yield Path(directory)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in directory.iterdir() if directory.exists() else ():
            if not file.is_dir():
                (folder / file.name).write_bytes(file.read_bytes())
        yield folder
        upload(folder, directory)
