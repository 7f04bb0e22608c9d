"""FreeDict's dictionaries: TEI files with an entry for each word of one language and its translations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xalign_jax.data.lexicon.filenames import fitting
from xalign_jax.data.text.lines import check_string
from xalign_jax.data.text.xml import LANGUAGE, elements
from xalign_jax.errors import UserError

_TRANSLATION = ("trans", "translation", "translationEquivalent")  # types of <cit>, in TEI P5 and in TEI Lex-0
_EXAMPLE = "example"


def read_tei(path: str, languages: tuple[str, ...]) -> Iterator[list[tuple[int, str]]]:
    """The words of each entry, (index into the languages, word) each: a headword and its translations.

    Translations of examples are left out. The languages that the file states (xml:lang) are checked.

    Raises:
      UserError: naming file and line; the file is damaged, has no entry, or states another language.
    """
    empty = lonely = True
    for entry in elements(path, "{*}entry"):
        empty = False
        found = [(_language(quote, path, languages), _word(quote, path)) for quote in _translations(entry)]
        lonely = lonely and not found
        for head in _headwords(entry):
            stated = _stated(head)
            if stated and languages[0] not in fitting(stated, languages):
                raise _foreign(head, path, stated, languages[0])
            yield [(0, _word(head, path)), *found]
    if empty:
        raise UserError(f"{path}: no dictionary of FreeDict: it has no <entry>")
    if lonely:
        raise UserError(
            f'{path}: no entry has a translation, <cit type="trans"> with a <quote>; definitions are not read'
        )


def _headwords(entry: Any) -> Iterator[Any]:
    """The <orth> elements of an entry. Inflected forms are left out, because the translations are not inflected."""
    for form in entry.iterchildren("{*}form"):
        for orth in form.iter("{*}orth"):
            around = (above.get("type") or "" for above in orth.iterancestors("{*}form"))
            if not any(kind.startswith("infl") for kind in around):
                yield orth


def _translations(entry: Any) -> Iterator[Any]:
    """The <quote> elements of an entry's translations."""
    for cit in entry.iter("{*}cit"):
        if cit.get("type") in _TRANSLATION:
            within = {above.get("type") for above in cit.iterancestors("{*}cit")}
            if _EXAMPLE not in within:
                yield from cit.iterchildren("{*}quote")


def _stated(element: Any) -> str | None:
    """The language that an element or one around it states, up to the body; the root states the header's language."""
    for around in (element, *element.iterancestors("{*}form", "{*}entry", "{*}body")):
        if around.get(LANGUAGE):
            return str(around.get(LANGUAGE))
    return None


def _language(quote: Any, path: str, languages: tuple[str, ...]) -> int:
    """The index of a translation's language. A file of two languages need not state it."""
    stated = quote.get(LANGUAGE) or quote.getparent().get(LANGUAGE)
    if stated is None:
        if len(languages) != 2:
            raise UserError(
                f"{path}:{quote.sourceline}: the language of the translation is not stated; say both languages of the"
                f' file in its name (eng-deu.tei), or in Lexicon.paths: ("{path}", ("en", "de"))'
            )
        return 1
    fits = fitting(stated, languages[1:])
    if len(fits) != 1:
        raise _foreign(quote, path, stated, " or ".join(languages[1:]))
    return languages.index(fits[0])


def _word(element: Any, path: str) -> str:
    """The text of an element without notes and other elements in it."""
    parts = [element.text or "", *(child.tail or "" for child in element)]
    return check_string(" ".join("".join(parts).split()), path, element.sourceline)


def _foreign(element: Any, path: str, stated: str, wanted: str) -> UserError:
    return UserError(f"{path}:{element.sourceline}: the file states the language {stated[:40]!r} where {wanted} is due")
