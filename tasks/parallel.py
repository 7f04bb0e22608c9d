"""Pairs of translations: OPUS and ParaCrawl."""

from __future__ import annotations

from xalign_jax.tasks.examples import as_groups
from xalign_jax.tasks.registration import register_mixture, register_ready

OPUS = ("medical", "law", "koran", "IT", "subtitles")
PARA_CRAWL = [
    "bg",
    "cs",
    "da",
    "de",
    "el",
    "es",
    "et",
    "fi",
    "fr",
    "ga",
    "hr",
    "hu",
    "it",
    "lt",
    "lv",
    "mt",
    "nl",
    "pl",
    "pt",
    "ro",
    "sk",
    "sl",
    "sv",
]

for _name in OPUS:
    register_ready(f"opus.{_name}", f"opus/{_name}:0.1.0", as_groups)
register_mixture(
    "opus", [f"opus.{_name}" for _name in OPUS], "OPUS, German and English pairs of five domains; opus.medical is one."
)

for _name in PARA_CRAWL:
    register_ready(f"para_crawl.en{_name}", f"para_crawl/en{_name}:1.2.0", as_groups)
register_mixture(
    "para_crawl",
    [f"para_crawl.en{_name}" for _name in PARA_CRAWL],
    f"ParaCrawl, English and {len(PARA_CRAWL)} languages in pairs; para_crawl.ende is one pair.",
)
