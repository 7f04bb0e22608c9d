"""Opens files that may be compressed. The end of a file's name says how. Files may lie in an object store."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
from typing import Any, BinaryIO, cast

from xalign_jax.errors import UserError, install
from xalign_jax.remote_files import open_bytes

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_BLOCK = 2**12  # compressed bytes that are read at once: small, because a block of zstd can grow by a factor of 30,000


def open_file(path: str) -> BinaryIO:
    """The bytes of a file, decompressed if its name ends in one of SUFFIXES.

    Damage raises OSError, EOFError, lzma.LZMAError or zlib.error, at the latest when the end is read.
    """
    file = open_bytes(path)
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(file, "rb"))
    if path.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(file, "rb"))
    if path.endswith(".xz"):
        return cast(BinaryIO, lzma.open(file, "rb"))
    if path.endswith(".zst"):
        return io.BufferedReader(_Zstandard(file, extra_package("zstandard", path)))
    return file


def plain_name(path: str) -> str:
    """The name of a file without the ending of its compression: "a.tsv" for "a.tsv.gz"."""
    return next((path.removesuffix(suffix) for suffix in SUFFIXES if path.endswith(suffix)), path)


def extra_package(module: str, path: str, extra: str = "formats") -> Any:
    """A module of an extra. Raises UserError, naming the file that needs it, if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(
            f"{path}: reading it needs the package {package}, which is not installed; {install(extra)}"
        ) from None


class _Zstandard(io.RawIOBase):
    """Decompresses zstd frames. The package's own reader takes a truncated file for a whole one."""

    def __init__(self, file: BinaryIO, package: Any) -> None:
        self._package = package
        self._file = file
        self._frame: Any = None  # the frame that is being decompressed
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._file.read(_BLOCK)
            if not block:
                if self._frame is not None:
                    raise EOFError("the compressed file ends too early")
                return 0
            self._ready = memoryview(self._decompress(block))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, block: bytes) -> bytes:
        parts = []
        try:
            while block:
                if self._frame is None:
                    self._frame = self._package.ZstdDecompressor().decompressobj()
                parts.append(self._frame.decompress(block))
                # A frame that ends within the block leaves the rest of the block to the next frame.
                block = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = None
        except self._package.ZstdError as error:
            raise OSError(f"not zstd data: {error}") from None
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
