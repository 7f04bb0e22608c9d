"""The texts of the tasks beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

HERE = Path(__file__).parent


def choice(**_: Any) -> dict[str, Dataset]:
    return _read("choice.jsonl")


def text(**_: Any) -> dict[str, Dataset]:
    return _read("text.jsonl")


def continuation(**_: Any) -> dict[str, Dataset]:
    return _read("continue.jsonl")


def _read(name: str) -> dict[str, Dataset]:
    """The lines of a file as the split that its task asks for."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
