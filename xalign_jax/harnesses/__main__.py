"""`python -m xalign_jax.harnesses` is the command `lm_eval`, with `--model xalign` known to it."""

from __future__ import annotations

import sys
from importlib import import_module

from xalign_jax.errors import RunError, UserError


def main() -> None:
    """Run lm-evaluation-harness on the command line's arguments. Errors for the user are one line."""
    try:
        import xalign_jax.harnesses.lm_eval  # noqa: F401  # registers the model

        command = import_module("lm_eval.__main__").cli_evaluate
        command()
    except (UserError, RunError) as error:
        print(f"xalign: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
