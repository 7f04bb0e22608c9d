"""Eight simulated devices and a cache of the session's own, both set before JAX is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import gin
import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

if "XALIGN_CACHE" not in os.environ:
    os.environ["XALIGN_CACHE"] = tempfile.mkdtemp(prefix="xalign-tests-")
    atexit.register(shutil.rmtree, os.environ["XALIGN_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_gin_bindings():
    """No test leaves what its gin files bound to others."""
    yield
    gin.clear_config()
