"""Rotary positions (Su et al. 2021) and the ways of stretching them to longer texts that published models use."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import gin
import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, one_of, within

KINDS = ("linear", "dynamic", "llama3", "yarn")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are slowed down for texts longer than those of the first training.

    Attributes:
      kind: "linear": all by `factor` (Chen et al. 2023). "dynamic": the base grows with a segment's own length once
        that exceeds `original_max_length` (NTK-aware; bloc97, emozilla). "llama3": the slow ones, whose waves are
        longer than the first texts (Llama 3.1). "yarn": the slow ones, and attention is sharpened (Peng et al. 2023).
      factor: by how much texts are longer.
      original_max_length: longest text of the first training, in tokens; "linear" needs none.
      low_freq_factor, high_freq_factor: llama3: a pair that turns fewer times than the first over the original length
        is slowed down, one that turns more often than the second is not; between them the two are blended.
      beta_slow, beta_fast: yarn: the same as the two above; the blend is linear in the pair's index.
      attention_factor: yarn: cos and sin are multiplied by it; None = 0.1 ln(factor) + 1, or what `mscale` says.
      mscale, mscale_all_dim: yarn: if both are given, (0.1 mscale ln(factor) + 1) / the same of mscale_all_dim.
      truncate: yarn: the blend begins and ends at whole indices.
    """

    kind: str = gin.REQUIRED
    factor: float = gin.REQUIRED
    original_max_length: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "kind", KINDS)
        at_least_one(self, "original_max_length")
        within(self, "(0, inf)", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
        within(self, "(0, inf)", "attention_factor")
        within(self, "[0, inf)", "mscale", "mscale_all_dim")
        if self.kind != "linear" and self.original_max_length is None:
            raise UserError(f"RopeScaling.original_max_length: kind = {self.kind!r} needs it")

    @property
    def attention_scale(self) -> float:
        """What cos and sin are multiplied by: 1 except for yarn."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharpened(self.mscale) / self._sharpened(self.mscale_all_dim)
        return self._sharpened(1.0)

    def _sharpened(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0


def frequencies(dims: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians per position of each pair of `dims` rotated dimensions: (dims/2,) float32.

    Of "dynamic" scaling, those of texts within the original length.
    """
    # In float32, as the Hugging Face code computes them: exact ones would differ after some ten thousand positions.
    plain = 1.0 / np.power(np.float32(theta), np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))
    if scaling is None or scaling.kind == "dynamic":
        return plain
    kept = {"linear": _kept_linear, "llama3": _kept_llama3, "yarn": _kept_yarn}[scaling.kind](scaling, plain, theta)
    return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


def tables(
    positions: jax.Array, segment_ids: jax.Array, dims: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin (B,T,1,dims/2) float32 of the angles at positions (B,T) of the segments (B,T).

    Only "dynamic" scaling looks at the segments: each has the length of its highest position + 1.
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies(dims, theta, scaling)
    if scaling is None:
        return jnp.cos(angles), jnp.sin(angles)
    if scaling.kind == "dynamic":
        angles *= _dynamic_slowing(positions, segment_ids, dims, scaling)
    return jnp.cos(angles) * scaling.attention_scale, jnp.sin(angles) * scaling.attention_scale


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the first dimensions of x (B,T,heads,head_dim), as many as twice the tables' width `half`.

    The pairs are (i, i + half), as in the Hugging Face code.
    """
    half = cos.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _kept_linear(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    """The share (dims/2,) of each plain frequency that is kept; the rest is divided by the factor."""
    return np.zeros_like(plain)


def _kept_llama3(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    turns = cast(int, scaling.original_max_length) * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns - low) / (high - low), 0, 1)


def _kept_yarn(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    dims, original = 2 * len(plain), cast(int, scaling.original_max_length)

    def index(turns: float) -> float:
        """Of the pair that turns so many times over the original length."""
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    slope = high - low or 0.001  # a step, where the blend has no width
    return (1 - np.clip((np.arange(len(plain)) - low) / slope, 0, 1)).astype(np.float32)


def _dynamic_slowing(positions: jax.Array, segment_ids: jax.Array, dims: int, scaling: RopeScaling) -> jax.Array:
    """Factors (B,T,1,dims/2) of the angles, which make theta grow by the power dims / (dims - 2) of the stretch."""
    together = segment_ids[:, :, None] == segment_ids[:, None, :]
    length = 1 + jnp.max(jnp.where(together, positions[:, None, :], 0), axis=-1)
    original = cast(int, scaling.original_max_length)
    stretch = scaling.factor * jnp.maximum(length, original) / original - (scaling.factor - 1)
    pairs = dims // 2
    return stretch[..., None, None] ** -(jnp.arange(pairs) / max(pairs - 1, 1))
