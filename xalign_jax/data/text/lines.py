"""The lines of a user's files, and checks of the strings in them. Errors name file and line."""

from __future__ import annotations

import contextlib
import functools
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Any

from xalign_jax.data.text.compression import open_file
from xalign_jax.errors import UserError

SHOWN = 60  # characters of a wrong value that an error message shows
_BLOCK_BYTES = 2**18
_LINE_BYTES = 2**30  # longest line; a longer one is damage, or a small compressed file that would fill the memory
_LANGUAGE_BYTES = 100  # longest name of a language, which is the name of a folder
_MARK = "\ufeff"  # the byte-order mark
_NO_TEXT = {
    b"\0": "a NUL byte, which no text has: the file is damaged, not text, or in UTF-16",
    b"\r": "a carriage return within a line; end lines with LF or CR LF (old Mac files: tr '\\r' '\\n' < OLD > NEW)",
}


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns errors of reading a file into one UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, without line ends (LF or CR LF). See `compression.open_file`.

    Every reader of a user's lines calls this function or `decode_lines`, so that all of them refuse the same things.

    Raises:
      UserError: the file is missing, empty or damaged, or a line (which is named) is not text in UTF-8.
    """
    with reading(path), open_file(path) as file:
        yield from decode_lines(file, path)


def decode_lines(file: IO[bytes], path: str) -> Iterator[tuple[int, str]]:
    """As `read_lines`, from a file that is open.

    Byte-order marks are dropped at the start of any line, because files that begin with one are often joined.
    """
    number = 0
    # Blocks of whole lines are checked and decoded at once, which is three times as quick as line by line.
    while block := file.read(_BLOCK_BYTES):
        rest = file.readline(_LINE_BYTES)
        if len(rest) == _LINE_BYTES:
            long = number + 1 + block.count(b"\n")
            raise UserError(f"{path}:{long}: a line of more than a gibibyte")
        block += rest
        for line in _lines_of(block, path, number):
            number += 1
            yield number, line.lstrip(_MARK)
    if number == 0:
        raise UserError(f"{path}: the file is empty")


def _lines_of(block: bytes, path: str, before: int) -> Iterator[str]:
    """The lines of a block, which ends with one. Raises UserError for the first line that is not text.

    Args:
      before: how many lines of the file stand before the block.
    """
    ended = block.removesuffix(b"\n")
    try:
        if not any(byte in block for byte in _NO_TEXT):
            yield from ended.decode().split("\n")
            return
    except UnicodeDecodeError:
        pass  # the lines before the bad one are good
    for number, raw in enumerate(ended.split(b"\n"), before + 1):
        line = raw.rstrip(b"\r")
        # Bytes that no text has show a damaged file or another encoding.
        for byte, advice in _NO_TEXT.items():
            if byte in line:
                raise UserError(f"{path}:{number}: {advice}")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 at byte {error.start + 1} ({error.reason})") from None


@functools.cache
def say(note: str) -> None:
    """Print a line about skipped text to standard error, once a process: preparation reads every source several times."""
    print(note, file=sys.stderr)


def is_language(name: str) -> bool:
    """True if a name can be a language's: printable, without spaces, and usable as the name of a folder."""
    # The name becomes a folder: no separators, no "." or "..", and not too long.
    usable = name.isprintable() and not set(" /\\") & set(name) and name.strip(".") == name
    return bool(name) and usable and len(name.encode()) <= _LANGUAGE_BYTES


def parse_object(line: str, path: str, number: int) -> dict[str, Any]:
    """The JSON object on a line. Raises UserError, naming file:line, if there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def check_string(text: str, path: str, number: int) -> str:
    """The string. Raises UserError, naming file:line, if it holds what JSON can spell and no text has."""
    if "\0" in text:
        raise UserError(f"{path}:{number}: a NUL character, which no text has, at character {text.index(chr(0))}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}:{number}: half a surrogate pair at character {error.start}") from None
    return text
