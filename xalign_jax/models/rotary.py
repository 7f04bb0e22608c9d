"""Rotary positions (Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2), and how published models stretch them.

Dimensions of a head form pairs. Pair i is turned by the angle position * theta^(-2i / dims). The product of a query and
a key then depends on their positions only through the distance.
"""

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
    """Slows rotary frequencies down for texts longer than those of the original training.

    Kinds:

    - "linear" divides all frequencies by `factor` (Chen et al. 2023, arXiv 2306.15595).
    - "dynamic" raises theta with the length of each segment, once that exceeds `original_max_length` (NTK-aware scaling
      by bloc97, made dynamic by emozilla).
    - "llama3" divides the slow frequencies, whose waves are longer than the original texts (Llama 3.1).
    - "yarn" divides the slow frequencies and sharpens attention (Peng et al. 2023, arXiv 2309.00071).

    Attributes:
      kind: one of the four.
      factor: the new length over the original length.
      original_max_length: longest text of the original training, in tokens; "linear" does not need it.
      low_freq_factor, high_freq_factor: for llama3. A pair that turns fewer than `low_freq_factor` times over the
        original length is divided. One that turns more than `high_freq_factor` times is kept. Between them, both are
        blended.
      beta_slow, beta_fast: for yarn, the same as the two above; the blend is linear in the pair's index.
      attention_factor: for yarn, multiplies cos and sin; None = 0.1 ln(factor) + 1, or the value of the next two.
      mscale, mscale_all_dim: for yarn; if both are given, the attention factor is 0.1 mscale ln(factor) + 1 divided by
        the same expression of mscale_all_dim.
      truncate: for yarn, the blend begins and ends at whole indices.
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
        """The factor of cos and sin: 1 except for yarn. Scores grow by its square."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharpened(self.mscale) / self._sharpened(self.mscale_all_dim)
        return self._sharpened(1.0)

    # YaRN, section 3.4: 0.1 ln(factor) + 1 for mscale = 1.
    def _sharpened(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0


def frequencies(dims: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians per position of each pair of `dims` rotated dimensions: (dims/2,) float32.

    With "dynamic" scaling, these are the frequencies within the original length (`tables` stretches them).
    """
    # In float32, as the Hugging Face code computes them. More exact ones would give other angles after some ten
    # thousand positions.
    plain = 1.0 / np.power(np.float32(theta), np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))
    if scaling is None or scaling.kind == "dynamic":
        return plain
    # Each kind says which share of a frequency is kept; the rest of it is divided by the factor.
    kept = {"linear": _kept_linear, "llama3": _kept_llama3, "yarn": _kept_yarn}[scaling.kind](scaling, plain, theta)
    return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


@jax.named_scope("rotary_tables")
def tables(
    positions: jax.Array, segment_ids: jax.Array, dims: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the angles: (B,T,1,dims/2) float32 each; the axis of size 1 stands for the heads.

    Args:
      positions: (B,T) int32, from 0 in each segment.
      segment_ids: (B,T) int32; only "dynamic" scaling reads them. A segment's length is its highest position + 1.
      dims: rotated dimensions of each head, even.
      theta: base of the frequencies, usually 10,000 or more.
    """
    # (B,T,1,1) x (dims/2,) -> (B,T,1,dims/2), in float32: bfloat16 cannot tell large positions apart.
    angles = positions[..., None, None].astype(jnp.float32) * frequencies(dims, theta, scaling)
    if scaling is None:
        return jnp.cos(angles), jnp.sin(angles)
    # "dynamic" depends on the lengths of a batch, so it is applied to the angles and not to the frequencies.
    if scaling.kind == "dynamic":
        angles *= _dynamic_slowing(positions, segment_ids, dims, scaling)
    return jnp.cos(angles) * scaling.attention_scale, jnp.sin(angles) * scaling.attention_scale


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x (B,T,heads,head_dim) with its first 2 * half dimensions turned, where `half` is the width of cos and sin.

    The pairs are (i, i + half), as in the Hugging Face code; the paper pairs neighbours.
    """
    half = cos.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    # A rotation of each pair (first, second) by its angle.
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _kept_linear(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    """(dims/2,): the share of each plain frequency that is kept. "linear" keeps nothing."""
    return np.zeros_like(plain)


def _kept_llama3(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    # (dims/2,): how often each pair turns over the original length.
    turns = cast(int, scaling.original_max_length) * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns - low) / (high - low), 0, 1)


def _kept_yarn(scaling: RopeScaling, plain: np.ndarray, theta: float) -> np.ndarray:
    # YaRN, section 3.2. A pair makes turns = original theta^(-2 i / dims) / (2 pi); `index` solves this for i.
    dims, original = 2 * len(plain), cast(int, scaling.original_max_length)

    def index(turns: float) -> float:
        """The index of the pair that turns so many times over the original length, a fraction."""
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    # As the Hugging Face code limits them: dims - 1, although there are only dims / 2 pairs.
    low, high = max(low, 0), min(high, dims - 1)
    slope = high - low or 0.001  # almost a step, if the blend has no width
    return (1 - np.clip((np.arange(len(plain)) - low) / slope, 0, 1)).astype(np.float32)


def _dynamic_slowing(positions: jax.Array, segment_ids: jax.Array, dims: int, scaling: RopeScaling) -> jax.Array:
    """Factors (B,T,1,dims/2) of the angles. They amount to multiplying theta by stretch^(dims / (dims - 2))."""
    # (B,T,T) -> (B,T): the length of the segment of each token.
    together = segment_ids[:, :, None] == segment_ids[:, None, :]
    length = 1 + jnp.max(jnp.where(together, positions[:, None, :], 0), axis=-1)
    original = cast(int, scaling.original_max_length)
    # 1 up to the original length, and from there linear in the length.
    stretch = scaling.factor * jnp.maximum(length, original) / original - (scaling.factor - 1)
    # Pair i has the frequency theta^(-2 i / dims). The factor of theta becomes a factor of the frequency, which is
    # stretch^(-2 i / (dims - 2)) = stretch^(-i / (pairs - 1)).
    pairs = dims // 2
    return stretch[..., None, None] ** -(jnp.arange(pairs) / max(pairs - 1, 1))
