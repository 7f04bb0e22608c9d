"""A preview as lines for a terminal. Colours only add to them: without colours, signs in the text say the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from xalign_jax.records.previewed import (
    KEPT,
    MASKED,
    RANDOM,
    SWITCHED,
    Preview,
    Row,
    Slot,
    Token,
    piece,
    side_by_side,
    texts,
    visible,
)

Paint = Callable[[str, str], str]  # (text, style) -> the text in this style

# Foreground colours of the languages, by their number; they are readable on dark and on light.
LANGUAGE_COLOURS = ("34", "31", "32", "35", "36", "33", "94", "91", "92", "95", "96", "93")
CHANGE_STYLES = {SWITCHED: "1;4", MASKED: "7", RANDOM: "7;1", KEPT: "4"}
SIDE = "  ||  "  # between texts that belong together


def plain(text: str, style: str) -> str:
    """The text without any style."""
    return text


def coloured(text: str, style: str) -> str:
    """The text in an ANSI style."""
    return f"\033[{style}m{text}\033[0m" if text and style else text


def lines(preview: Preview, paint: Paint = plain) -> list[str]:
    """The stream's name, its rows, how many positions are padding, and the shapes of its arrays."""
    tokens = [token for row in preview.rows for slot in row.slots for view in slot.views for token in view]
    changes = {token.change for token in tokens}
    signs = [f" {text}" for text, kinds in _SIGNS.items() if changes & kinds]
    found = [f"stream {preview.stream}:" + ";".join(signs)]
    for row in preview.rows:
        if row.language:
            segments = " | ".join(_view(slot.views[0], paint, preview, row.language) for slot in row.slots)
            found.append(f"  {row.number} {_tag(row.language, paint, preview)} {segments}")
        else:
            found += [f"  {row.number}.{s[0].number}: {_slots(s, paint, preview)}" for s in side_by_side(row)]
    shapes = ", ".join(f"{name} {shape}" for name, shape in preview.arrays)
    return [*found, f"  padding: {_padding(preview.rows, preview.views)}", f"  arrays: {shapes}"]


_SIGNS = {
    "a word in brackets replaces, in the input, a word that begins as shown behind the arrow": {SWITCHED},
    "in braces stand predicted tokens: {_ ← hidden by the mask piece}, {read ← replaced at random}, {kept}": {
        MASKED,
        RANDOM,
        KEPT,
    },
}


def _padding(rows: Sequence[Row], views: Sequence[str]) -> str:
    """The share of padding in each view, over the rows."""
    shares = [sum(row.padding[view] for row in rows) / max(1, len(rows)) for view in range(len(views))]
    names = [name.removesuffix("_") for name in views]
    return ", ".join(f"{share:.0%}{f' ({name})' if name else ''}" for name, share in zip(names, shares, strict=True))


def _slots(slots: Sequence[Slot], paint: Paint, preview: Preview) -> str:
    """Slots that belong together, and their views, side by side."""
    shown = SIDE.join(_view(view, paint, preview) for slot in slots for view in slot.views)
    labels = itertools.groupby(slots[0].labels, lambda label: label[0])
    names = [f"{name} {', '.join(value for _, value in values)}" for name, values in labels]
    return shown + (f" ({'; '.join(names)})" if names else "")


def _view(tokens: Sequence[Token], paint: Paint, preview: Preview, whole: str = "") -> str:
    """The texts of a view, each with its language unless the whole row has one."""
    shown = []
    for language, part in texts(tokens, not whole):
        text = "".join(_run(run, paint, preview) for run in _runs(part)).strip()
        if text:
            restarts = "↺ " if any(token.restarts for token in part) else ""
            shown.append(restarts + (text if whole else f"{_tag(language, paint, preview)} {text}"))
    return " / ".join(shown)


def _runs(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Tokens that are shown as one: ordinary text in one language, or one change."""
    run: list[Token] = []
    for token in tokens:
        if run and (token.begins or (run[0].change, run[0].language) != (token.change, token.language)):
            yield run
            run = []
        run.append(token)
    if run:
        yield run


def _run(run: Sequence[Token], paint: Paint, preview: Preview) -> str:
    change = run[0].change
    text = "".join(token.text for token in run if change or not token.special)
    # The space before a word stays outside of its brackets.
    space, shown = " " * text.startswith(" "), visible(text.removeprefix(" "))
    original = piece(run[0].original)
    style = CHANGE_STYLES.get(change, "")
    if change == SWITCHED:
        shown = f"[{shown} ← {original}]"
    elif change:
        shown = {MASKED: f"{{_ ← {original}}}", RANDOM: f"{{{piece(text)} ← {original}}}", KEPT: f"{{{piece(text)}}}"}[
            change
        ]
        space = " " * (run[0].original.startswith(" ") and run[0].original != " ")
    return space + paint(shown, ";".join(filter(None, [style, _colour(run[0].language, preview)])))


def _colour(language: str, preview: Preview) -> str:
    if language not in preview.languages:
        return ""
    return LANGUAGE_COLOURS[preview.languages.index(language) % len(LANGUAGE_COLOURS)]


def _tag(language: str, paint: Paint, preview: Preview) -> str:
    return paint(f"[{language or '?'}]", _colour(language, preview))
