"""The language in which a text is written, by py3langid (extra `clean`)."""

from __future__ import annotations

import functools
from typing import Any

from xalign_jax.errors import UserError, install

_LEAST = 20  # characters of `comparable` below which a text is not judged


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        raise UserError(f"Cleaning.language needs py3langid: {install('clean')}") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def known(language: str) -> str | None:
    """The name that py3langid has for a language ("pt" for "pt-BR"); None if it does not know the language."""
    base = language.replace("_", "-").partition("-")[0].lower()
    return base if base in {str(label) for label in _identifier().labels} else None


def is_other(text: str, language: str, probability: float) -> bool:
    """Whether a text is in another language with at least this probability. Short texts are never."""
    expected = known(language)
    if expected is None or len(text) < _LEAST:
        return False
    found, certain = _identifier().classify(text)
    return found != expected and certain >= probability
