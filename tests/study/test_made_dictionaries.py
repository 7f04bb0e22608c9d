"""Dictionaries of the study are made from training text only, and compared with another dictionary as they say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))  # `study` is a folder of the repository, not of the installed package

from study import dictionaries, record, run, tables, translation  # noqa: E402
from study.experiments import LOOP, select  # noqa: E402
from xalign_jax.data.text.readers import source_reader  # noqa: E402


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with 400 paragraphs in two languages, in which dictionaries are made."""
    monkeypatch.chdir(ROOT)  # the study's gin files are named from there
    for language in ("en", "de"):
        lines = [f"page#{n}\t{language}{n} {language}{n % 7}\n" for n in range(400)]
        (tmp_path / f"{language}.tsv").write_text("".join(lines))
    monkeypatch.setattr(dictionaries, "HELP", f"tsv:en={tmp_path}/en.tsv,{{0}}={tmp_path}/{{0}}.tsv")
    monkeypatch.setattr(dictionaries, "MADE", str(tmp_path))
    monkeypatch.setattr(dictionaries, "ALIGNED", str(tmp_path / "{0}" / "en-{1}.tsv"))
    monkeypatch.setattr(dictionaries, "LOOP_DICTIONARIES", {"de": {"freedict": str(tmp_path / "gold.tsv")}})
    (tmp_path / "gold.tsv").write_text("en1\tde1\nen1\tde9\nen2\tnicht hier\nen2\tde2\nen3\tdanach\n")
    return tmp_path


def test_pairs_come_from_the_training_split_and_translate_each_other(place):
    pairs = dictionaries.training_pairs("de")
    reader = source_reader(dictionaries.HELP.format("de"))
    held_out = {example.document.text for example in reader.read("validation")}
    assert held_out and len(pairs) == 400 - len(held_out) / 2
    assert not held_out & {text for pair in pairs for text in pair}
    assert all(source.replace("en", "de") == target for source, target in pairs)
    assert pairs == dictionaries.training_pairs("de")


def test_the_first_pairs_stay_when_fewer_are_taken(place, monkeypatch):
    every = dictionaries.training_pairs("de")
    monkeypatch.setattr(dictionaries, "PAIRS", 50)
    assert dictionaries.training_pairs("de") == every[:50]


def test_a_dictionary_is_made_once_and_one_that_needs_a_model_waits_for_it(place):
    said = list(dictionaries.make(None))
    assert said[0].startswith(f"{place}/ibm1/en-de.tsv: ") or said[1].startswith(f"{place}/ibm1/en-de.tsv: ")
    assert f"{place}/e5/en-de.tsv: left out, it needs --model, a folder of multilingual-e5-small" in said
    assert "| ibm1, en-de |" in said[-1]
    assert f"{place}/ibm1/en-de.tsv: kept" in list(dictionaries.make(None))


def test_quality_counts_the_words_that_both_dictionaries_have(place):
    (place / "text.en-de.de").write_text("De1, de2 de9 danach\n")
    (place / "ibm1").mkdir()
    # En1 has one of two listed words, but not as its first; en2 has its only word that the text has; en4 is not listed.
    (place / "ibm1" / "en-de.tsv").write_text(
        "En1\tde8\t5\t0.6\nEn1\tDe1\t3\t0.4\nen2\tde2\t2\t1.0\nen4\tde4\t2\t1.0\n"
    )
    (line,) = (row for row in dictionaries.quality().splitlines() if "ibm1" in row)
    assert [part.strip() for part in line.split("|")[2:-1]] == ["3", "4", "2", "0.500", "0.667", "0.667"]


def test_runs_wait_for_their_dictionaries(place, monkeypatch, capsys):
    monkeypatch.setattr(run, "DATA", str(place))
    monkeypatch.setattr(run, "MADE", "runs/study/dictionaries-not-made")
    wanted = run.jobs(select(["J-help-*"]), [1])
    assert run.with_data(wanted, None) == wanted
    monkeypatch.setattr(run, "_made", lambda recipe: [place / "none.tsv"] if "eu" in str(recipe.lexicon) else [])
    assert [job.name for job in run.with_data(wanted, None)] == ["J-help-de-1"]
    assert "1 runs left out: make their dictionaries first" in capsys.readouterr().out


def test_runs_with_parallel_files_keep_both_directions(place):
    (job,) = run.jobs(select(["PC-e5-help-eu"]), [1])
    assert record._languages(job.recipe) == ("en", "eu", "en->eu", "eu->en")
    (job,) = run.jobs(select(["PC"]), [1])
    assert record._languages(job.recipe) == ("en", "en_clone")
    assert all(record.tokens(job.recipe)["lm_tokens"] == 250 * 32 * 64 for job in run.jobs(LOOP, [1]))


def test_sentences_are_the_mean_of_both_directions(place):
    rows = [
        {
            "experiment": name,
            "seed": seed,
            "own_ppl/1": 50.0,
            "own_ppl/2": ppl,
            "sentences/3/0": 0.2,
            "sentences/4/0": 0.4,
        }
        for name, ppl in (("J-help-de", 200.0), ("PLUS-e5-help-de", 150.0))
        for seed in (1, 2)
    ]
    text = tables.filled("<!-- dictionaries: *-help-de -->\n\nNot run yet.\n", tables.arms(rows))
    assert "-25.0 ± 0.0 %" in text and "0.300 ± 0.000" in text and "Not run" not in text


def test_frequent_words_are_counted_in_training_text(place):
    # en0 to en6 occur in every seventh paragraph, the other words once or twice.
    words = translation.frequent_words(dictionaries.HELP.format("de"))
    assert words == {name: [f"{name}{n}" for n in range(7)] for name in ("en", "de")}


def test_all_models_of_a_pair_are_asked_the_words_of_its_freedict(place, monkeypatch):
    """A model that gives translations equal vectors finds all; without a FreeDict nothing is asked."""
    entries = "".join(f"En{n}\tde{n}\n" for n in (1, 2, 3, 9))
    (place / "gold.tsv").write_text(f"{entries}en4\tnicht hier\n")
    monkeypatch.setattr(translation, "LOOP_DICTIONARIES", {"de": dictionaries.LOOP_DICTIONARIES["de"], "eu": {}})
    # The vector of a word is that of its last letter; level 2 has the wrong one for English.
    eye = np.eye(8, dtype=np.float32)

    def encode(texts, level):
        return np.array([eye[(int(text[-1]) + (text[0] == "e") * level) % 8] for text in texts])

    monkeypatch.setattr(translation, "load", lambda directory: SimpleNamespace(encode=encode))
    for language, found in (("de", {"gold/0": 1.0, "gold/2": 0.0}), ("eu", {})):
        mixture = SimpleNamespace(tasks=(dictionaries.HELP.format("de"),))
        stages = (SimpleNamespace(streams=(SimpleNamespace(mixture=mixture),)),)
        recipe = SimpleNamespace(lexicon=SimpleNamespace(languages=("en", language)), stages=stages)
        assert translation.measured(place, recipe) == found
