"""Eight simulated devices, quick compilation and a cache of the session's own, all set before JAX is imported.

Processes that tests start inherit them. XLA_FLAGS that are set already stay: with
`XLA_FLAGS=--xla_force_host_platform_device_count=8` everything is compiled as for users.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import gin
import pytest

# Tests compile much and compute little: without LLVM's optimisations, and with the older of XLA's two ways to emit a
# fusion, a step compiles in a quarter of the time. JAX 0.12 has only the newer way left.
FLAGS = ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0")
FLAGS += ("--xla_cpu_use_fusion_emitters=false",)


def known_flags(flags: tuple[str, ...] = FLAGS) -> list[str]:
    """The flags that the installed XLA knows. It ends the process at a flag that it does not know.

    XLA's library holds the name of each flag as a string that ends with 0, and no function lists them.
    """
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    with (
        (Path(folder) / "libjax_common.so").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
    ):
        names = {flag: flag.removeprefix("--").partition("=")[0] for flag in flags}
        return [flag for flag, name in names.items() if library.find(f"\0{name}\0".encode()) >= 0]


os.environ.setdefault("XLA_FLAGS", " ".join(known_flags()))

if "XALIGN_CACHE" not in os.environ:
    os.environ["XALIGN_CACHE"] = tempfile.mkdtemp(prefix="xalign-tests-")
    atexit.register(shutil.rmtree, os.environ["XALIGN_CACHE"], ignore_errors=True)

# What one process has compiled the others need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["XALIGN_CACHE"], "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


MOST_REGIONS = 30_000  # a test of training maps about 80


@pytest.fixture(autouse=True)
def no_gin_bindings():
    """No test leaves what its gin files bound to others."""
    yield
    gin.clear_config()


@pytest.fixture(autouse=True, scope="module")
def few_mapped_regions():
    """Compiled programs are dropped in time. Linux lets a process map 65,530 regions, and XLA crashes at the next one."""
    yield
    regions = Path("/proc/self/maps")
    if regions.exists() and regions.read_bytes().count(b"\n") > MOST_REGIONS:
        import jax

        jax.clear_caches()
        gc.collect()


def pytest_collection_modifyitems(items):
    """The room with the longest tests first: none of them is left for one of two workers at the end."""
    items.sort(key=lambda item: "training" not in item.path.parts)


def pytest_collection_finish():
    """Modules stay until the end; collections of garbage need not walk them each time."""
    gc.freeze()


@pytest.fixture
def transport(monkeypatch):
    """POT without its back ends, which take half a minute to import."""
    for name in ("PYTORCH", "TENSORFLOW", "JAX", "CUPY"):
        monkeypatch.setenv(f"POT_BACKEND_DISABLE_{name}", "1")
    return pytest.importorskip("ot")
