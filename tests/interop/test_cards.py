"""The card of an exported model: languages, data and licences, and nothing about the machine that made it."""

from __future__ import annotations

import dataclasses

import pytest

from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.errors import UserError
from xalign_jax.interop.licences import languages, used, without_folders
from xalign_jax.interop.model_card import Published, model_card
from xalign_jax.recipe import as_json, located

MIXTURE = Mixture(
    tasks=("lines:en=/home/ann/a.txt,de=/home/ann/b.txt", "mc4.fr", "hf:ann/news,en=text", "tfds:en=c4/en:3.1.0"),
    licences={"lines:en=/home/ann/a.txt,de=/home/ann/b.txt": "CC-BY-4.0"},
)
TEXTS = {
    MIXTURE.tasks[0]: {"train": {"en": "1", "de": "2"}, "validation": {"en": "3"}},
    "mc4.fr": {"train": {"fr": "4"}},
}


def _environment(**recipe):
    streams = [{"mixture": as_json(MIXTURE)}, {"mixture": None}]
    return {"recipe": {"stages": [{"streams": streams}], **recipe}, "texts": TEXTS}


def test_data_have_languages_and_licences_and_unknown_ones_are_said():
    lexicon = {"source": "file", "languages": ["en", "de"], "paths": ["/home/ann/en-de.tsv", ["fr.tsv", ["en", "fr"]]]}
    found = [tuple(one) for one in used(_environment(lexicon=lexicon))]
    assert found == [
        ("lines:en=a.txt,de=b.txt", ("de", "en"), "CC-BY-4.0"),
        ("mc4.fr", ("fr",), "ODC-BY-1.0 (Common Crawl's terms of use apply too)"),
        ("hf:ann/news,en=text", (), "unknown; see https://huggingface.co/datasets/ann/news"),
        ("tfds:en=c4/en:3.1.0", (), "unknown"),
        ("dictionary en-de.tsv", ("en", "de"), "unknown"),
        ("dictionary fr.tsv", ("en", "de"), "unknown"),
    ]
    assert languages(_environment()) == ["de", "en", "fr"]
    assert [one.licence for one in used(_environment(lexicon={"source": "cldr", "languages": ["en", "ja"]}))][-1] == (
        "Unicode-3.0 (CLDR), BSD-3-Clause (Babel)"
    )


def test_a_card_names_everything_but_folders():
    environment = _environment()
    config = (
        "Mixture.tasks = ('lines:en=/home/ann/a.txt,de=/home/ann/b.txt', )\nVocabulary.path = '/home/ann/spm.model'"
    )
    card = model_card(
        "run",
        config,
        [],
        {},
        ["en"],
        "LlamaForCausalLM",
        False,
        used(environment),
        languages(environment),
        Published("mit", "ann/model"),
    )
    header = card.split("---")[1]
    assert 'license: "mit"' in header and all(f'- "{code}"' in header for code in ("en", "de", "fr"))
    assert "| lines:en=a.txt,de=b.txt | de, en | CC-BY-4.0 |" in card and "Languages of the texts: de, en, fr." in card
    assert card.count('from_pretrained("ann/model")') == 2
    assert "/home" not in card and "'spm.model'" in card
    bare = model_card("run", "", [], {}, ["en"], "LlamaForCausalLM", False)
    assert 'license: "unknown"' in bare and "Nobody recorded what the model was trained on" in bare
    assert without_folders("gs://bucket/a.txt") == "gs://bucket/a.txt"


def test_licences_do_not_change_recipes_that_have_none():
    plain = dataclasses.replace(MIXTURE, licences=None)
    assert as_json(plain)["licences"] is None and located(plain).licences is None
    # Keys are found in config.gin, where paths are absolute.
    relative = Mixture(tasks=("lines:en=a.txt",), licences={"lines:en=a.txt": "mit"})
    assert located(relative).licences == ((located(relative).tasks[0], "mit"),)


@pytest.mark.parametrize("licences", ["mit", {"lines:en=b.txt": "mit"}, {"lines:en=a.txt": 3}])
def test_bad_licences_are_one_line(licences):
    with pytest.raises(UserError, match=r"^Mixture\.licences"):
        Mixture(tasks=("lines:en=a.txt",), licences=licences)
