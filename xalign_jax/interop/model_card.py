"""The README.md of an exported model, made from its recipe and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.interop.licences import UNKNOWN, Used, without_folders
from xalign_jax.records.shown import Key, Shown

_ROWS = 40  # of the results table; the run's own report has all of them


class Published(NamedTuple):
    """How a model is published.

    Attributes:
      licence: of the model.
      place: what `from_pretrained` is given.
    """

    licence: str = UNKNOWN
    place: str = "PATH"


LOCAL = Published()  # a folder on this machine


def model_card(
    name: str,
    config_text: str,
    results_rows: Sequence[dict[str, Any]],
    probes: Mapping[str, Any],
    languages: Sequence[str],
    architecture: str,
    clones: bool,
    data: Sequence[Used] = (),
    texts: Sequence[str] = (),
    published: Published = LOCAL,
) -> str:
    """Markdown with a YAML header.

    Args:
      name: of the recipe or the import.
      config_text: the operative gin configuration, "" if there is none.
      results_rows: rows of `results.json` that were measured on these weights.
      probes: how probes are shown, from `probes.json`.
      languages: those with a tokenizer; the root tokenizer's language comes first.
      architecture: the class of transformers that loads the model.
      clones: whether all languages but the first are clones of it.
      data: the texts and dictionaries that the model was trained on.
      texts: the languages of the texts.
      published: how the model is published.
    """
    licence = published.licence
    # The hub knows languages by their codes, and a clone's code is its base language's.
    codes = list(dict.fromkeys(clone_index(language)[0] for language in [*languages, *texts]))
    header = ["---", "library_name: transformers", f"license: {json.dumps(licence)}", "tags:", "- xalign_jax"]
    header += ["- cross-lingual", "language:", *(f"- {json.dumps(code)}" for code in codes), "---"]
    parts = [
        "\n".join(header),
        f"# {name}",
        _loading(languages, architecture, clones, published.place),
        _data(data, texts),
    ]
    parts.append(_results(results_rows, probes))
    if config_text:
        parts.append(f"## Recipe\n\n```gin\n{without_folders(config_text).strip()}\n```")
    stated = "unknown: its owner has not stated it" if licence == UNKNOWN else licence
    parts.append(f"Licence of the model: {stated}. Trained and exported by xalign_jax.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(data: Sequence[Used], texts: Sequence[str]) -> str:
    """What the model was trained on."""
    if not data:
        return "## Data\n\nNobody recorded what the model was trained on: it was imported, and its own card may tell."
    lines = ["| data | languages | licence |", "|---|---|---|"]
    for one in data:
        lines.append(f"| {_cell(one.name)} | {', '.join(one.languages) or UNKNOWN} | {_cell(one.licence)} |")
    told = f"Languages of the texts: {', '.join(texts)}.\n\n" if texts else ""
    return f"## Data\n\n{told}" + "\n".join(lines)


def _cell(text: str) -> str:
    """Text that ends neither a cell nor a line of a table."""
    return " ".join(text.replace("|", "\\|").split())


def _loading(languages: Sequence[str], architecture: str, clones: bool, place: str) -> str:
    """Code that loads the model and each of its tokenizers."""
    lines = [
        "```python",
        f"from transformers import PreTrainedTokenizerFast, {architecture}",
        "",
        f'model = {architecture}.from_pretrained("{place}")',
        f'tokenizer = PreTrainedTokenizerFast.from_pretrained("{place}")  # {languages[0]}',
    ]
    if clones:
        lines += [
            f'tokenizer = PreTrainedTokenizerFast.from_pretrained("{place}", subfolder="tokenizer_{language}")'
            for language in languages[1:]
        ]
    return "\n".join([*lines, "```"])


def _results(rows: Sequence[dict[str, Any]], probes: Mapping[str, Any]) -> str:
    """A table of the headlines, as summaries of comparisons have them, but at every level."""
    keys = [Key.of(row) for row in rows]
    shown = Shown([probes], keys)
    # Values that were not finite are null and say nothing here.
    chosen = [
        (key, row) for key, row in zip(keys, rows, strict=True) if row["value"] is not None and shown.summarised(key)
    ]
    if not chosen:
        return ""
    lines = ["| probe | metric | language | level | split | value | n |", "|---|---|---|---|---|---|---|"]
    # An absent part of a key is an empty cell.
    for key, row in chosen[:_ROWS]:
        cells = [shown.title(key.probe), shown.column(key).heading, key.language, key.level, key.split]
        told = ["" if cell is None else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(told)} | {row['value']:.4g} | {row['n']} |")
    more = f"\n\n{len(chosen) - _ROWS} more stand in the run's results.json." if len(chosen) > _ROWS else ""
    return f"## Results at step {chosen[0][1]['step']}\n\n" + "\n".join(lines) + more
