"""The process that prepares data. It joins `data`, which reads files, and `tasks`, which opens what seqio knows.

`data.store.store.prepare` starts it as a process of its own, because seqio loads TensorFlow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store import prepare
from xalign_jax.data.store.request import CACHE_ERROR, USER_ERROR
from xalign_jax.data.store.store import Texts
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import RunError, UserError, install


def main(argument: str) -> None:
    """Serve one request (JSON).

    On failure the last line of stdout is {"error": line}. The exit code is USER_ERROR for a UserError, and CACHE_ERROR
    if files of the cache cannot be read or written, or an engine failed.
    """
    request = json.loads(argument)
    cache = Path(request["cache"])
    try:
        if "mixture" in request:
            print(json.dumps(_rates(request["mixture"], request["modules"])))
            return
        vocabulary = Vocabulary(**request["vocabulary"])
        cleaning = Cleaning(**request["cleaning"]) if request.get("cleaning") else None
        engine = _engine(request["pipeline"]) if request.get("pipeline") else None
        prepare.run(Texts(vocabulary, request["tasks"], cache, cleaning), request["modules"], open_task, engine)
    except (UserError, RunError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(USER_ERROR if isinstance(error, UserError) else CACHE_ERROR)
    except OSError as error:
        # numpy gives no reason for a file that is cut short.
        said = error.strerror or f"{error}; the disk may be full"
        line = f"{error.filename or cache}: {said}; the cache is {cache} ($XALIGN_CACHE)"
        print(json.dumps({"error": line}), flush=True)
        sys.exit(CACHE_ERROR)


def _engine(options: Sequence[str]) -> Callable[[prepare.Work], None]:
    """Makes stores on an engine of Apache Beam. Raises UserError if apache_beam is not installed."""
    try:
        from xalign_jax.data.store import beam
    except ImportError as error:
        raise UserError(
            f"--pipeline_options: needs the package apache_beam in an environment of its own ({error}): {install('beam')}"
        ) from None
    return beam.engine(options)


def _rates(mixture: str, modules: list[str]) -> list[tuple[str, float]]:
    """The Tasks of a seqio Mixture that a module registers, with their rates."""
    prepare.import_modules(modules)
    from xalign_jax.tasks import mixture_rates

    return mixture_rates(mixture)


def open_task(task: str, digest: str) -> Any:
    """The reader of a task of seqio; `digest`: a hash of the modules that may have registered it."""
    from xalign_jax.tasks import open_task as open_seqio  # takes ten seconds, and files do not need it

    return open_seqio(task, digest)
