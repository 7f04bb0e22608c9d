"""Texts with translations into many languages: TED talks."""

from __future__ import annotations

import functools

from xalign_jax.tasks.examples import as_groups
from xalign_jax.tasks.registration import register_ready

register_ready(
    "ted_multi_translate",
    "ted_multi_translate:1.1.0",
    functools.partial(as_groups, keys=("translations",)),
    about="TED talks in 60 languages: the translations of a sentence form one group.",
)
