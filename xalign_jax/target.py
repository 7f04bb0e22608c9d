"""The devices that a program is made for: JAX's own, or the devices of an absent machine (`xalign compile`).

Models and objectives choose block sizes by the platform and the number of devices. They ask this module instead of JAX,
so that a step can be lowered for another machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_machine: ContextVar[tuple[str, int] | None] = ContextVar("machine", default=None)  # (platform, devices); None = here


def platform() -> str:
    """The platform of the target: "cpu", "gpu" or "tpu"."""
    machine = _machine.get()
    return jax.default_backend() if machine is None else machine[0]


def device_count() -> int:
    """The number of devices of the target."""
    machine = _machine.get()
    return jax.device_count() if machine is None else machine[1]


@contextlib.contextmanager
def lowering_for(platform: str, devices: int) -> Iterator[None]:
    """Within this context, functions are traced for another machine."""
    token = _machine.set((platform, devices))
    try:
        yield
    finally:
        _machine.reset(token)
