"""The exceptions that users are meant to see. Commands print their text as one line, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or configuration. The text is one line with the place (file:line or gin binding) and what to do."""


class RunError(Exception):
    """A run that began to train and failed, for example by a non-finite loss. The model directory records the text."""


def one_line(error: BaseException, most: int | None = 200) -> str:
    """The text of an exception on one line, cut after `most` characters; None keeps all of it."""
    return " ".join(str(error).split())[:most]


def install(extra: str) -> str:
    """How to install an extra of this package: from a clone, because no package index has the package."""
    return f"in the clone of xalign_jax, pip install -e '.[{extra}]'"
