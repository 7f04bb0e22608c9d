"""Rotary positions in config.json: transformers 5 (`rope_parameters`) and 4 (`rope_theta`, `rope_scaling`)."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.interop.settings import Settings, bare, is_number, shown
from xalign_jax.models.rotary import KINDS, RopeScaling, frequencies


class Rotary(Protocol):
    """The fields of a configuration that describe its rotary positions."""

    @property
    def rope_theta(self) -> float: ...

    @property
    def rope_scaling(self) -> RopeScaling | None: ...

    @property
    def max_length(self) -> int: ...


# Names of options, theirs -> ours. rope_type, rope_theta and partial_rotary_factor are read apart.
_NAMES = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_length",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}
# Kind of scaling -> its options in config.json, by their names.
_OF_KIND = {
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}


def read_rope(settings: Settings, theta_key: str, fraction_key: str) -> tuple[float, RopeScaling | None, float | None]:
    """(theta, scaling, rotated share of a head or None where none is given); the keys are those of transformers 4.

    Raises:
      UserError: a kind or an option is not implemented.
    """
    # Two places may hold the options. The newer one counts where both have a value; nulls do not count.
    old_theta, old_fraction = settings.number(theta_key, None), settings.number(fraction_key, None)
    given = dict(settings.table("rope_parameters"))
    given |= {key: value for key, value in settings.table("rope_scaling").items() if key not in given}
    given = {key: value for key, value in given.items() if value is not None}
    # transformers 4 called the kind "type" at first.
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    # A value among the options goes before the older key of its own.
    theta = _number(settings, given, "rope_theta", 1e4 if old_theta is None else old_theta)
    fraction = _number(settings, given, "partial_rotary_factor", old_fraction)
    if not theta:
        raise UserError(f"{settings.file}: a rotary base of 0 (rope_theta)")
    if kind == "default":
        # Rotary settings by kind of layer are nested objects.
        for key, value in given.items():
            if isinstance(value, dict):
                raise UserError(f"{settings.file}: rope_parameters of {bare(key)!r} alone are not implemented")
        return float(theta), None, fraction
    if kind not in KINDS:
        raise UserError(f"{settings.file}: rope_type = {shown(kind)} is not implemented; only {', '.join(KINDS)}")
    # Options that belong to another kind are ignored, as in transformers; unknown ones are refused.
    unknown = sorted(key for key in given if key not in _OF_KIND[kind] and key not in _NAMES)
    if unknown:
        raise UserError(
            f"{settings.file}: rope {kind}: {bare(unknown[0])} = {shown(given[unknown[0]])} is not implemented"
        )
    return float(theta), _scaling(settings, kind, given), fraction


def _scaling(settings: Settings, kind: str, given: dict[str, Any]) -> RopeScaling:
    """The scaling of a kind from the options of config.json."""
    # The length of the first training: for "dynamic" always their longest sequence, for others only where no option
    # says it.
    options = {_NAMES[key]: _number(settings, given, key) for key in _OF_KIND[kind] if key in given}
    longest = settings.whole("max_position_embeddings")
    if kind == "dynamic":
        options["original_max_length"] = longest
    elif kind != "linear":
        options.setdefault("original_max_length", longest)
    if kind == "yarn" and "factor" not in options:
        options["factor"] = longest / options["original_max_length"]
    if "factor" not in options:
        raise UserError(f"{settings.file}: rope {kind}: no 'factor'")
    return RopeScaling(kind=kind, **options)


def _number(settings: Settings, given: dict[str, Any], key: str, default: Any = None) -> Any:
    """Take a number, or yarn's flag, out of the options of a rotary kind.

    Raises:
      UserError: it has another type, or is 0 where numbers are divided by it.
    """
    value = given.pop(key, default)
    right = isinstance(value, bool) if key == "truncate" else value is None or is_number(value)
    if not right or (value == 0 and key in ("factor", "original_max_position_embeddings")):
        raise UserError(f"{settings.file}: {key} = {shown(value)} of rotary positions is not implemented")
    return value


def same_frequencies(dims: int, config: Rotary, tensor: np.ndarray) -> bool:
    """Whether a stored buffer holds a model's rotary frequencies, before or after scaling, in any precision."""
    if tensor.size != dims // 2:
        return False
    held = tensor.reshape(-1).astype(np.float32)
    # Some checkpoints stored the frequencies before scaling, others after it.
    ways = (frequencies(dims, config.rope_theta, scaling) for scaling in (None, config.rope_scaling))
    return any(np.allclose(held, way, rtol=1e-2, atol=1e-6) for way in ways)


def read_longest(settings: Settings, scaling: RopeScaling | None, default: int) -> int:
    """The longest sequence. With "dynamic", their max_position_embeddings is the length of the first training."""
    longest = settings.whole("max_position_embeddings", default)
    return int(longest * scaling.factor) if scaling is not None and scaling.kind == "dynamic" else longest


def write_longest(config: Rotary) -> int:
    """Their max_position_embeddings, the inverse of `read_longest`."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "dynamic":
        return config.max_length
    # Every kind but "linear" has it.
    return cast(int, scaling.original_max_length)


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys of transformers 4, which transformers 5 reads too."""
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    # Only the options of the kind; None is an option that was not given.
    values = {key: getattr(scaling, _NAMES[key]) for key in _OF_KIND[scaling.kind]}
    if scaling.kind == "dynamic":
        # Theirs is max_position_embeddings.
        del values["original_max_position_embeddings"]
    kept = {key: value for key, value in values.items() if value is not None}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": scaling.kind, **kept}}
