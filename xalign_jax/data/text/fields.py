"""Fields of documents: label, provenance, spans and roles. What is checked here is the same for all formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.data.text.files import Document

PROVENANCES = ("original", "human", "machine")  # written in this language, translated by a person, or by a program
VALUES = ("label", "provenance")  # fields with one value for a document
RANGES = ("spans", "roles")  # fields with ranges of its characters
FIELDS = (*VALUES, *RANGES)
_SHOWN = 60


class Span(NamedTuple):
    """The characters `start` to `end` - 1 of a document's text, with a name: of an entity, or of who says them."""

    start: int
    end: int
    name: str


def value(field: str, cell: Any, place: str) -> str | None:
    """The label or the provenance that a cell holds; None if it holds nothing.

    Args:
      place: file:line, for the message.
    Raises:
      UserError: the cell is neither text nor a whole number, or names no provenance.
    """
    if isinstance(cell, bool) or not isinstance(cell, str | int | None):
        raise UserError(f"{place}: the {field} is {str(cell)[:_SHOWN]}; expected text or a whole number")
    text = "" if cell is None else str(cell).strip()
    if not text:
        return None
    if field == "provenance" and text not in PROVENANCES:
        raise UserError(f"{place}: the provenance is {text[:_SHOWN]!r}; expected one of {', '.join(PROVENANCES)}")
    return _checked(text, field, place)


def ranges(field: str, cell: Any, text: str, place: str) -> tuple[Span, ...]:
    """The spans or roles that a cell holds, sorted, for the text without white space at both ends.

    Args:
      cell: a list of [start, end, name], or of objects with start, end and name; or JSON of such a list.
      text: the text as the characters count, with white space at its ends.
    Raises:
      UserError: the cell is something else, or a range is empty, not within the text, or overlaps another one.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.strip() else []
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: the {field} are not JSON ({error})") from None
    if not isinstance(cell, list | None):
        raise UserError(f"{place}: the {field} are {str(cell)[:_SHOWN]}; expected a list of [start, end, name]")
    found = sorted(_range(field, item, place) for item in cell or [])
    end = 0
    for one in found:
        if not 0 <= one.start < one.end <= len(text):
            raise UserError(f"{place}: {_named(field, one)} is not within the {len(text)} characters of the text")
        if one.start < end:
            raise UserError(f"{place}: {_named(field, one)} overlaps the one before it; a character belongs to one")
        end = one.end
    # Readers drop white space at both ends of the text.
    first, size = len(text) - len(text.lstrip()), len(text.strip())
    moved = (Span(max(0, one.start - first), min(size, one.end - first), one.name) for one in found)
    return tuple(one for one in moved if one.start < one.end)


def _range(field: str, item: Any, place: str) -> Span:
    if isinstance(item, dict):
        # Data sets of entities say `label`, dialogues say `role`.
        name = next((item[key] for key in ("name", "label", "role") if key in item), None)
        item = [item.get("start"), item.get("end"), name]
    if isinstance(item, list) and len(item) == 3:
        start, end, name = item
        if all(isinstance(n, int) and not isinstance(n, bool) for n in (start, end)) and isinstance(name, str) and name:
            return Span(start, end, _checked(name, field, place))
    shown = json.dumps(item)[:_SHOWN]
    raise UserError(f"{place}: {field} hold {shown}; expected [start, end, name], or an object with these keys")


def turns(cell: Any, place: str) -> tuple[str, tuple[Span, ...]] | None:
    """The text and the roles of a dialogue, [{"role": ..., "content": ...}, ...]; None if the cell holds no such list.

    The text is what is said, a turn a line.
    """
    if not isinstance(cell, list) or not cell or not isinstance(cell[0], dict) or "content" not in cell[0]:
        return None
    parts, found, start = [], [], 0
    for turn in cell:
        role, said = (turn.get(key) for key in ("role", "content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not role or not isinstance(said, str):
            shown = json.dumps(turn)[:_SHOWN]
            raise UserError(f"{place}: a turn is {shown}; expected an object with the strings role and content")
        if said := said.strip():
            parts.append(said)
            found.append(Span(start, start + len(said), _checked(role, "roles", place)))
            start += len(said) + 1
    return "\n".join(parts), tuple(found)


def _named(field: str, one: Span) -> str:
    return f"{field.removesuffix('s')} {one.name[:_SHOWN]!r} ({one.start} to {one.end})"


def _checked(text: str, field: str, place: str) -> str:
    """The text. Raises UserError if it holds what JSON can spell and no text has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: half a surrogate pair in the {field}, at character {error.start}") from None
    if "\0" in text:
        raise UserError(f"{place}: a NUL character in the {field}")
    return text


def tables(documents: Iterable[Document], fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each field, the names that occur, sorted. Provenances are always all of them."""
    found: dict[str, set[str]] = {field: set() for field in fields}
    for document in documents:
        for field in fields:
            found[field].update(names(document, field))
    return {field: PROVENANCES if field == "provenance" else tuple(sorted(found[field])) for field in fields}


def names(document: Document, field: str) -> Iterator[str]:
    """The names that a document has in a field."""
    content = getattr(document, field)
    if field in RANGES:
        yield from (one.name for one in content)
    elif content is not None:
        yield content


def covered(document: Document) -> str:
    """What a hash of the content covers beside text, language and group; "" for a document without fields."""
    content = [document.label, document.provenance, document.spans, document.roles]
    return "\0" + json.dumps(content) if any(content) else ""
