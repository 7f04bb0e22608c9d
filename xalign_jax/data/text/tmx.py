"""Translation memories: TMX 1.4 files, read unit by unit. A unit is a group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.compression import extra_package, open_file
from xalign_jax.data.text.files import Document, Multilingual
from xalign_jax.data.text.lines import SHOWN, check_string, is_language, say
from xalign_jax.errors import UserError, one_line

_LANGUAGE = ("{http://www.w3.org/XML/1998/namespace}lang", "lang")  # TMX 1.4, and versions before it
_LINE_END = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")


class TranslationMemories(Multilingual):
    """TMX files. The group is the number of the unit. Segments lose inline codes, and line ends become spaces."""

    def read(self, path: str) -> Iterator[Document]:
        etree = extra_package("lxml.etree", path)
        number = empty = 0
        # Entities stay as they are and nothing outside the file is read, so a file can neither grow nor reach the
        # network. A document type, which names tmx14.dtd in most files, is not loaded.
        safe = {"resolve_entities": False, "no_network": True, "load_dtd": False}
        with open_file(path) as file:
            try:
                for number, (_, unit) in enumerate(etree.iterparse(file, tag="tu", **safe), 1):
                    for language, text in _segments(unit, path):
                        if text:
                            yield Document(text, language, str(number))
                        else:
                            empty += 1
                    # Drop what was read: the tree would otherwise grow to the size of the file.
                    unit.clear()
                    while unit.getprevious() is not None:
                        del unit.getparent()[0]
            except etree.XMLSyntaxError as error:
                raise UserError(f"{path}:{error.lineno or 1}: not XML ({one_line(error)})") from None
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
