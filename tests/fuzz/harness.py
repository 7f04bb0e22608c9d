"""Feed damaged files to a reader: each must be read, or refused in one line that names the place.

A reader's entry in `readers.py` says what real files look like (`seeds`), how they are read (`read`), and what must hold
of whatever was read (`check`). Input number n of a reader is a function of (reader, seed, n), so every finding can be
made again: `python tests/fuzz/run.py READER --first=N --inputs=1`.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.mutator import damaged
from xalign_jax.errors import RunError, UserError

SECONDS = 20  # one input that takes longer is a hang


@dataclasses.dataclass(frozen=True)
class Reader:
    """A function that reads files of a user.

    Attributes:
      seeds: real inputs, each a folder: file name -> contents.
      read: reads a folder; UserError and RunError are answers, any other exception is a finding.
      check: raises AssertionError if what `read` gave cannot be right, so that a damage changed a result without a word.
      spared: names of files that are never damaged.
    """

    name: str
    seeds: Callable[[], list[dict[str, bytes]]]
    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None] = lambda found, folder: None
    spared: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """An input that was neither read well nor refused well."""

    reader: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.reader} input {self.number}: {self.what}"


class Hang(BaseException):
    """Too long."""


def inputs(reader: Reader, first: int, count: int, seed: int = 0) -> Iterator[tuple[int, dict[str, bytes]]]:
    """(number, folder) of damaged inputs."""
    seeds = reader.seeds()
    for number in range(first, first + count):
        rng = random.Random(zlib.crc32(f"{reader.name} {seed} {number}".encode()))
        files = dict(rng.choice(seeds))
        name = rng.choice([name for name in files if name not in reader.spared])
        files[name] = damaged(files[name], rng)
        yield number, files


def findings(reader: Reader, first: int, count: int, seed: int = 0) -> Iterator[Finding]:
    """What went wrong with each of `count` inputs, beginning at number `first`."""
    parent = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for number, files in inputs(reader, first, count, seed):
            folder = parent / str(number)
            for name, contents in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(contents)
            what = _wrong(reader, folder)
            shutil.rmtree(folder)
            if what:
                yield Finding(reader.name, number, what)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _wrong(reader: Reader, folder: Path) -> str | None:
    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        reader.check(reader.read(folder), folder)
    except (UserError, RunError) as refused:
        message = str(refused)
        if "\n" in message or len(message) > 600:
            return f"a message that is not one line of at most 600 characters: {message[:200]!r}"
    except Hang:
        return f"a hang: more than {SECONDS} s"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {' '.join(str(error).split())[:150]} ({Path(frame.filename).name}:{frame.lineno})"
        )
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None
