"""The README.md of an exported model, from its recipe and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xalign_jax.data.tokens.vocabulary import clone_index

_SHOWN = ("perplexity", "word_retrieval", "sentence_retrieval", "knowledge")
_ROWS = 40


def model_card(
    name: str,
    config_text: str,
    results_rows: Sequence[dict[str, Any]],
    languages: Sequence[str],
    architecture: str,
    clones: bool,
) -> str:
    """Markdown with a YAML header.

    Args:
      name: of the recipe or the import.
      config_text: the operative gin configuration, "" if there is none.
      results_rows: rows of `results.json` that were measured on these weights.
      languages: those with a tokenizer, the root's first.
      architecture: the class of transformers.
      clones: whether languages beside the first are its clones.
    """
    codes = list(dict.fromkeys(clone_index(language)[0] for language in languages))
    header = ["---", "library_name: transformers", "tags:", "- xalign_jax", "- cross-lingual", "language:"]
    header += [f"- {code}" for code in codes] + ["---"]
    parts = ["\n".join(header), f"# {name}", _loading(languages, architecture, clones), _results(results_rows)]
    if config_text:
        parts.append(f"## Recipe\n\n```gin\n{config_text.strip()}\n```")
    parts.append("Trained and exported by xalign_jax. Its licence is for whoever publishes it to state.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _loading(languages: Sequence[str], architecture: str, clones: bool) -> str:
    lines = [
        "```python",
        f"from transformers import PreTrainedTokenizerFast, {architecture}",
        "",
        f'model = {architecture}.from_pretrained("PATH")',
        f'tokenizer = PreTrainedTokenizerFast.from_pretrained("PATH")  # {languages[0]}',
    ]
    if clones:
        lines += [
            f'tokenizer = PreTrainedTokenizerFast.from_pretrained("PATH", subfolder="tokenizer_{language}")'
            for language in languages[1:]
        ]
    return "\n".join([*lines, "```"])


def _results(rows: Sequence[dict[str, Any]]) -> str:
    """The values of what a reader asks for first; means over languages where there are any."""
    chosen = [
        row
        for row in rows
        if not row["control"] and row["value"] is not None and row["probe"] in _SHOWN and _headline(row, rows)
    ]
    if not chosen:
        return ""
    lines = ["| probe | metric | language | level | words | value | n |", "|---|---|---|---|---|---|---|"]
    for row in chosen[:_ROWS]:
        cells = [row["probe"], row["metric"], row["language"], row["level"], row["split"]]
        shown = ["" if cell is None else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(shown)} | {row['value']:.4g} | {row['n']} |")
    more = f"\n\n{len(chosen) - _ROWS} more stand in the run's results.json." if len(chosen) > _ROWS else ""
    return f"## Results at step {chosen[0]['step']}\n\n" + "\n".join(lines) + more


def _headline(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Of sentence retrieval the means over languages alone, where there are means."""
    if row["probe"] != "sentence_retrieval":
        return True
    means = any("*" in (other["language"] or "") for other in rows if other["probe"] == "sentence_retrieval")
    return not means or "*" in row["language"]
