"""Rotary settings of config.json with the keys of transformers 4 and 5, and the settings that we write."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from xalign_jax.errors import UserError
from xalign_jax.interop.architectures.rope import read_longest, read_rope, write_longest, write_rope
from xalign_jax.interop.mapping import Settings
from xalign_jax.models.rotary import RopeScaling

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
YARN = {"factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 256}
KINDS = {"linear": {"factor": 2.0}, "dynamic": {"factor": 2.0}, "llama3": LLAMA3, "yarn": YARN}


def read(**values):
    settings = Settings(Path("config.json"), {"max_position_embeddings": 1024} | values)
    theta, scaling, fraction = read_rope(settings, "rope_theta", "partial")
    return theta, scaling, fraction, read_longest(settings, scaling, 7)


def test_without_scaling_there_are_a_base_and_a_share():
    assert read() == (1e4, None, None, 1024)
    assert read(rope_theta=5e5, partial=0.25) == (5e5, None, 0.25, 1024)
    assert read(rope_parameters={"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}) == (
        5e5, None, 0.5, 1024,
    )  # fmt: skip
    assert read(rope_theta=3.0, rope_parameters={"rope_theta": 2.0})[0] == 2.0  # what is newer counts
    with pytest.raises(UserError, match="rope_parameters of 'full_attention' alone are not implemented"):
        read(rope_parameters={"full_attention": {"rope_type": "default"}})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_from_both_keys_and_written_as_it_was(kind):
    options = {"rope_type": kind} | KINDS[kind]
    theta, scaling, _, longest = read(rope_theta=2e4, rope_scaling=options)
    assert scaling.kind == kind and scaling.factor == options["factor"] and theta == 2e4
    assert longest == (2048 if kind == "dynamic" else 1024)
    original = {"llama3": 512, "yarn": 256, "dynamic": 1024}.get(kind)
    assert original is None or scaling.original_max_length == original
    assert read(rope_theta=2e4, rope_scaling={"type": kind} | KINDS[kind])[1] == scaling
    assert read(rope_parameters=options | {"rope_theta": 2e4})[:2] == (theta, scaling)
    config = types.SimpleNamespace(rope_scaling=scaling, max_length=longest)
    written = write_rope(theta, scaling)
    assert write_longest(config) == 1024 and written["rope_theta"] == 2e4
    assert written["rope_scaling"].items() >= options.items() and None not in written["rope_scaling"].values()
    assert read(**written)[:2] == (theta, scaling)


def test_lengths_that_are_not_given_follow_from_others():
    def without(kind, *names):
        return {"rope_type": kind} | {key: value for key, value in KINDS[kind].items() if key not in names}

    assert read(rope_scaling=without("llama3", "original_max_position_embeddings"))[1].original_max_length == 1024
    assert read(rope_scaling=without("yarn", "factor"))[1].factor == 4.0  # 1024 over 256
    with pytest.raises(UserError, match="rope linear: no 'factor'"):
        read(rope_scaling=without("linear", "factor"))
    assert write_rope(1e4, None) == {"rope_theta": 1e4, "rope_scaling": None}
    assert write_longest(types.SimpleNamespace(rope_scaling=None, max_length=99)) == 99


def test_kinds_and_options_that_are_not_implemented_are_named():
    with pytest.raises(UserError, match="rope_type = 'longrope' is not implemented"):
        read(rope_scaling={"rope_type": "longrope", "factor": 2.0})
    with pytest.raises(UserError, match="rope linear: odd = 3 is not implemented"):
        read(rope_scaling={"rope_type": "linear", "factor": 2.0, "odd": 3})
    assert read(rope_scaling={"rope_type": "linear", "factor": 2.0, "beta_fast": 1})[1] == RopeScaling(
        kind="linear", factor=2.0
    )  # another kind's option means nothing here
