"""Every reader that is fuzzed. A module of this package defines READERS, a list of `harness.Reader`."""

from __future__ import annotations

import importlib
import pkgutil

from fuzz.harness import Reader


def all_readers() -> dict[str, Reader]:
    """The readers by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {reader.name: reader for module in modules for reader in module.READERS}
