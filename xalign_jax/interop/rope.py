"""Rotary positions in config.json: transformers 5 (`rope_parameters`) and 4 (`rope_theta`, `rope_scaling`)."""

from __future__ import annotations

from typing import Any

from xalign_jax.errors import UserError
from xalign_jax.interop.mapping import Settings
from xalign_jax.models.rotary import KINDS, RopeScaling

# Theirs -> ours, beside rope_type, rope_theta and partial_rotary_factor.
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
      UserError: a kind or an option that is not implemented.
    """
    old_theta, old_fraction = settings.get(theta_key, None), settings.get(fraction_key, None)
    given = dict(settings.get("rope_parameters", None) or {})
    given |= {key: value for key, value in (settings.get("rope_scaling", None) or {}).items() if key not in given}
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    theta = given.pop("rope_theta", old_theta)
    fraction = given.pop("partial_rotary_factor", old_fraction)
    theta = 1e4 if theta is None else float(theta)
    if kind == "default":
        for key, value in given.items():
            if isinstance(value, dict):
                raise UserError(f"{settings.file}: rope_parameters of {key!r} alone are not implemented")
        return theta, None, fraction
    if kind not in KINDS:
        raise UserError(f"{settings.file}: rope_type = {kind!r} is not implemented; only {', '.join(KINDS)}")
    unknown = sorted(key for key in given if key not in _OF_KIND[kind] and key not in _NAMES)
    if unknown:
        raise UserError(f"{settings.file}: rope {kind}: {unknown[0]} = {given[unknown[0]]!r} is not implemented")
    options = {_NAMES[key]: given[key] for key in _OF_KIND[kind] if given.get(key) is not None}
    longest = settings.get("max_position_embeddings")
    if kind == "dynamic":
        options["original_max_length"] = longest
    elif kind != "linear":
        options.setdefault("original_max_length", longest)
    if kind == "yarn" and "factor" not in options:
        options["factor"] = longest / options["original_max_length"]
    if "factor" not in options:
        raise UserError(f"{settings.file}: rope {kind}: no 'factor'")
    return theta, RopeScaling(kind=kind, **options), fraction


def read_longest(settings: Settings, scaling: RopeScaling | None, default: int) -> int:
    """Longest sequence. With "dynamic", their max_position_embeddings is the length of the first training."""
    longest = settings.get("max_position_embeddings", default)
    return int(longest * scaling.factor) if scaling is not None and scaling.kind == "dynamic" else longest


def write_longest(config: Any) -> int:
    """Their max_position_embeddings."""
    scaling = config.rope_scaling
    return scaling.original_max_length if scaling is not None and scaling.kind == "dynamic" else config.max_length


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys of transformers 4, which 5 reads as well."""
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    values = {key: getattr(scaling, _NAMES[key]) for key in _OF_KIND[scaling.kind]}
    if scaling.kind == "dynamic":
        del values["original_max_position_embeddings"]  # theirs is max_position_embeddings
    kept = {key: value for key, value in values.items() if value is not None}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": scaling.kind, **kept}}
