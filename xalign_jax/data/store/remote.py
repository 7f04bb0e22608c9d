"""Stores on object storage: put there once, and read from there at random by every host.

`push` copies the prepared texts of a recipe under a URL, `pull` makes them readable in a local cache. Small files are
copied whole. Large arrays of tokens stay where they are: `RemoteArray` reads blocks of them when they are needed, many
at a time, and keeps the newest. TensorStore moves the bytes.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from xalign_jax.data.store.cache import SEAL, make
from xalign_jax.errors import RunError, UserError, one_line, run_error
from xalign_jax.remote_files import MISSING, file_state, is_url

URL, MEMORY = "XALIGN_REMOTE", "XALIGN_REMOTE_MB"
_MEMORY = 1024  # megabytes of blocks that a process keeps
_LARGE = 2**20  # arrays of more bytes are read in blocks
_BLOCK, _PART = 2**15, 2**28  # bytes of a block, and of an object on the storage
_TRIES, _WAIT = 6, 0.1  # attempts to read a block; seconds before the second one, doubled each time
_AHEAD = 64  # blocks that are asked for beyond a slice, if slices are read one after another
_REQUESTS = 256  # that are under way at once
_PLACE = ".remote.json"  # of an array that stays on object storage, instead of .npy
_SUMS = ".crc.npy"
# TensorStore tries again by itself when a server is overloaded.
_CONTEXT = {
    "gcs_request_concurrency": {"limit": _REQUESTS},
    "gcs_request_retries": {"max_retries": 8, "initial_delay": "100ms", "max_delay": "10s"},
    "http_request_concurrency": {"limit": _REQUESTS},
    "http_request_retries": {"max_retries": 8, "initial_delay": "100ms", "max_delay": "10s"},
    "s3_request_concurrency": {"limit": _REQUESTS},
    "s3_request_retries": {"max_retries": 8, "initial_delay": "100ms", "max_delay": "10s"},
}


def remote_url() -> str | None:
    """$XALIGN_REMOTE, such as gs://BUCKET/FOLDER, or None. Raises UserError if it is no URL."""
    url = os.environ.get(URL, "")
    if url and url.partition("://")[0] not in ("gs", "s3", "http", "https", "file"):
        raise UserError(f"{URL} = {url[:100]!r}: expected gs://BUCKET/FOLDER, s3://, http(s):// or file://")
    return url.rstrip("/") or None


class Storage:
    """Objects under a URL. Every error of reading or writing becomes one line, a RunError, after several attempts."""

    def __init__(self, url: str) -> None:
        import tensorstore

        self.url = url
        spec = {**tensorstore.KvStore.Spec(url.rstrip("/") + "/").to_json(), "context": _CONTEXT}
        self._store = tensorstore.KvStore.open(spec).result()

    def ask(self, name: str, part: slice | None = None) -> Any:
        """A future of an object's bytes, or of a part of them."""
        return self._store.read(name, byte_range=part)

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is no such object."""

        def attempt() -> bytes | None:
            found = self.ask(name).result()
            return None if found.state == "missing" else bytes(found.value)

        return self.again(name, attempt)

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        self.again(name, lambda: self._store.write(name, content).result())

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(name.decode() for name in self.again("", lambda: self._store.list().result()))

    def again(self, name: str, attempt: Any) -> Any:
        """What `attempt` returns. It is repeated, with pauses, if it fails."""
        for number in range(_TRIES):
            try:
                return attempt()
            except Exception as error:  # TensorStore raises exceptions of many kinds
                if number == _TRIES - 1:
                    raise run_error(f"{self.url}/{name}: {one_line(error)}; tried {_TRIES} times", error) from None
                time.sleep(_WAIT * 2**number)


class _Blocks:
    """The newest blocks of all arrays of this process, and the reads that are under way. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[tuple[int, int], Any] = collections.OrderedDict()
        self._next = 0

    def number(self) -> int:
        """A number for one more array."""
        with self._lock:
            self._next += 1
            return self._next

    def ask(self, array: RemoteArray, blocks: Iterable[int]) -> dict[int, Any]:
        """Blocks by number, or futures of blocks that are not here. The oldest blocks of all arrays are dropped."""
        wanted = {}
        with self._lock:
            for block in blocks:
                key = (array.number, block)
                if key not in self._kept:
                    self._kept[key] = array.ask(block)
                self._kept.move_to_end(key)
                wanted[block] = self._kept[key]
            while len(self._kept) > max(1, _memory() * 2**20 // _BLOCK):
                self._kept.popitem(last=False)
        return wanted

    def fetch(self, array: RemoteArray, blocks: Iterable[int]) -> dict[int, np.ndarray]:
        """Blocks by number. Those that are not here are asked for at once, then waited for."""
        found = {}
        for block, future in self.ask(array, blocks).items():
            if not isinstance(future, np.ndarray):
                future = array.received(block, future)
                with self._lock:
                    if (array.number, block) in self._kept:
                        self._kept[array.number, block] = future
            found[block] = future
        return found


_BLOCKS = _Blocks()


def _memory() -> int:
    text = os.environ.get(MEMORY, str(_MEMORY))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{MEMORY} = {text[:60]!r}: expected megabytes of memory")
    return int(text)


class RemoteArray:
    """A one-dimensional array on object storage, which is indexed like a numpy array and gives the same values.

    Args:
      about: what `push` wrote: its url, dtype and size, and the bytes of a part and of a block.
      sums: (blocks,) uint32, the CRC-32 of each block.
    Raises of indexing:
      RunError: a block cannot be read, or is damaged, after several attempts.
    """

    def __init__(self, about: dict[str, Any], sums: np.ndarray) -> None:
        self.dtype = np.dtype(about["dtype"])
        self.size, self.shape, self.ndim = about["size"], (about["size"],), 1
        self._url, self._part, self._block = about["url"], about["part"], about["block"]
        self._sums = sums
        self._items = self._block // self.dtype.itemsize
        self._storage: Storage | None = None
        self._last = -2  # the last block of the last slice
        self.number = _BLOCKS.number()

    def __len__(self) -> int:
        return self.size

    def _place(self, block: int) -> tuple[str, slice]:
        """The object that holds a block, and where."""
        part, start = divmod(block * self._block, self._part)
        end = min(start + self._block, self.size * self.dtype.itemsize - part * self._part)
        return f"{part:06d}", slice(start, end)

    def ask(self, block: int) -> Any:
        """A future of a block's bytes."""
        if self._storage is None:
            self._storage = Storage(self._url)
        return self._storage.ask(*self._place(block))

    def received(self, block: int, future: Any) -> np.ndarray:
        """The block that a future gives. It is read again if that fails, or if the bytes are wrong."""
        name, part = self._place(block)
        waiting = [future]

        def attempt() -> np.ndarray:
            found = (waiting.pop() if waiting else self.ask(block)).result()
            content = bytes(found.value)
            if zlib.crc32(content) != self._sums[block]:
                raise ValueError(f"bytes {part.start} to {part.stop} are missing or not those that were written")
            return np.frombuffer(content, self.dtype)

        assert self._storage is not None
        return self._storage.again(name, attempt)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                raise IndexError("slices of a RemoteArray have step 1")
            self._read_on(start, stop)
            return self.windows(np.array([start]), max(0, stop - start))[0]
        places = np.asarray(index)
        if places.dtype.kind not in "iu":
            raise IndexError("a RemoteArray is indexed by slices and whole numbers")
        if places.size and not -self.size <= places.min() <= places.max() < self.size:
            raise IndexError(f"an index is out of bounds for {self.size} values")
        flat = np.where(places < 0, places + self.size, places).ravel().astype(np.int64)
        # (n,) places -> their blocks, one after another, and each place within them.
        blocks, inverse = np.unique(flat // self._items, return_inverse=True)
        found = _BLOCKS.fetch(self, blocks.tolist())
        sizes = np.array([len(found[block]) for block in blocks.tolist()], np.int64)
        joined = np.concatenate([np.empty(0, self.dtype), *found.values()])
        values = joined[(np.cumsum(sizes) - sizes)[inverse] + flat % self._items].reshape(places.shape)
        return values if places.ndim else values[()]

    def _read_on(self, start: int, stop: int) -> None:
        """Ask for the blocks that follow, if slices are read one after another."""
        first, last = start // self._items, max(start, stop - 1) // self._items
        if first in (self._last, self._last + 1):
            _BLOCKS.ask(self, range(last + 1, min(last + 1 + _AHEAD, len(self._sums))))
        self._last = last

    def windows(self, starts: np.ndarray, size: int) -> np.ndarray:
        """(B,) places -> (B, size): the values from each place on. All windows lie within the array."""
        found = np.empty((len(starts), size), self.dtype)
        if not size or not len(starts):
            return found
        first, last = starts // self._items, (starts + size - 1) // self._items
        wanted = {block for a, b in zip(first.tolist(), last.tolist(), strict=True) for block in range(a, b + 1)}
        blocks = _BLOCKS.fetch(self, sorted(wanted))
        for row, (start, a, b) in enumerate(zip(starts.tolist(), first.tolist(), last.tolist(), strict=True)):
            for block in range(a, b + 1):
                # The part of this block that the window covers.
                low, high = max(start, block * self._items), min(start + size, (block + 1) * self._items)
                found[row, low - start : high - start] = blocks[block][
                    low - block * self._items : high - block * self._items
                ]
        return found


def take_windows(tokens: np.ndarray | RemoteArray, starts: np.ndarray, size: int) -> np.ndarray:
    """(B,) places in an array -> (B, size): the values from each place on. All windows lie within the array."""
    if isinstance(tokens, RemoteArray):
        return tokens.windows(starts, size)
    return sliding_window_view(tokens, size)[starts]


def open_array(folder: Path, name: str) -> RemoteArray | None:
    """The array of this name that stays on object storage, None if it is a local one."""
    file = folder / f"{name}{_PLACE}"
    if not file.exists():
        return None
    return RemoteArray(json.loads(file.read_bytes()), np.load(folder / f"{name}{_SUMS}"))


def push(cache: Path, directories: Sequence[str], entries: Sequence[Path], url: str) -> None:
    """Put directories of the cache, and then the entries of the index that name them, under a URL.

    Raises:
      RunError: an object cannot be written.
    """
    storage = Storage(url)
    for directory in directories:
        seal = (cache / directory / SEAL).read_bytes()
        if storage.read(f"{directory}/{SEAL}") == seal:
            continue
        print(f"putting {directory} on {url}", file=sys.stderr)
        for name in json.loads(seal):
            file = cache / directory / name
            if file.suffix == ".npy" and file.stat().st_size > _LARGE and _goes_with_tokens(file):
                _push_array(storage, f"{directory}/{name}".removesuffix(".npy"), np.load(file, mmap_mode="r"))
            else:
                storage.write(f"{directory}/{name}", file.read_bytes())
        storage.write(f"{directory}/{SEAL}", seal)  # last: it says that the directory is whole
    for entry in entries:
        storage.write(f"index/{entry.name}", entry.read_bytes())


def _goes_with_tokens(file: Path) -> bool:
    """True for tokens and columns of the same length, which are read at random. Other columns are read whole."""
    tokens = file.with_name("tokens.npy")
    return tokens.exists() and len(np.load(file, mmap_mode="r")) == len(np.load(tokens, mmap_mode="r"))


def _push_array(storage: Storage, name: str, array: np.ndarray) -> None:
    content = array.view(np.uint8)
    sums: list[int] = []
    for number, first in enumerate(range(0, len(content), _PART)):
        part = content[first : first + _PART].tobytes()
        sums += [zlib.crc32(part[at : at + _BLOCK]) for at in range(0, len(part), _BLOCK)]
        storage.write(f"{name}/{number:06d}", part)
    about = {"url": f"{storage.url}/{name}", "dtype": array.dtype.str, "size": len(array)}
    storage.write(f"{name}{_SUMS}", np.array(sums, "<u4").tobytes())
    storage.write(f"{name}{_PLACE}", json.dumps({**about, "part": _PART, "block": _BLOCK}).encode())


def pull(cache: Path, entries: Sequence[Path], url: str) -> bool:
    """Make prepared texts that `push` put under a URL readable in the cache. False if they are not there.

    Raises:
      RunError: the storage cannot be read, or a file there is not the one that was put there.
    """
    storage = Storage(url)
    found = {entry: storage.read(f"index/{entry.name}") for entry in entries}
    for content in found.values():
        if content is None or not all(_may_be_current(stamp) for stamp in json.loads(content)["stamps"]):
            return False
    for content in found.values():
        directory = json.loads(content or b"")["directory"]
        make(cache / directory, functools.partial(_pull_directory, storage, directory))
    for entry, content in found.items():
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content or b"")
        temporary.replace(entry)
    return True


def _may_be_current(stamp: Sequence[str]) -> bool:
    """False if the file of a stamp can be looked at and is another one. Other hosts need not have it, or its time."""
    if stamp[0] != "file":
        return True
    _, path, size, mark = stamp
    try:
        now = file_state(path)
    except UserError:  # a URL whose store this host may not read
        return True
    if now[0] == MISSING:
        return True
    return now == (size, mark) if is_url(path) else now[0] == size


def _pull_directory(storage: Storage, directory: str, folder: Path) -> None:
    """Copy a directory into a folder, without its large arrays. Every file is compared with its checksum."""
    sealed = json.loads(storage.read(f"{directory}/{SEAL}") or b"{}")
    if not sealed:
        raise RunError(f"{storage.url}/{directory}: not there; run `xalign data prepare` with {URL} set")
    for name, (size, checksum) in sealed.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = storage.read(f"{directory}/{name}")
        if content is None:
            _pull_place(storage, f"{directory}/{name}".removesuffix(".npy"), file)
        elif (len(content), zlib.crc32(content)) != (size, checksum):
            raise RunError(f"{storage.url}/{directory}/{name}: damaged; delete {directory} there and prepare it again")
        else:
            file.write_bytes(content)


def _pull_place(storage: Storage, name: str, file: Path) -> None:
    """Write what `open_array` reads, in place of a large array."""
    about, sums = storage.read(f"{name}{_PLACE}"), storage.read(f"{name}{_SUMS}")
    if about is None or sums is None:
        raise RunError(f"{storage.url}/{name}.npy: missing; delete its directory there and prepare it again")
    file.with_name(file.stem + _PLACE).write_bytes(about)
    np.save(file.with_name(file.stem + _SUMS), np.frombuffer(sums, "<u4"))
