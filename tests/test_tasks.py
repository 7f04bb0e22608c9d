"""Tasks as seqio sees them, and preparation inside this process (seqio takes ten seconds to import, once)."""

import filecmp
import json
import sys

import doc_blocks
import numpy as np
import pytest

from xalign_jax.data.store import prepare as preparation
from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores, open_tokenizer, store_info
from xalign_jax.data.store.vocabularies import _cut
from xalign_jax.data.text import readers
from xalign_jax.errors import UserError
from xalign_jax.preparing import open_task

SMALL = Vocabulary(size=300, lowercase=True)


@pytest.fixture(scope="session", autouse=True)
def libraries():
    """Imported by the process that runs these tests, not by all that collect them."""
    global seqio, tf, tasks
    seqio, tf, tasks = (pytest.importorskip(name) for name in ("seqio", "tensorflow", "xalign_jax.tasks"))


# One for the process: seqio keeps what is registered, and xdist may hand this module's tests out in several parts.
@pytest.fixture(scope="session")
def text_task(libraries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for language, verb in (("en", "walks"), ("de", "geht")):
        lines = (f"{language} person {i} {verb} to the {'river' if i % 3 else 'town'} {i * i}." for i in range(300))
        (folder / f"{language}.txt").write_text("\n".join(lines))
    tasks.register_text(
        "text_of_tests", {language: str(folder / f"{language}.txt") for language in ("en", "de")}, "line"
    )
    return "text_of_tests"


@pytest.fixture(scope="module")
def cache(text_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    run(Texts(SMALL, [text_task], folder), [], open_task)
    return folder


def documents(task):
    reader = tasks.open_task(task)
    return {split: [example.document for example in reader.read(split)] for split in ("train", "validation")}


def test_tasks_yield_text_language_group(text_task):
    dataset = seqio.get_mixture_or_task(text_task).get_dataset(sequence_length=None, split="train", shuffle=False)
    row = next(dataset.as_numpy_iterator())
    assert set(row) == {"text", "language", "group_id"}
    assert row["text"].decode().startswith("en person")
    assert (row["language"], row["group_id"]) == (b"en", b"")


def test_two_preparations_are_bit_equal(text_task, cache, tmp_path):
    run(Texts(SMALL, [text_task], tmp_path), [], open_task)
    files = sorted(p.relative_to(cache) for kind in ("stores", "vocabularies") for p in (cache / kind).rglob("*.*"))
    assert len(files) > 20
    _, mismatch, errors = filecmp.cmpfiles(cache, tmp_path, [str(f) for f in files], shallow=False)
    assert (mismatch, errors) == ([], [])


def test_live_task_gives_the_ids_of_the_store(text_task, cache):
    for vocabulary in (SMALL, Vocabulary(kind="bytes")):
        run(Texts(vocabulary, [text_task], cache), [], open_task)
        live = tasks.seqio_task(text_task, vocabulary, cache=cache)
        dataset = live.get_dataset(sequence_length=None, split="validation", shuffle=False)
        rows = [(r["language"].decode(), tuple(r["targets"].tolist())) for r in dataset.as_numpy_iterator()]
        stored = []
        for language, s in open_stores(Texts(vocabulary, [text_task], cache), text_task)["validation"].items():
            stored += [
                (language, tuple(s.tokens[a:b].tolist())) for a, b in zip(s.offsets, s.offsets[1:], strict=False)
            ]
        assert len(rows) > 8
        assert sorted(rows) == sorted(stored)


def test_registered_sources(tmp_path):
    (tmp_path / "en").write_text("1\tone day\n2\ttwo days\n3\tthree\n")
    (tmp_path / "de").write_text("1\tein Tag\n2\tzwei Tage\n3\tdrei\n")
    files = {"en": tmp_path / "en", "de": tmp_path / "de"}
    tasks.register_tsv("tsv_of_tests", files)
    tasks.register_pairs("pairs_of_tests", files)
    (tmp_path / "rows").write_text('{"body": "a text", "lang": "fr"}\n{"body": "b text"}\n')
    tasks.register_jsonl("jsonl_of_tests", {"en": tmp_path / "rows"}, text="body", language="lang")
    for name in ("tsv_of_tests", "pairs_of_tests"):
        found = documents(name)
        groups = {split: {d.group for d in of} for split, of in found.items()}
        assert len(groups["validation"]) >= 1
        assert not groups["train"] & groups["validation"]
    assert {d.language for of in documents("jsonl_of_tests").values() for d in of} == {"en", "fr"}
    with pytest.raises(UserError, match=r"block"):
        tasks.register_text("x", files, document="page")


@pytest.mark.parametrize("task", ["catalogs", pytest.param("docs_en", marks=pytest.mark.slow)])
def test_embedded_tasks_split_by_group_and_text(task):
    languages, share = {"docs_en": (1, (0.015, 0.05)), "catalogs": (80, (0.15, 0.25))}[task]
    found = documents(task)
    texts = {split: {" ".join(d.text.split()).casefold() for d in of} for split, of in found.items()}
    groups = {split: {d.group for d in of} - {""} for split, of in found.items()}
    assert not texts["train"] & texts["validation"]
    assert not groups["train"] & groups["validation"]
    assert len({d.language for d in found["train"]}) >= languages
    assert share[0] < len(found["validation"]) / sum(map(len, found.values())) < share[1]


def test_names_nobody_registered(tmp_path):
    with pytest.raises(UserError, match=r"no seqio task 'docs_fr'.*docs_en.*Recipe\.modules"):
        tasks.open_task("docs_fr")
    with pytest.raises(UserError, match=r"Recipe\.modules: cannot import 'no_such_module'"):
        run(Texts(SMALL, ["docs_en"], tmp_path), ["no_such_module"], open_task)
    with pytest.raises(UserError, match=r"tfds:LANGUAGE=c4"):
        tasks.open_task("tfds:c4")
    with pytest.raises(UserError, match=r"names a language twice"):
        tasks.open_task("tfds:wiki40b/en,en=c4/en:3.1.0")
    with pytest.raises(UserError, match=r"TFDS cannot open 'no_such/en'"):
        tasks.open_task("tfds:no_such/en")


def test_tfds(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def examples(self, split, *args, **kwargs):
        rows = [f"_START_ARTICLE_\nTitle {split} {i}\n_START_PARAGRAPH_\nText {i}._NEWLINE_More." for i in range(40)]
        return tf.data.Dataset.from_tensor_slices({"text": rows, "wikidata_id": rows, "version_id": rows})

    sizes = {"shard_lengths": [40], "num_bytes": 100}
    splits = {name: tfds.core.SplitInfo(name=name, **sizes) for name in ("train", "validation", "test")}
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", splits)
    with tfds.testing.mock_data(num_examples=40, as_dataset_fn=examples):
        run(Texts(Vocabulary(kind="bytes"), ["tfds:wiki40b/en"], tmp_path), [], open_task)
    tokenizer = open_tokenizer(Texts(Vocabulary(kind="bytes"), ["tfds:wiki40b/en"], tmp_path))
    stores = open_stores(Texts(Vocabulary(kind="bytes"), ["tfds:wiki40b/en"], tmp_path), "tfds:wiki40b/en")
    s = stores["validation"]["en"]
    assert tokenizer.decode(s.tokens[: s.offsets[1]]).startswith("Title ")
    assert "_START_" not in tokenizer.decode(s.tokens)


def tokenised_task(name, model_file):
    def dataset(split, shuffle_files=False, seed=None):
        n = {"train": 30, "validation": 4}[split]
        offset = 0 if split == "train" else 28
        texts = tf.data.Dataset.range(n).map(lambda i: tf.strings.join(["person ", tf.strings.as_string(i + offset)]))
        return texts.map(lambda text: {"targets": text})

    feature = seqio.Feature(seqio.SentencePieceVocabulary(str(model_file)))
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"targets": feature},
        metric_fns=[],
    )


def test_tokenised_tasks(cache, text_task, tmp_path):
    model = next((cache / "vocabularies").rglob("spm.model"))
    tokenised_task("tokenised_of_tests", model)
    same = Vocabulary(path=str(model))
    run(Texts(same, ["tokenised_of_tests"], tmp_path), [], open_task)
    s = open_stores(Texts(same, ["tokenised_of_tests"], tmp_path), "tokenised_of_tests")["train"]["und"]
    tokenizer = open_tokenizer(Texts(same, ["tokenised_of_tests"], tmp_path))
    assert (s.tokens[s.offsets[1:] - 1] == tokenizer.eos).all()
    assert not (s.tokens[s.offsets[1:] - 2] == tokenizer.eos).any()
    assert len(s.group) == 28  # two of thirty stand in validation too
    assert (
        store_info(Texts(same, ["tokenised_of_tests"], tmp_path), "tokenised_of_tests")["dropped_as_validation_text"]
        == 2
    )
    with pytest.raises(UserError, match=r"another vocabulary"):
        run(Texts(Vocabulary(kind="bytes"), ["tokenised_of_tests"], tmp_path), [], open_task)


def test_what_runs_compare_outlives_the_format_of_the_cache(text_task, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "FORMAT", 99)
    run(Texts(SMALL, [text_task], tmp_path), [], open_task)
    before, after = (store_info(Texts(SMALL, [text_task], folder), text_task) for folder in (cache, tmp_path))
    assert after["format"] == 99 != before["format"] and after["fingerprint"] == before["fingerprint"]


def test_vocabulary_needs_an_end(tmp_path, cache, text_task):
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"] * 5), model_writer=out, vocab_size=8, model_type="char", eos_id=-1
    )
    (tmp_path / "m.model").write_bytes(out.getvalue())
    with pytest.raises(UserError, match=r"no end-of-sequence piece"):
        run(Texts(Vocabulary(path=str(tmp_path / "m.model")), [text_task], tmp_path), [], open_task)


def test_long_lines_are_cut_for_training():
    line = " ".join(["word"] * 5000)
    parts = _cut(line)
    assert " ".join(parts) == line
    assert max(map(len, parts)) <= 4000
    assert "".join(_cut("日" * 5000)) == "日" * 5000


def test_a_document_of_nothing_but_an_invisible_character_is_an_empty_one(text_task, tmp_path):
    """SentencePiece normalises it away; Python does not call it white space."""
    (tmp_path / "en.txt").write_text("\n".join(["A line of text."] * 3 + ["\u200b", "Another."]))
    name = f"lines:en={tmp_path}/en.txt"
    run(Texts(SMALL, [name, text_task], tmp_path), [], open_task)
    stores = open_stores(Texts(SMALL, [name, text_task], tmp_path), name)
    lengths = np.concatenate([np.diff(split["en"].offsets) for split in stores.values()])
    assert lengths.min() == 1 and lengths.max() > 1  # its eos stands alone


def test_a_changed_module_makes_its_tasks_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = """
import seqio, tensorflow as tf
from xalign_jax.tasks.registration import FEATURES
end = "{end}"
rows = lambda dataset: dataset.map(lambda text: {{"text": text + end, "language": "en", "group_id": "", **own(text)}})
own = lambda text: {{"bytes of any number": tf.strings.bytes_split(text)}}
seqio.TaskRegistry.remove("own_of_tests")
source = seqio.TextLineDataSource({{"train": "{path}"}})
seqio.TaskRegistry.add("own_of_tests", source=source, preprocessors=[rows], output_features=FEATURES, metric_fns=[])
"""
    (tmp_path / "text.txt").write_text("\n".join(f"line {i}" for i in range(400)))
    found = []
    for end in ("!", "???"):
        (tmp_path / "own_module.py").write_text(module.format(end=end, path=tmp_path / "text.txt"))
        sys.modules.pop("own_module", None)
        run(Texts(Vocabulary(kind="bytes"), ["own_of_tests"], tmp_path), ["own_module"], open_task)
        tokens = open_stores(Texts(Vocabulary(kind="bytes"), ["own_of_tests"], tmp_path), "own_of_tests")["train"][
            "en"
        ].tokens
        found.append(open_tokenizer(Texts(Vocabulary(kind="bytes"), ["own_of_tests"], tmp_path)).decode(tokens))
    assert "!" in found[0] and "?" not in found[0] and "???" in found[1]


def test_the_python_of_the_page_on_data_registers_tasks():
    (block,) = [block for block in doc_blocks.blocks(doc_blocks.ROOT / "docs" / "data.md") if block.kind == "python"]
    exec(block.text, {"source": readers.EMBEDDED["docs_en"]})
    assert {"novels", "mine"} <= seqio.TaskRegistry.names()


def test_groups_of_the_tasks_of_a_mixture_are_their_own(tmp_path):
    for name in ("first", "second"):
        for language in ("en", "de"):
            (tmp_path / f"{name}.{language}").write_text("\n".join(f"{name} {language} {i}" for i in range(50)))
        tasks.register_pairs(
            f"{name}_of_tests", {language: str(tmp_path / f"{name}.{language}") for language in ("en", "de")}
        )
    seqio.MixtureRegistry.add("both_of_tests", ["first_of_tests", "second_of_tests"], default_rate=1.0)
    run(Texts(Vocabulary(kind="bytes"), ["both_of_tests"], tmp_path), [], open_task)
    tokenizer = open_tokenizer(Texts(Vocabulary(kind="bytes"), ["both_of_tests"], tmp_path))
    stores = open_stores(Texts(Vocabulary(kind="bytes"), ["both_of_tests"], tmp_path), "both_of_tests")["train"]
    texts: dict[int, set[str]] = {}
    for s in stores.values():
        for group, start, end in zip(s.group, s.offsets[:-1], s.offsets[1:], strict=True):
            texts.setdefault(int(group), set()).add(tokenizer.decode(s.tokens[start:end]))
    assert all(len(pair) == 2 and len({text.split()[0] for text in pair}) == 1 for pair in texts.values())


def test_rates_of_a_mixture_are_those_that_seqio_draws_at():
    """A rate may be a function of the Task, and a Mixture may hold another one."""
    for name in ("one", "two", "three"):
        tasks.register_text(f"{name}_of_rates", {"en": "none.txt"})
    add = seqio.MixtureRegistry.add
    add("inner_of_rates", [("one_of_rates", 1.0), ("two_of_rates", lambda task: float(len(task.name)))])
    add("outer_of_rates", [("inner_of_rates", 4.0), ("three_of_rates", 2.0)])
    found = dict(tasks.mixture_rates("outer_of_rates"))
    assert found == pytest.approx({"one_of_rates": 4 / 13, "two_of_rates": 48 / 13, "three_of_rates": 2.0})
    with pytest.raises(UserError, match="'one_of_rates' is a seqio Task, which has no rates"):
        tasks.mixture_rates("one_of_rates")
    add("failing_of_rates", [("one_of_rates", lambda task: task.nothing)])
    with pytest.raises(UserError, match="the rate of 'one_of_rates' in 'failing_of_rates' fails"):
        tasks.mixture_rates("failing_of_rates")
    add("negative_of_rates", [("one_of_rates", -1.0)])
    with pytest.raises(UserError, match=r"gives 'one_of_rates' the rate -1\.0"):
        tasks.mixture_rates("negative_of_rates")


def test_store_keeps_groups_of_catalogs(tmp_path):
    run(Texts(Vocabulary(kind="bytes"), ["catalogs"], tmp_path), [], open_task)
    stores = open_stores(Texts(Vocabulary(kind="bytes"), ["catalogs"], tmp_path), "catalogs")["train"]
    shared = np.intersect1d(stores["en"].group, stores["de"].group)
    assert len(shared) > 500
    assert min(stores["en"].group) >= 0


def test_seqio_tasks_carry_fields(tmp_path):
    """A live task has a feature for each field, and a task of the user's own may have them too."""
    seqio, tasks = (pytest.importorskip(name) for name in ("seqio", "xalign_jax.tasks"))
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"Ada {i}", "l": i % 2, "s": [[0, 3, "PER"]]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks.register_jsonl("with_fields", {"en": str(path)}, label="l", spans="s")
    reader = tasks.open_task("with_fields")
    assert reader.fields == ("label", "spans")
    live = seqio.get_mixture_or_task("with_fields").get_dataset(sequence_length=None, split="train", shuffle=False)
    documents = [example.document for example in reader.read("train")]
    for row, document in zip(live.as_numpy_iterator(), documents, strict=True):
        assert (row["text"].decode(), row["label"].decode()) == (document.text, document.label)
        assert json.loads(row["spans"]) == [[0, 3, "PER"]]
    # The same features, registered by somebody else.
    seqio.TaskRegistry.add(
        "foreign_fields",
        source=seqio.get_mixture_or_task("with_fields").source,
        preprocessors=[],
        output_features=seqio.get_mixture_or_task("with_fields").output_features,
        metric_fns=[],
    )
    foreign = tasks.open_task("foreign_fields")
    assert foreign.fields == reader.fields
    assert [example.document for example in foreign.read("train")] == documents
