"""The exceptions that users are meant to see: their text is the one line that they read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or configuration: one line that names the place (file:line or gin binding) and what to do."""


class RunError(Exception):
    """A run that started well and failed (a non-finite loss, say): one line, recorded in the model directory."""


def one_line(error: BaseException, most: int | None = 200) -> str:
    """The text of an exception on one line, cut after `most` characters; None keeps all of it."""
    return " ".join(str(error).split())[:most]


def install(extra: str) -> str:
    """How to install an extra of this package. No package index has it, so the way is from a clone."""
    return f"in the clone of xalign_jax, pip install -e '.[{extra}]'"
