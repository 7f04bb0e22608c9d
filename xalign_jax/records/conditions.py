"""Under which conditions a row of `results.json` was measured."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """A probe's settings without the places of its data. The content of the data is in `data` of a row."""
    return {name: value for name, value in settings.items() if name not in ("files", "tasks")}


def conditions(row: dict[str, Any]) -> str:
    """A short hash of the conditions of a measurement: the probe's settings and the data. "" if a row has neither."""
    # Places do not count if the row says what the data was: a copy elsewhere is the same condition.
    settings, data = row.get("settings"), row.get("data")
    if settings is None and data is None:
        return ""
    counted = settings if data is None else without_places(settings or {})
    return hashlib.sha256(json.dumps([counted, data], sort_keys=True).encode()).hexdigest()[:6]
