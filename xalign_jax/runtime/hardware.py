"""Published figures of chips, for model-FLOPs utilisation and for rooflines."""

from __future__ import annotations

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one chip; for GPUs, of one card.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      hbm: bytes of memory.   hbm_rate: bytes/s that it reads from this memory.
      link_rate: bytes/s that it sends to its neighbours over all its links (half of a "bidirectional" figure).
      network_rate: bytes/s that it sends over the data-centre network, its share of its host's rate.
      source: the publication of these figures.
    """

    flops: float
    hbm: float
    hbm_rate: float
    link_rate: float
    network_rate: float
    source: str


GB = 1e9
GIB = 2.0**30

# Figures by a part of `device_kind`; the first match counts. Vendors write "16 GB" of memory and mean 16 GiB.
CHIPS = {
    # "GH200" holds "H200", and "H100 PCIe" holds "H100": the longer names come first.
    "GH200": Chip(
        989e12, 96 * GB, 4000 * GB, 450 * GB, 50 * GB, "NVIDIA GH200 data sheet (HBM3); network taken as DGX H100's"
    ),
    "H200": Chip(
        989e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, "NVIDIA H200 SXM data sheet; DGX H200: 400 Gbit/s a card"
    ),
    "H100 PCIe": Chip(
        756e12, 80 * GB, 2000 * GB, 300 * GB, 50 * GB, "NVIDIA H100 PCIe data sheet; network taken as DGX H100's"
    ),
    "H100": Chip(
        989e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, "NVIDIA H100 SXM data sheet; DGX H100: 400 Gbit/s a card"
    ),
    # "NVIDIA A100-SXM4-40GB" also holds "A100".
    "-40GB": Chip(
        312e12, 40 * GB, 1555 * GB, 300 * GB, 25 * GB, "NVIDIA A100 40GB data sheet; DGX A100: 200 Gbit/s a card"
    ),
    "A100": Chip(
        312e12, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, "NVIDIA A100 80GB SXM data sheet; DGX A100: 200 Gbit/s a card"
    ),
    "TPU v6": Chip(
        918e12,
        32 * GIB,
        1638 * GB,
        400 * GB,
        12.5 * GB,
        "cloud.google.com/tpu/docs/v6e: 25.6 Tbit/s a pod of 256 to the network",
    ),
    # v5p calls itself "TPU v5", v5e "TPU v5 lite".
    "TPU v5 lite": Chip(
        197e12,
        16 * GIB,
        819 * GB,
        200 * GB,
        3.125 * GB,
        "cloud.google.com/tpu/docs/v5e: 6.4 Tbit/s a pod of 256 to the network",
    ),
    "TPU v5": Chip(
        459e12,
        95 * GIB,
        2765 * GB,
        600 * GB,
        6.25 * GB,
        "cloud.google.com/tpu/docs/v5p: 50 Gbit/s a chip to the network",
    ),
    "TPU v4": Chip(
        275e12,
        32 * GIB,
        1200 * GB,
        300 * GB,
        6.25 * GB,
        "cloud.google.com/tpu/docs/v4; links: Jouppi et al. 2023 (arXiv 2304.01433), 6 x 50 GB/s; "
        "network taken as v5p's",
    ),
}


def chip(device_kind: str) -> Chip | None:
    """The figures of that kind of device; None if none are published (CPUs)."""
    return next((found for name, found in CHIPS.items() if name in device_kind), None)


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices of the run together; None if no figure is published (CPUs)."""
    found = chip(jax.devices()[0].device_kind)
    return None if found is None else found.flops * jax.device_count()
