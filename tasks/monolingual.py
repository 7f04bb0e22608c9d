"""Texts in one language each: Wikipedia and the web."""

from __future__ import annotations

import functools

from tensorflow_datasets.text.c4 import MC4_LANGUAGES

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.tasks.examples import as_text
from xalign_jax.tasks.registration import register_mixture, register_ready

WIKI40B = [
    "en",
    "ar",
    "zh-cn",
    "zh-tw",
    "nl",
    "fr",
    "de",
    "it",
    "ja",
    "ko",
    "pl",
    "pt",
    "ru",
    "es",
    "th",
    "tr",
    "bg",
    "ca",
    "cs",
    "da",
    "el",
    "et",
    "fa",
    "fi",
    "he",
    "hi",
    "hr",
    "hu",
    "id",
    "lt",
    "lv",
    "ms",
    "no",
    "ro",
    "sk",
    "sl",
    "sr",
    "sv",
    "tl",
    "uk",
    "vi",
]


def _text(language: str) -> functools.partial:
    return functools.partial(as_text, key="text", language=language)


for _code in WIKI40B:
    register_ready(f"wiki40b.{_code.replace('-', '_')}", f"wiki40b/{_code}:1.3.0", _text(normal_language(_code)))
register_mixture(
    "wiki40b",
    [f"wiki40b.{_code.replace('-', '_')}" for _code in WIKI40B],
    "Wiki-40B, cleaned Wikipedia in 41 languages; wiki40b.de is one of them.",
)

for _code in MC4_LANGUAGES:
    register_ready(
        f"mc4.{_code.replace('-', '_')}",
        "c4/multilingual:3.1.0",
        _text(normal_language(_code)),
        splits={"train": _code, "validation": f"{_code}-validation"},
    )
register_mixture(
    "mc4",
    [f"mc4.{_code.replace('-', '_')}" for _code in MC4_LANGUAGES],
    f"Multilingual C4, text from the web in {len(MC4_LANGUAGES)} languages; mc4.de is one of them.",
)
