"""Lines of links: Pharaoh's, such as "0-0 1-2", and JSON."""

from __future__ import annotations

import json

from xalign_jax.data.text.linked import Pair
from xalign_jax.evaluation.aligning.pairs import Alignment


def pharaoh(alignment: Alignment) -> str:
    """A line of Pharaoh: "0-0 1-2", source word and target word from 0. Empty if there is no link."""
    return " ".join(f"{i}-{j}" for i, j in alignment.links)


def json_line(pair: Pair, alignment: Alignment) -> str:
    """A JSON object: line (from 1), source and target (words), links (from 0) and their probabilities."""
    values = [round(value, 4) for value in alignment.probabilities]
    row = {"line": pair.line, "source": pair.source, "target": pair.target, "links": alignment.links}
    return json.dumps({**row, "probabilities": values}, ensure_ascii=False)
