"""`python -m xalign_jax.cli` is `xalign`."""

from xalign_jax.cli import main

if __name__ == "__main__":
    main()
