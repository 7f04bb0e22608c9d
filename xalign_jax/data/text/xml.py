"""Reads large XML files element by element, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xalign_jax.data.text.compression import extra_package, open_file
from xalign_jax.data.text.lines import reading
from xalign_jax.errors import UserError, one_line

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def elements(path: str, tag: str) -> Iterator[Any]:
    """The elements of a tag, as lxml gives them. Each is emptied when the next one is asked for.

    Raises:
      UserError: naming file and line, if the file is missing or damaged.
    """
    etree = extra_package("lxml.etree", path)
    # Entities stay as they are and nothing outside the file is read, so a file can neither grow nor reach the
    # network. A document type, which names tmx14.dtd in most translation memories, is not loaded.
    safe = {"resolve_entities": False, "no_network": True, "load_dtd": False}
    with reading(path), open_file(path) as file:
        try:
            for _, element in etree.iterparse(file, tag=tag, **safe):
                yield element
                # Drop what was read: the tree would otherwise grow to the size of the file.
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        except etree.XMLSyntaxError as error:
            raise UserError(f"{path}:{error.lineno or 1}: not XML ({one_line(error)})") from None
