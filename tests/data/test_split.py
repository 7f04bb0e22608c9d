"""Which texts are for training, and which for validation."""

import numpy as np

from xalign_jax.data.text.files import Document
from xalign_jax.data.text.split import Split


def test_split_is_by_group_and_no_text_is_in_both():
    documents = [Document(f"text {i % 700}", lang, f"g{i}") for i in range(2000) for lang in ("en", "de")]
    sides = Split(lambda: documents).sides()
    texts = {side: {d.text for d, s in zip(documents, sides, strict=True) if s == side} for side in sides}
    groups = {side: {d.group for d, s in zip(documents, sides, strict=True) if s == side} for side in sides}
    assert not texts["train"] & texts["validation"]
    assert not groups["train"] & groups["validation"]
    assert 0.015 < len(groups["validation"]) / 2000 < 0.05
    assert None in sides


def test_split_by_text_ignores_case_and_space():
    documents = [Document(f"Text {i}", "en") for i in range(300)] + [Document(f"text  {i}", "en") for i in range(300)]
    sides = Split(lambda: documents).sides()
    assert sides[:300] == sides[300:]


def test_every_language_has_validation():
    documents = [Document(t, lang) for lang in ("en", "de") for t in (f"{lang} a", f"{lang} b")] + [Document("x", "fr")]
    sides = Split(lambda: documents).sides()
    assert sides[:2].count("validation") == sides[2:4].count("validation") == 1
    assert sides[4] == "train"


def test_a_language_of_few_texts_is_not_drawn_whole():
    """By chance a whole file of one document would be for validation once in thirty."""
    for number in range(200):
        documents = [Document(f"all of it {number} {i}", "de") for i in range(1 + number % 2)]
        documents += [Document(f"text {i}", "en") for i in range(100)]
        sides = Split(lambda documents=documents: documents).sides()[: 1 + number % 2]
        assert "train" in sides and ("validation" in sides or len(sides) == 1)


def test_every_language_keeps_training_text():
    """Groups that are another language's whole training text are not taken, and one group serves all its languages."""
    documents = [Document("a", "en", "1"), Document("b", "en", "2"), Document("c", "de", "1"), Document("d", "de", "3")]
    sides = {(d.language, side) for d, side in zip(documents, Split(lambda: documents).sides(), strict=True)}
    assert sides == {(language, side) for language in ("en", "de") for side in ("train", "validation")}
    rng = np.random.default_rng(0)
    groups = {f"l{k}": rng.choice(200, 20, replace=False) for k in range(100)}
    documents = [Document(f"{language} {g}", language, f"g{g}") for language, of in groups.items() for g in of]
    held_out = [side == "validation" for side in Split(lambda: documents).sides()]
    assert {d.language for d, out in zip(documents, held_out, strict=True) if out} == set(groups)
    assert np.mean(held_out) < 0.09
