"""Published peak rates, for model-FLOPs utilisation."""

from __future__ import annotations

import jax

# Dense bfloat16 FLOP/s of one device, by a part of `device_kind`; from the vendors' data sheets.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}


def peak_flops() -> float | None:
    """Peak FLOP/s over all devices of the run, or None where no published figure applies (CPUs)."""
    kind = jax.devices()[0].device_kind
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)
    return None if peak is None else peak * jax.device_count()
