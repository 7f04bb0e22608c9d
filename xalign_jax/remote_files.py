"""Files of object stores (gs://, s3://, hf:// and others), read through fsspec. Other paths are local files."""

from __future__ import annotations

import io
import os
import re
from typing import Any, BinaryIO, cast

from xalign_jax.errors import UserError, install, one_line

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "hf": "huggingface_hub"}  # protocol -> its library
# What stores call the mark of a file's content, best first. Local stand-ins have a time only.
_MARKS = (
    "etag",
    "ETag",
    "md5Hash",
    "content_md5",
    "blob_id",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
MISSING = "missing"  # the size of a file that is not there
_SECONDS = 20  # that the Hub may take to answer
_BLOCK = 2**20  # bytes that are asked for at once, at least


def is_url(path: str) -> bool:
    """True for a file of an object store, such as gs://bucket/a.txt."""
    return "://" in path


def open_bytes(path: str) -> BinaryIO:
    """The bytes of a file, which may be a URL such as gs://bucket/a.txt.

    Raises:
      OSError: the file cannot be opened or read; FileNotFoundError if there is none.
      UserError: the library for the URL's protocol is not installed, or there is no such protocol.
    """
    if not is_url(path):
        return open(path, "rb")
    return cast(BinaryIO, io.BufferedReader(_Remote(path), _BLOCK))


def file_state(path: str) -> tuple[str, str]:
    """Size, and modification time or the mark of the content (etag). The size is "missing" if there is no such file.

    Raises:
      UserError: a URL's store does not answer, or its library is not installed.
    """
    if not is_url(path):
        try:
            status = os.stat(path)
        except OSError:
            return MISSING, ""
        return str(status.st_size), str(status.st_mtime_ns)
    files, name = _store(path)
    try:
        files.invalidate_cache()  # a listing of an earlier look
        found = files.info(name)
    except FileNotFoundError:
        return MISSING, ""
    except Exception as error:  # libraries of stores raise exceptions of many kinds
        raise UserError(f"{path}: cannot be read ({one_line(error) or type(error).__name__})") from None
    mark = next((str(found[key]) for key in _MARKS if found.get(key) is not None), "")
    return str(found.get("size")), mark


def _store(path: str) -> tuple[Any, str]:
    """The file system of a URL, and the file's name in it."""
    import fsspec

    protocol = path.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError:
        package = _PACKAGES.get(protocol)
        how = (
            install("gcs")
            if package == "gcsfs"
            else f"pip install {package}"
            if package
            else "see fsspec's documentation"
        )
        raise UserError(
            f"{path}: reading it needs the package {package or f'for {protocol}://'}, which is not installed; {how}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: no such protocol ({one_line(error)})") from None
    except Exception as error:  # credentials that are missing, for example
        raise UserError(f"{path}: cannot be read ({one_line(error) or type(error).__name__})") from None


def hub_commit(name: str, revision: str | None) -> str:
    """The commit of a data set on the Hugging Face Hub. `revision` is a branch, a tag or a commit; None = the newest.

    Raises:
      UserError: the Hub does not answer, or has no such data set or revision.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        import huggingface_hub

        return str(huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=_SECONDS).sha)
    except ImportError:
        how = install("datasets")
        raise UserError(f"{name}: reading it needs the package datasets, which is not installed; {how}") from None
    except Exception as error:  # the library raises exceptions of many kinds
        raise UserError(
            f"{name}: no folder, and not found on the Hugging Face Hub ({one_line(error) or type(error).__name__})"
        ) from None


class _Remote(io.RawIOBase):
    """A file of an object store. Every error of the store's library becomes an OSError, as for local files."""

    _file: Any = None  # until it is open

    def __init__(self, path: str) -> None:
        files, name = _store(path)
        self._file = self._ask(files.open, name, "rb")

    @staticmethod
    def _ask(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError:
            raise
        except Exception as error:  # libraries of stores raise exceptions of many kinds
            raise OSError(one_line(error) or type(error).__name__) from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._ask(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        content = self._ask(self._file.read, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed and self._file is not None:
            self._file.close()
        super().close()
