"""Sentences below tables: what the figures mean, for a reader who has not seen the measure before."""

from __future__ import annotations

from collections.abc import Sequence

from xalign_jax.records.shown import Key, Shown

# control -> its name in tables, in this order; other controls follow.
CONTROLS = {"untrained": "untrained", "shuffled": "shuffled", "ngram": "n-grams"}

_CONTROLS = {
    "untrained": "the same network before training",
    "shuffled": "wrong answers taken for right ones",
    "ngram": "spelling alone, without a model",
}
_SPLITS = {
    "dictionary": "Dictionary words are those that training may read.",
    "heldout": "Held-out words stand in the dictionary, and training does not learn from their entries.",
}


def meaning(keys: Sequence[Key], shown: Shown, told: set[str]) -> str:
    """What the figures of a table mean; "" if nobody wrote it down.

    Args:
      told: sentences about columns, levels and controls that stand above already. The new ones are added.
    """
    metrics = dict.fromkeys(key._replace(language=None, level=None, split=None, control=None) for key in keys)
    columns = {shown.column(key).heading: shown.column(key).meaning for key in metrics}
    about = [f"{heading[:1].upper()}{heading[1:]}: {words}." for heading, words in columns.items() if words]
    about += [text for split, text in _SPLITS.items() if any(key.split == split for key in keys)]
    if any(isinstance(key.level, int) for key in keys):
        about.append("Level 0 is the embedding, and level l the output of block l.")
    if any(key.level == "head" for key in keys):
        about.append("Head stands for the rows of the output head.")
    controls = [name for name in CONTROLS if any(key.control == name for key in keys)]
    about += [f"Control {CONTROLS[name]}: {_CONTROLS[name]}." for name in controls]
    new = [sentence for sentence in about if sentence not in told]
    told.update(new)
    return " ".join(filter(None, [shown.meaning(keys[0].probe), *new]))
