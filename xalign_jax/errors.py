"""The exceptions that users are meant to see. Commands print their text as one line, without a traceback."""

from __future__ import annotations

import re

_PASSING = re.compile(
    r"unavailable|deadline.exceeded|aborted|timed? ?out|connection|broken pipe|too many requests|internal server error"
    r"|bad gateway|backend error",
    re.IGNORECASE,
)


class UserError(Exception):
    """Bad input or configuration. The text is one line with the place (file:line or gin binding) and what to do."""

    code = 2  # exit code of the command


class RunError(Exception):
    """A run that began to train and failed, for example by a non-finite loss. The model directory records the text."""

    code = 1


class PassingError(RunError):
    """A run that failed by a cause outside of it: a lost process, the network, the storage. It may work when repeated."""

    code = 4


def run_error(text: str, cause: BaseException) -> RunError:
    """A PassingError if the cause's text speaks of the network or of a server that is busy, otherwise a RunError."""
    return PassingError(text) if may_pass(cause) else RunError(text)


def may_pass(cause: BaseException) -> bool:
    """Whether the text of an exception of a storage library or of JAX speaks of the network or of a busy server."""
    return _PASSING.search(str(cause)) is not None


def one_line(error: BaseException, most: int | None = 200) -> str:
    """The text of an exception on one line, cut after `most` characters; None keeps all of it."""
    return " ".join(str(error).split())[:most]


def install(extra: str) -> str:
    """How to install an extra of this package: from a clone, because no package index has the package."""
    return f"in the clone of xalign_jax, pip install -e '.[{extra}]'"
