"""Worker processes that tokenise. The results come in the order of the batches, so they do not depend on the workers."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np

from xalign_jax.data.store.columns import Arrays, Encoder
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.readers import Example
from xalign_jax.data.text.split import document_keys
from xalign_jax.errors import UserError

Part = TypeVar("Part")
Asked = TypeVar("Asked")
Job = Callable[[Encoder, Sequence[Example]], Any]  # a function of a module, which workers find by its name

JOBS = "XALIGN_JOBS"
_ALONE = 2**22  # characters that are encoded before workers start, which takes about a second
_AHEAD = 3  # batches for each worker that are read ahead
# A worker ends with the connection: also if the process that started it is killed. Ctrl-C is that process's business.
_SERVE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from xalign_jax.data.store.workers import serve
serve(int(sys.argv[1]))
"""


def jobs() -> int:
    """The number of processes that tokenise: $XALIGN_JOBS, otherwise one for each core. Raises UserError if it is bad."""
    text = os.environ.get(JOBS, "")
    if not text:
        return len(os.sched_getaffinity(0))
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise UserError(f"{JOBS} = {text[:60]!r}: expected a number of processes, from 1 to 4096")
    return int(text)


class Workers:
    """Encodes batches of examples in processes of its own, or in this one if there is little text.

    Use it as a context: the processes end with it.
    """

    def __init__(self, encoder: Encoder, count: int) -> None:
        self._encoder, self._count = encoder, count
        self._characters = 0
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._processes: list[subprocess.Popen] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        if self._pool is not None:  # its threads find that their workers have ended
            self._pool.shutdown(wait=True, cancel_futures=True)
        for connection, process in zip(self._connections, self._processes, strict=True):
            connection.close()
            process.wait()

    def map(
        self, batches: Iterable[tuple[Part, Sequence[Example]]], wanted: Callable[[Part], bool]
    ) -> Iterator[tuple[Part, Sequence[Example], Arrays | None]]:
        """Each batch with its columns, in order; None for batches of parts that are not wanted.

        Raises:
          UserError: the vocabulary cannot encode text.
          ChildProcessError: a worker stopped.
        """
        asked = ((part, batch, self._submit(_encode, batch) if wanted(part) else None) for part, batch in batches)
        for part, batch, future in self._in_order(asked):
            yield part, batch, None if future is None else future.result()

    def keys(self, batches: Iterable[Sequence[Document]]) -> Iterator[np.ndarray]:
        """`split.document_keys` of batches, in order. Raises ChildProcessError if a worker stopped."""
        asked = (self._submit(_keys, list(map(Example, batch))) for batch in batches)
        return (future.result() for future in self._in_order(asked))

    def _in_order(self, asked: Iterator[Asked]) -> Iterator[Asked]:
        """The same values. A few are taken ahead, so that all workers have work."""
        waiting: collections.deque[Asked] = collections.deque()
        for one in asked:
            waiting.append(one)
            if len(waiting) > _AHEAD * self._count:
                yield waiting.popleft()
        yield from waiting

    def _submit(self, job: Job, batch: Sequence[Example]) -> concurrent.futures.Future:
        if self._count == 1 or self._characters < _ALONE:
            self._characters += sum(len(example.document.text) for example in batch)
            done: concurrent.futures.Future = concurrent.futures.Future()
            done.set_result(job(self._encoder, batch))
            return done
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self._count)
        return self._pool.submit(self._ask, job, batch)

    def _ask(self, job: Job, batch: Sequence[Example]) -> np.ndarray | Arrays:
        """Have this thread's worker do a job."""
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = self._start()
        try:
            # Columns are quicker to send than records.
            documents, ids = zip(*batch, strict=True)
            columns = list(zip(*documents, strict=True))
            worker.send((job, columns, ids if any(one is not None for one in ids) else None))
            answer = worker.recv()
        except (EOFError, OSError):
            line = f"a worker process that tokenises stopped; if memory ran out, set {JOBS} to a smaller number"
            raise ChildProcessError(None, line) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _SERVE, str(theirs.fileno())]
        # Libraries use one thread: the cores are divided among processes.
        alone = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with theirs:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, **alone})
        connection = Connection(ours.detach())
        self._processes.append(process)
        self._connections.append(connection)
        connection.send_bytes(pickle.dumps(self._encoder))
        return connection


def _encode(encoder: Encoder, batch: Sequence[Example]) -> Arrays:
    return encoder.encode(batch)


def _keys(_: Encoder, batch: Sequence[Example]) -> np.ndarray:
    return document_keys([example.document for example in batch])


def serve(descriptor: int) -> None:
    """The worker: do the job on each batch that comes, until the connection ends."""
    connection = Connection(descriptor)
    try:
        encoder: Encoder = connection.recv()
        while True:
            job, columns, ids = connection.recv()
            answer: Any
            try:
                documents = map(Document, *columns)
                answer = job(encoder, list(map(Example, documents, ids or itertools.repeat(None))))
            except Exception as error:
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        return
