"""A bounded fuzz of every reader; `make fuzz` runs more inputs."""

from __future__ import annotations

import pytest

from fuzz.harness import findings
from fuzz.readers import all_readers

INPUTS = 100


@pytest.mark.parametrize("reader", all_readers().values(), ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused_in_a_line(reader):
    assert [str(finding) for finding in findings(reader, 0, INPUTS)] == []
