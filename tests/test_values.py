"""Every number that gin can bind is refused where it means nothing, in one line that names the binding."""

from __future__ import annotations

import dataclasses
import math

import pytest

from xalign_jax import cli, config, gin_files
from xalign_jax.errors import UserError
from xalign_jax.evaluation.parallel import Mexa
from xalign_jax.interfaces import Feed, Objective
from xalign_jax.recipe import Recipe

cli.register()

SHAPE = {"layers": 2, "width": 8, "heads": 2, "mlp_width": 8}
ROWS = {"length": 32, "slots": 4}
REQUIRED = {
    "Llama": SHAPE | {"kv_heads": 2},
    "GPTNeoX": SHAPE | {"rotary_fraction": 0.5},
    "Bert": SHAPE,
    "XLMRoberta": SHAPE,
    "RopeScaling": {"kind": "yarn", "factor": 2.0, "original_max_length": 8},
    "XlCo": {"level": 1},
    "WordAlignment": {"level": 1},
    "AlignedWords": {"level": 1},
    "LinearWords": {"level": 1},
    "LightAligner": {"level": 1},
    "DenoisingAlignment": {"level": 1},
    "WindowFeed": {"length": 32},
    "TextFeed": ROWS,
    "TranslationFeed": ROWS | {"side": 8},
    "ContrastFeed": ROWS | {"side": 8},
    "GroupFeed": ROWS | {"lines": 2, "side": 8},
    "InterleavedFeed": ROWS | {"part": 8},
    "WordFeed": {"length": 32, "words_per_row": 4, "concepts": 8},
    "MarkedFeed": {"length": 32, "source": "a.en", "target": "a.de", "links": "a.gold"},
    "PieceFeed": {"length": 32, "words_per_row": 4, "concepts": 8},
    "VectorFeed": {"files": {"en": "en.vec", "de": "de.vec"}},
    "Perplexity": {"length": 32},
    "HiddenCosine": {"length": 32},
    "GradientCosine": {"length": 32},
    "ForeignMass": {"length": 32},
    "InformationParity": {"files": {"en": "en.txt", "de": "de.txt"}},
    "LexiconInduction": {"dictionaries": {"de": "en-de.tsv"}},
    "PoolRetrieval": {"files": {"en": "en.tsv", "de": "de.tsv"}},
    "ParallelText": {"measures": (Mexa(),)},
    "Stream": {"name": "lm", "feed": Feed(), "objective": Objective(), "batch_size": 8},
    "Stage": {"name": "pretrain", "steps": 2, "streams": (), "optimizer": object(), "schedule": object()},
    "Recipe": {"model": object(), "vocabulary": object(), "stages": ()},
    "Evaluation": {"probes": ()},
    "Selection": {"patterns": ("model/head",)},
    "Piecewise": {"points": ((0, 0.5),)},
    "Linear": {"points": ((0, 0.5),)},
}
CLASSES = {
    found.__name__: found
    for found in gin_files.registered().values()
    if dataclasses.is_dataclass(found) and found.__module__.startswith("xalign_jax.")
}
NUMBERS = [
    (name, field.name, kinds)
    for name, cls in CLASSES.items()
    for field in dataclasses.fields(cls)
    if {"int", "float"} & (kinds := {*str(field.type).split(" | ")})
]


def make(name, **values):
    return CLASSES[name](**REQUIRED.get(name, {}) | values)


def test_all_configurables_are_looked_at():
    assert len(CLASSES) > 30 and len(NUMBERS) > 100
    for name in CLASSES:
        make(name)


@pytest.mark.parametrize(("name", "field", "kinds"), NUMBERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_that_means_nothing_is_refused(name, field, kinds):
    wrong = [-1, -0.5, math.nan, math.inf, 1e300, 2**128, "3", (1,), *([] if "bool" in kinds else [True])]
    wrong += [0.5, 2**31] if "float" not in kinds else []
    wrong += [] if "None" in kinds else [None]
    for value in wrong:
        with pytest.raises(UserError) as refused:
            make(name, **{field: value})
        assert f"{name}.{field} = " in str(refused.value).splitlines()[0], value


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("AdamW", "b1", 1.5),
        ("AdamW", "b2", 1),
        ("AdamW", "eps", 0),
        ("WarmupCosine", "warmup", 2),
        ("WarmupCosine", "final", 1.5),
        ("WarmupStableDecay", "decay", 1.1),
        ("Runtime", "prefetch", 0),
        ("Runtime", "mesh", ("data", -1, 1)),
        ("Runtime", "mesh", (0, -1, 1)),
        ("Runtime", "remat", 1),
        ("Runtime", "dtype", "float16"),
        ("Stage", "steps", 0),
        ("LowRank", "alpha", 0),
        ("TiedRows", "own_decay", -1),
        ("Llama", "layers", 0),
        ("Llama", "tied", "yes"),
        ("XlCo", "temperature", 0),
        ("TranslationRanking", "pooling", "middle"),
        ("Corruption", "rate", 0),
        ("MaskedLM", "corruption", None),
        ("Vocabulary", "rows", 0),
        ("Lexicon", "heldout", 1),
        ("Lexicon", "max_tokens", 0),
        ("Facts", "objects", 1),
        ("Facts", "candidates", 51),
        ("ForeignMass", "share", 1.5),
    ],
)
def test_a_value_beyond_its_range_is_refused(name, field, value):
    with pytest.raises(UserError, match=rf"{name}\.{field} = "):
        make(name, **{field: value})


def test_a_gin_file_with_a_wrong_value_is_refused_in_one_line():
    with pytest.raises(UserError) as refused:
        config.load(["recipes/prealign_clone_tiny.gin"], ["AdamW.b1 = 1.5"], (Recipe,))
    assert str(refused.value) == "AdamW.b1 = 1.5: must lie in [0, 1)"
    with pytest.raises(UserError, match=r"^lm/Stream\.weight = nan: expected a number"):
        make("Stream", weight=math.nan)


def test_a_message_about_a_probe_names_its_binding():
    """`Perplexity.name` says what its rows are called, and is no scope of gin."""
    with pytest.raises(UserError, match=r"^Perplexity\.length = 0: must be at least 1"):
        make("Perplexity", length=0)
