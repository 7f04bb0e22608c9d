"""gin bindings that another test file left behind would change the defaults of configs built directly."""

from __future__ import annotations

import gin
import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_gin_bindings():
    gin.clear_config()
