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

from xalign_jax.data.store.columns import Arrays, Encoder
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.readers import Example
from xalign_jax.errors import UserError

Part = TypeVar("Part")

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
        waiting: collections.deque[tuple[Part, Sequence[Example], concurrent.futures.Future | None]]
        waiting = collections.deque()
        for part, batch in batches:
            waiting.append((part, batch, self._submit(batch) if wanted(part) else None))
            if len(waiting) > _AHEAD * self._count:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def _submit(self, batch: Sequence[Example]) -> concurrent.futures.Future:
        if self._count == 1 or self._characters < _ALONE:
            self._characters += sum(len(example.document.text) for example in batch)
            done: concurrent.futures.Future = concurrent.futures.Future()
            done.set_result(self._encoder.encode(batch))
            return done
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self._count)
        return self._pool.submit(self._ask, batch)

    def _ask(self, batch: Sequence[Example]) -> Arrays:
        """Have this thread's worker encode a batch."""
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = self._start()
        try:
            # Columns are quicker to send than records.
            documents, ids = zip(*batch, strict=True)
            worker.send((list(zip(*documents, strict=True)), ids if any(one is not None for one in ids) else None))
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


def _result(
    waiting: tuple[Part, Sequence[Example], concurrent.futures.Future | None],
) -> tuple[Part, Sequence[Example], Arrays | None]:
    part, batch, future = waiting
    return part, batch, None if future is None else future.result()


def serve(descriptor: int) -> None:
    """The worker: encode each batch that comes, until the connection ends."""
    connection = Connection(descriptor)
    try:
        encoder: Encoder = connection.recv()
        while True:
            columns, ids = connection.recv()
            answer: Any
            try:
                documents = map(Document, *columns)
                answer = encoder.encode(list(map(Example, documents, ids or itertools.repeat(None))))
            except Exception as error:
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        return
