"""Cross-lingual alignment before and during pretraining, in JAX.

import xalign_jax as xa
model = xa.load("e5-small/")
model.encode(["Hello", "Hallo"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["load", "train"]

if TYPE_CHECKING:
    from xalign_jax.api import load, train


def __getattr__(name: str) -> object:
    """`load` and `train`, imported when they are first used: `import xalign_jax` alone imports nothing else."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xalign_jax import api

    return getattr(api, name)
