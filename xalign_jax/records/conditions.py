"""The conditions under which a row of `results.json` was measured."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """A probe's settings without the places of its data, which `data` of a row identifies by its contents."""
    return {name: value for name, value in settings.items() if name not in ("files", "tasks")}


def conditions(row: dict[str, Any]) -> str:
    """A short hash of a measurement's conditions: the probe's settings and the data. "" where a row lacks both."""
    # Rows of old versions have neither.
    settings, data = row.get("settings"), row.get("data")
    if settings is None and data is None:
        return ""
    # Where the data has a fingerprint, equal data in another folder is the same condition.
    counted = settings if data is None else without_places(settings or {})
    return hashlib.sha256(json.dumps([counted, data], sort_keys=True).encode()).hexdigest()[:6]
