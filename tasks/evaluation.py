"""Sets for evaluation. Those without a training split have none here either, so no run trains on them by mistake."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.files import AlignedLines
from xalign_jax.errors import UserError
from xalign_jax.recipe import resolve
from xalign_jax.tasks.examples import as_groups, as_sentences
from xalign_jax.tasks.registration import register_mixture, register_ready, register_source

PAWS_X = ["de", "en", "es", "fr", "ja", "ko", "zh"]
HELD_OUT = {"validation": "validation", "test": "test"}
# The language in the names of files: `ntrex/de.txt`, `flores/deu_Latn.devtest`, `newstest2019-ref.deu.txt`.
_LANGUAGE = re.compile(r"(?:newstest2019-(?:src|ref)\.)?([a-z]{2,3}(?:[-_][A-Za-z]{2,4})*)(?:\.[a-z]+)?(?:\.gz)?")

register_ready(
    "xnli",
    "xnli:1.1.0",
    functools.partial(as_groups, keys=("premise", "hypothesis")),
    splits=HELD_OUT,
    about="XNLI, premises and hypotheses in 15 languages; validation and test only.",
)

for _name in PAWS_X:
    register_ready(
        f"paws_x_wiki.{_name}",
        f"paws_x_wiki/{_name}:1.0.0",
        functools.partial(as_sentences, keys=("sentence1", "sentence2"), language=_name),
    )
register_mixture(
    "paws_x_wiki", [f"paws_x_wiki.{_name}" for _name in PAWS_X], "PAWS-X, sentences of paraphrases in 7 languages."
)

for _name in ("ne", "si"):
    register_ready(f"flores.{_name}en", f"flores/{_name}en:1.2.0", as_groups, splits=HELD_OUT)
register_mixture(
    "flores", ["flores.neen", "flores.sien"], "FLORES v1, Nepali and Sinhala with English; validation and test only."
)


def register_sentences(name: str, folder: str) -> None:
    """Register a folder of line-aligned files, one for each language, as FLORES-200 and NTREX come.

    The names of the files begin with the language: `de.txt`, `deu_Latn.dev`, `newstest2019-ref.deu.txt`. Other files,
    such as a list of documents, are left out.

    Raises:
      UserError: the folder has fewer than two such files, or two in one language.
    """
    found: dict[str, str] = {}
    for file in sorted(Path(resolve(folder)).glob("*")):
        stated = _LANGUAGE.fullmatch(file.name)
        if stated and file.is_file():
            language = normal_language(stated[1])
            if language in found:
                raise UserError(f"register_sentences({name!r}): {found[language]} and {file} are both in {language!r}")
            found[language] = str(file)
    if len(found) < 2:
        raise UserError(f"register_sentences({name!r}): {folder} holds no files such as de.txt and en.txt")
    register_source(name, AlignedLines(tuple(found.items())))
