"""Eight simulated devices, quick compilation and a cache of the session's own, all set before JAX is imported.

Processes that tests start inherit them. XLA_FLAGS that are set already stay: with
`XLA_FLAGS=--xla_force_host_platform_device_count=8` everything is compiled as for users.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile

import gin
import pytest

# Tests compile much and compute little: without LLVM's optimisations, and with the older of XLA's two ways to emit a
# fusion, a step compiles in a quarter of the time.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK}")

if "XALIGN_CACHE" not in os.environ:
    os.environ["XALIGN_CACHE"] = tempfile.mkdtemp(prefix="xalign-tests-")
    atexit.register(shutil.rmtree, os.environ["XALIGN_CACHE"], ignore_errors=True)

# What one process has compiled the others need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["XALIGN_CACHE"], "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True)
def no_gin_bindings():
    """No test leaves what its gin files bound to others."""
    yield
    gin.clear_config()


def pytest_collection_modifyitems(items):
    """The room with the longest tests first: none of them is left for one of two workers at the end."""
    items.sort(key=lambda item: "training" not in item.path.parts)


def pytest_collection_finish():
    """Modules stay until the end; collections of garbage need not walk them each time."""
    gc.freeze()
