"""The one exception that users are meant to see."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or configuration: one line that names the place (file:line or gin binding) and what to do."""


class RunError(Exception):
    """A run that started well and failed (a non-finite loss, say): one line, recorded in the model directory."""
