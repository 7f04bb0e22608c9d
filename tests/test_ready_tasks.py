"""Ready tasks of TFDS's data sets, read from TFDS's mock data: live data equal the store's."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, Vocabulary, open_stores, open_tokenizer
from xalign_jax.data.text.lines import is_language
from xalign_jax.errors import UserError
from xalign_jax.preparing import open_task

BYTES = Vocabulary(kind="bytes")
TED = ("ar", "de", "en", "pt-br", "zh-cn")
# Task -> languages of its documents, and documents of an example.
TASKS = {
    "wiki40b.de": ({"de"}, 1),
    "wiki40b.zh_cn": ({"zh-CN"}, 1),
    "mc4.bg_Latn": ({"bg-Latn"}, 1),
    "opus.medical": ({"de", "en"}, 2),
    "para_crawl.ende": ({"de", "en"}, 2),
    "paws_x_wiki.ja": ({"ja"}, 2),
    "flores.neen": ({"ne", "en"}, 2),
    "ted_multi_translate": ({"ar", "de", "en", "pt-BR", "zh-CN"}, 5),
    "xnli": ({*["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]}, 30),
}


@pytest.fixture(scope="module", autouse=True)
def libraries():
    global seqio, tf, tfds, tasks
    names = ("seqio", "tensorflow", "tensorflow_datasets", "xalign_jax.tasks")
    seqio, tf, tfds, tasks = (pytest.importorskip(name) for name in names)


@pytest.fixture
def mocked(monkeypatch):
    """TFDS's mock data, 12 examples a split. Random strings are no languages, so those are set."""

    def examples(self, split, *args, **kwargs):
        name = str(split)

        def fill(feature, path, i):
            if isinstance(feature, tfds.features.TranslationVariableLanguages):
                codes = TED if "ted" in self.name else sorted(TASKS["xnli"][0])
                texts = [f"{name} {code} {path} {i}" for code in codes]
                return {"language": list(codes), "translation": texts}
            if isinstance(feature, tfds.features.FeaturesDict):
                return {key: fill(part, f"{path}{key}", i) for key, part in feature.items()}
            return f"{name} {path} {i}" if feature.np_dtype in (object, np.str_) else 0

        rows = [fill(self.info.features, "", i) for i in range(12)]
        spec = self.info.features.get_tensor_spec()
        return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)

    languages = ("bg-Latn", "bg-Latn-validation")
    splits = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[12], num_bytes=100)
        for name in ("train", "validation", "test", *languages)
    }
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", splits)
    with tfds.testing.mock_data(num_examples=12, as_dataset_fn=examples):
        yield


def live(name, split):
    dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split=split, shuffle=False)
    return [tuple(row[key].decode() for key in ("text", "language", "group_id")) for row in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("name", TASKS)
def test_live_examples_are_the_documents_of_the_store(mocked, tmp_path, name):
    """The same texts, languages and groups; and the same ids as the store's, end included."""
    languages, each = TASKS[name]
    found = live(name, "validation")
    assert len(found) == 12 * each and {language for _, language, _ in found} == languages
    assert all(is_language(language) and text for text, language, _ in found)
    groups = Counter(group for _, _, group in found if group)
    assert set(groups.values()) == ({len(languages)} if len(languages) > 1 else set())
    if name in ("flores.neen", "xnli"):
        assert "train" not in seqio.get_mixture_or_task(name).splits
        return
    reader = tasks.open_task(name)
    for split in ("train", "validation"):
        assert [tuple(example.document)[:3] for example in reader.read(split)] == live(name, split)
    texts = Texts(BYTES, (name,), tmp_path)
    run(texts, [], open_task)
    task = tasks.seqio_task(name, BYTES, cache=tmp_path)
    rows = task.get_dataset(sequence_length=None, split="validation", shuffle=False).as_numpy_iterator()
    tokens = [(row["language"].decode(), tuple(row["targets"].tolist())) for row in rows]
    stored = [
        (language, tuple(s.tokens[a:b].tolist()))
        for language, s in open_stores(texts, name)["validation"].items()
        for a, b in zip(s.offsets, s.offsets[1:], strict=False)
    ]
    assert sorted(tokens) == sorted(stored)


def test_sets_for_evaluation_have_no_training_text(mocked, tmp_path):
    assert [example for example in tasks.open_task("xnli").read("train")] == []
    assert len(list(tasks.open_task("xnli").read("validation"))) == 360


def test_a_group_does_not_depend_on_the_order_of_examples(mocked):
    task = seqio.get_mixture_or_task("opus.medical")
    shuffled = task.get_dataset(sequence_length=None, split="train", shuffle=True, seed=3).as_numpy_iterator()
    rows = {tuple(row[key].decode() for key in ("text", "language", "group_id")) for row in shuffled}
    assert rows == set(live("opus.medical", "train"))


@pytest.mark.parametrize("specials", [False, True])
def test_a_clone_has_the_ids_of_its_language_in_the_store(mocked, tmp_path, specials):
    vocabulary = Vocabulary(kind="bytes", clones=2, clone_specials=specials)
    texts = Texts(vocabulary, ("opus.medical",), tmp_path)
    run(texts, [], open_task)
    tokenizer = open_tokenizer(texts)
    mixture = tasks.clone_mixture(f"clones_of_tests_{specials}", "opus.medical", vocabulary, (0.8, 0.1, 0.1), tmp_path)
    (clone,) = [task for task in mixture.tasks if "_clone2_" in task.name]
    rows = list(clone.get_dataset(sequence_length=None, split="train", shuffle=False).as_numpy_iterator())
    found = [row["targets"].tolist() for row in rows if row["language"] == b"de_clone2"]
    s = open_stores(texts, "opus.medical")["train"]["de"]
    stored = [tokenizer.clone(s.tokens[a:b], 2).tolist() for a, b in zip(s.offsets, s.offsets[1:], strict=False)]
    assert sorted(found) == sorted(stored) and {row["language"] for row in rows} == {b"de_clone2", b"en_clone2"}
    mixed = mixture.get_dataset(sequence_length=None, split="train", shuffle=False, num_epochs=1).as_numpy_iterator()
    assert {row["language"] for row in mixed} >= {b"de", b"de_clone", b"de_clone2"}
    with pytest.raises(UserError, match=r"give 3 positive numbers, because Vocabulary\.clones = 2"):
        tasks.clone_mixture("other_of_tests", "opus.medical", vocabulary, (0.9, 0.1), tmp_path)
    with pytest.raises(UserError, match=r"clone 3 of 'opus\.medical', but Vocabulary\.clones = 2"):
        tasks.seqio_task("opus.medical", vocabulary, cache=tmp_path, clone=3)


def test_folders_of_sentences(tmp_path):
    for name, text in (("deu_Latn.dev", "eins\nzwei\n"), ("eng_Latn.dev", "one\ntwo\n"), ("_lines.tsv", "0\td\n")):
        (tmp_path / name).write_text(text)
    tasks.register_sentences("sentences_of_tests", str(tmp_path))
    found = [
        example.document
        for split in ("train", "validation")
        for example in tasks.open_task("sentences_of_tests").read(split)
    ]
    assert {(d.text, d.language, d.group) for d in found} == {
        *(("eins", "deu-Latn", "1"), ("zwei", "deu-Latn", "2"), ("one", "eng-Latn", "1"), ("two", "eng-Latn", "2"))
    }
    (tmp_path / "deu_Latn.txt").write_text("x\n")
    with pytest.raises(UserError, match=r"are both in 'deu-Latn'"):
        tasks.register_sentences("other_of_tests", str(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no files such as de\.txt"):
        tasks.register_sentences("other_of_tests", str(tmp_path / "none"))


def test_importing_the_tasks_opens_no_data_set():
    code = (
        "import tensorflow_datasets as tfds\n"
        "def builder(*a, **k): raise SystemExit('opened')\n"
        "tfds.builder = tfds.load = builder\n"
        "import xalign_jax.tasks"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
