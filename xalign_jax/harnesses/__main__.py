"""`python -m xalign_jax.harnesses` is the command `lm_eval`, with `--model xalign` known to it."""

from __future__ import annotations

import sys

from xalign_jax.errors import RunError, UserError


def main() -> None:
    """Run lm-evaluation-harness on the command line's arguments. Errors for the user are one line."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import xalign_jax.harnesses.lm_eval  # noqa: F401  # registers the model

        cli_evaluate()
    except (UserError, RunError) as error:
        print(f"xalign: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
