"""The quoted blocks of README.md and docs/: commands, Python and gin."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = r"(?:\w+=\S+ )*(?:(?:xalign|make|python3?(?:\.\d+)?|pip|pytest|gcloud|docker|export|cd) |\.venv/|\.\./|tpu_scripts/)"


class Block(NamedTuple):
    """A quoted block. `kind` is the word behind its fence, "" if there is none."""

    page: str
    kind: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a block of commands, each on one line and without comments; [] for another block."""
        if self.kind not in ("", "sh") or not re.match(PROGRAM, self.text):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [re.sub(r"(^|\s+)# .*", "", line).strip() for line in lines if line.strip()]


def blocks(page: Path) -> list[Block]:
    """All quoted blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(str(page.relative_to(ROOT)), kind, text) for kind, text in found]


def gin_files(page: Path) -> dict[str, str]:
    """Gin files that a page shows: {name: text} of the blocks that a paragraph with `NAME.gin` introduces."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"`(?:\w+/)?(\w+\.gin)`[^`]*\n\n```gin\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def spelt_out(command: str) -> Iterator[str]:
    """The commands that `a|b` and `[--optional]` stand for."""
    command = re.sub(r"\[(--[^\]]+)\]", r"\1", command)
    quoted = re.split(r"('[^']*')", command)
    parts = [[part] if part.startswith("'") else _choices(part) for part in quoted]
    yield from map("".join, itertools.product(*parts))


def _choices(text: str) -> list[str]:
    words = [word.split("|") if re.fullmatch(r"\w+(\|\w+)+", word) else [word] for word in re.split(r"(\s+)", text)]
    return ["".join(choice) for choice in itertools.product(*words)]
