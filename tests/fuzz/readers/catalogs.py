"""Compiled message catalogs (`.mo`)."""

from __future__ import annotations

import struct
from pathlib import Path

from fuzz.harness import Reader
from xalign_jax.data.text.catalogs import clean, read_mo

MESSAGES = {
    "": "Language: de",
    "Yes": "Ja",
    "verb\x04view": "ansehen",
    "%(n)d day\0%(n)d days": "%(n)d Tag\0%(n)d Tage",
}


def _compiled(order: str) -> bytes:
    """The messages as msgfmt writes them."""
    tables: tuple[list[int], list[int]] = ([], [])
    data, start = b"", 28 + 16 * len(MESSAGES)
    for side in (0, 1):
        for pair in sorted(MESSAGES.items()):
            content = pair[side].encode()
            tables[side].extend([len(content), start + len(data)])
            data += content + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(MESSAGES), 28, 28 + 8 * len(MESSAGES), 0, 0)
    return head + b"".join(struct.pack(f"{order}{len(table)}I", *table) for table in tables) + data


def _read(folder: Path) -> list[tuple[str, str, str]]:
    found = list(read_mo(str(folder / "de.mo")))
    for _, source, translation in found:
        clean(source), clean(translation)
    return found


def _check(found: list[tuple[str, str, str]], folder: Path) -> None:
    """Messages lie in the file and end with NUL there."""
    content = (folder / "de.mo").read_bytes()
    for _, source, translation in found:
        assert source and translation and "\0" not in source + translation
        assert source.encode() + b"\0" in content and translation.encode() + b"\0" in content, (source, translation)


READERS = [Reader("catalog_mo", lambda: [{"de.mo": _compiled(order)} for order in "<>"], _read, _check)]
