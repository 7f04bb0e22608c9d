"""The contents of `results.json`: strict JSON, the conditions of each row, and rows of several conditions together."""

from __future__ import annotations

import dataclasses
import json
import math
import types

import numpy as np
import pytest
from test_report import write_run
from test_retrieval import _lexicon
from test_similarity import _facts, _tables, _text

from xalign_jax.evaluation import probes as all_probes
from xalign_jax.evaluation.parallel import Mexa, Retrieval
from xalign_jax.interfaces import ProbedRun
from xalign_jax.recipe import as_json
from xalign_jax.records.files import read_results, read_shown
from xalign_jax.reports.report import compare, report
from xalign_jax.runtime.logs import RESULT_KEYS, write_results
from xalign_jax.training import run_directory
from xalign_jax.training.probing import run_probes

# Probes of files are tested in test_other_texts.py.
FILES = ("InformationParity", "LexiconInduction", "PoolRetrieval")
PROBES = [name for name in all_probes.__all__ if name not in FILES and hasattr(getattr(all_probes, name), "rows")]


def strict(path):
    """Parse strict JSON, which has no Infinity and no NaN."""

    def refuse(constant):
        raise AssertionError(f"{path}: {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def probe(name: str, **settings):
    cls = getattr(all_probes, name)
    length = {"length": 16} if "length" in {field.name for field in dataclasses.fields(cls)} else {}
    measures = {"measures": (Mexa(), Retrieval())} if cls is all_probes.ParallelText else {}
    return cls(**length | measures | settings)


def measured(toy, tokenizer, probes, scale: float = 1.0, texts: int = 60):
    """Rows of probes on a model whose logits are random tables times `scale`."""
    table = _tables(tokenizer, "other")
    stores = [_text(toy, texts), dataclasses.replace(_text(toy, texts), split="train")]
    corpus = toy.corpus(tokenizer, stores, _lexicon(toy, tokenizer), _facts(tokenizer))
    model = toy.model(tokenizer.size, 16)
    return run_probes(probes, ProbedRun(model.bind(toy.params(table, table * scale)), corpus, 0))[0]


@pytest.mark.parametrize("scale", [1.0, 1e4, math.nan])
@pytest.mark.parametrize("name", PROBES)
def test_every_probe_writes_strict_json(toy, tokenizer, tmp_path, name, scale):
    """This also holds where the loss is too large for its exponential, or where the model is broken."""
    rows = measured(toy, tokenizer, [probe(name)], scale)
    run_directory.add_results(tmp_path, [probe(name)], rows, "pretrain", 10, 0)
    found = strict(tmp_path / "results.json")
    settings = json.loads(json.dumps([as_json(one) for one in probe(name).settings()]))
    assert found and {tuple(row) for row in found} == {RESULT_KEYS}
    for row in found:
        assert (row["value"] is None) == (row["reason"] is not None)
        assert row["n"] >= 1 and row["settings"] in settings and len(row["data"]) == 12
    if scale == 1.0:
        assert all(math.isfinite(row["value"]) for row in found)
    tables = read_shown(tmp_path)
    assert {row["probe"] for row in found} == tables.keys()
    for probe_name, shown in tables.items():
        own = [row for row in found if row["probe"] == probe_name]
        assert {row["metric"] for row in own} <= shown["columns"].keys()
        assert shown["by_level"] == any(row["level"] is not None for row in own)


def test_what_is_not_finite_says_what_it_was(tmp_path, toy, tokenizer):
    rows = measured(toy, tokenizer, [probe("Perplexity")], 1e4)
    run_directory.add_results(tmp_path, [], rows, "pretrain", 10, 0)
    perplexity = [row for row in strict(tmp_path / "results.json") if row["metric"] == "perplexity"]
    assert {(row["value"], row["reason"]) for row in perplexity} == {(None, "not finite: inf")}


def test_rows_of_other_settings_and_data_stand_beside_each_other(tmp_path, toy, tokenizer):
    def add(windows: int, texts: int) -> list[dict]:
        rows = measured(toy, tokenizer, [probe("Perplexity", windows=windows)], texts=texts)
        run_directory.add_results(tmp_path, [], rows, "pretrain", 10, 0)
        return read_results(tmp_path)

    count = len(add(4, 60))
    assert len(add(4, 60)) == count  # the same again
    assert len(add(8, 60)) == 2 * count
    assert len(add(8, 30)) == 3 * count
    rows = read_results(tmp_path)
    assert {(row["settings"]["windows"], row["data"]) for row in rows} == {
        (4, rows[0]["data"]),
        (8, rows[0]["data"]),
        (8, rows[-1]["data"]),
    }


def test_the_place_of_a_file_is_no_condition_and_its_contents_are(tmp_path, toy, tokenizer):
    def add(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        files = {"en": str(tmp_path / name), "en_clone": str(tmp_path / name)}
        rows = measured(toy, tokenizer, [probe("HiddenCosine", files=files)])
        run_directory.add_results(tmp_path, [], rows, "pretrain", 10, 0)
        return len(read_results(tmp_path))

    count = add("a.txt", "one\ntwo\n")
    assert add("b.txt", "one\ntwo\n") == count
    assert add("a.txt", "one\nthree\n") == 2 * count


def test_data_is_that_of_the_text_and_not_of_its_tokens(toy, tokenizer):
    """Bits per byte of two vocabularies can be compared in one table."""
    stores = [toy.store([[10, 11, 12, 1]]), toy.store([[20, 1]])]
    found = []
    for store in stores:
        table = np.zeros((tokenizer.size, 4))
        corpus = toy.corpus(tokenizer, [store])
        found += probe("Perplexity").rows(
            ProbedRun(toy.model(tokenizer.size, 4).bind(toy.params(table, table)), corpus, 0)
        )
    assert len({row["data"] for row in found}) == 1


def test_a_stage_has_been_probed_when_its_own_probes_have_run(tmp_path):
    stage = types.SimpleNamespace(name="pretrain", probes=(probe("Perplexity"), probe("Knowledge")))
    about = {"stage": "pretrain", "step": 10, "probe": "perplexity", "metric": "perplexity", "value": 1.0, "n": 1}
    write_results(tmp_path, [about | {"settings": as_json(probe("Perplexity", windows=3))}])
    assert not run_directory.has_results(tmp_path, stage, 10)  # of `xalign evaluate`
    write_results(tmp_path, [about | {"settings": as_json(probe("Perplexity"))}])
    assert run_directory.has_results(tmp_path, stage, 10)
    assert not run_directory.has_results(tmp_path, stage, 20)
    write_results(tmp_path, [about])
    assert run_directory.has_results(tmp_path, stage, 10)  # written before settings were


def _evaluated(folder, **changes):
    """Add rows of sentence retrieval on another test set to a run's results at a step."""
    about = {"class": "SentenceRetrieval", "length": 32, "sentences": 1000, "files": [["en", "news.en"]]} | changes
    data = about.pop("data", "aaaaaaaaaaaa")
    step, value, n = (about.pop(key) for key in ("step", "value", "n"))
    found = json.loads((folder / "results.json").read_text())
    row = {"stage": "pretrain", "step": step, "seed": 0, "probe": "sentence_retrieval", "metric": "accuracy"}
    row |= {"language": "en->de", "level": 2, "split": None, "control": None, "value": value, "n": n}
    found.append(row | {"settings": about, "data": data})
    (folder / "results.json").write_text(json.dumps(found))


def test_a_report_tells_test_sets_and_settings_apart(tmp_path):
    folder = write_run(tmp_path / "run", "joint", 0)
    _evaluated(folder, step=100, value=0.25, n=1000)
    assert "## Sentence retrieval, en->de\n" in report(folder)  # a single one needs no name
    _evaluated(folder, step=100, value=0.5, n=100, sentences=100)
    _evaluated(folder, step=100, value=0.75, n=1000, data="bbbbbbbbbbbb", files=[["en", "tales.en"]])
    text = report(folder)
    parts = [part for part in text.split("\n## ") if part.startswith("Sentence retrieval, en->de, ")]
    assert len(parts) == 3
    for value, n, about in (
        ("0.250", 1000, 'sentences = 1000, files = [["en", "news.en"]], data aaaaaaaaaaaa'),
        ("0.500", 100, 'sentences = 100, files = [["en", "news.en"]], data aaaaaaaaaaaa'),
        ("0.750", 1000, 'sentences = 1000, files = [["en", "tales.en"]], data bbbbbbbbbbbb'),
    ):
        (part,) = (part for part in parts if value in part)
        assert f": n = {n}, {about}." in part
    text = compare([folder, write_run(tmp_path / "other", "kept", 0)], tmp_path / "out")
    assert text.count("## Sentence retrieval, en->de, ") == 3


def test_settings_tell_columns_of_one_table_apart(tmp_path):
    folder = write_run(tmp_path / "run", "joint", 0)
    rows = json.loads((folder / "results.json").read_text())
    for row in [row for row in rows if row["probe"] == "perplexity"]:
        rows.append(row | {"value": 7.5, "settings": {"class": "Perplexity", "windows": 3}, "data": "cccccccccccc"})
    (folder / "results.json").write_text(json.dumps(rows))
    text = report(folder)
    header = text.split("## Language model")[1].split("\n")[2]
    assert header.count("| perplexity en ") == 2 and header.count("| perplexity en |") == 1
    assert "unnamed: n = 1000, settings and data were not recorded." in text
    assert ": n = 1000, data cccccccccccc." in text and "7.500" in text


def test_what_was_measured_at_an_earlier_step_does_not_pass_for_the_newest(tmp_path):
    folder = write_run(tmp_path / "run", "joint", 0)
    _evaluated(folder, step=50, value=0.25, n=1000)
    lines = report(folder).split("## Sentence retrieval, en->de")[1].splitlines()
    assert [line.split("|")[1].strip() for line in lines if "0.250" in line] == ["pretrain, step 50"]
    text = compare([folder], tmp_path / "out")
    assert any(line.startswith("| joint, step 50 of pretrain ") and "0.250" in line for line in text.splitlines())


def test_one_run_has_no_spread(tmp_path):
    """Two stages of a run are not two draws, and neither are two runs of one seed."""
    folder = write_run(tmp_path / "run", "prealign", 0)
    rows = json.loads((folder / "results.json").read_text())
    untrained = next(row for row in rows if row["control"] == "untrained" and row["level"] == 0)
    rows.append(untrained | {"stage": "align", "step": 20})
    (folder / "results.json").write_text(json.dumps(rows))
    text = report(folder)
    assert "±" not in text
    controls = [line for line in text.splitlines() if line.startswith("| control: untrained")]
    assert controls and {line.split("|")[2].strip() for line in controls} == {"1"}
    copies = [write_run(tmp_path / name, name, 0) for name in ("joint", "kept")]
    again = write_run(tmp_path / "again", "joint", 0)
    text = compare([folder, *copies, again], tmp_path / "out")
    assert "±" not in text.replace("Means over seeds ± their", "")
    assert "| joint " in text and "|    2 |" in text  # two runs, one seed


def test_a_value_that_is_not_finite_is_shown_and_counted(tmp_path):
    folders = [write_run(tmp_path / str(seed), "joint", seed) for seed in (0, 1)]
    rows = json.loads((folders[0] / "results.json").read_text())
    for row in rows:
        if row["probe"] == "perplexity":
            row |= {"value": None, "reason": "not finite: inf"}
    (folders[0] / "results.json").write_text(json.dumps(rows))
    text = compare(folders, tmp_path / "out")
    line = next(line for line in text.split("## Language model")[1].splitlines() if line.startswith("| joint"))
    assert "nan" in line
