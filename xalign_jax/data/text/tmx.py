"""Translation memories: TMX 1.4 files, read unit by unit. A unit is a group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.files import Document, Multilingual
from xalign_jax.data.text.lines import SHOWN, check_string, is_language, say
from xalign_jax.data.text.xml import LANGUAGE, elements
from xalign_jax.errors import UserError

_LANGUAGE = (LANGUAGE, "lang")  # TMX 1.4, and versions before it
_LINE_END = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")


class TranslationMemories(Multilingual):
    """TMX files. The group is the number of the unit. Segments lose inline codes, and line ends become spaces."""

    def read(self, path: str) -> Iterator[Document]:
        number = empty = 0
        for number, unit in enumerate(elements(path, "tu"), 1):
            for language, text in _segments(unit, path):
                if text:
                    yield Document(text=text, language=language, group=str(number))
                else:
                    empty += 1
        if not number:
            raise UserError(f"{path}: no TMX file: it has no translation unit (<tu>)")
        if empty:
            say(f"{path}: {empty:,} empty segments are skipped")


def _segments(unit: Any, path: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each variant of a unit."""
    for variant in unit.iterchildren("tuv"):
        place = variant.sourceline
        tag = next((variant.get(name) for name in _LANGUAGE if variant.get(name)), None)
        if tag is None:
            raise UserError(f"{path}:{place}: a <tuv> without xml:lang")
        language = normal_language(tag)
        if not is_language(language):
            raise UserError(f"{path}:{place}: {tag[:SHOWN]!r} is no name for a language")
        text = "".join(_text(segment, path) for segment in variant.iterchildren("seg"))
        yield language, check_string(_LINE_END.sub(" ", text).strip(), path, place)


def _text(element: Any, path: str) -> str:
    """The text of a segment. Inline elements other than <hi> hold codes of another format."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == "hi":
            parts.append(_text(child, path))
        elif callable(child.tag) and str(child).startswith("&"):
            raise UserError(f"{path}:{element.sourceline}: the entity {str(child)[:SHOWN]}, which XML does not define")
        parts.append(child.tail or "")
    return "".join(parts)
