"""Cleaning: planted duplicates, their recall and false positives, lengths, groups, and stores through preparation."""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import pytest

from xalign_jax.data.cleaning import identify, lengths, minhash
from xalign_jax.data.cleaning.comparable import comparable
from xalign_jax.data.cleaning.reader import EXAMPLES, CleanReader, lines
from xalign_jax.data.cleaning.settings import Cleaning
from xalign_jax.data.store.store import Texts, open_stores, open_tokenizer, prepare, store_info
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.readers import Example
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError

BYTES = Vocabulary(kind="bytes")
LETTERS = "etaoinshrdlucmfwypvbgk"


def sentence(rng: random.Random, words: int = 18) -> str:
    """A sentence of made-up words, about 100 characters long."""
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(words)).capitalize() + "."


def edited(text: str, rate: float, rng: random.Random) -> str:
    """The text with a share of its characters replaced."""
    characters = list(text)
    for place in rng.sample(range(len(text)), round(rate * len(text))):
        characters[place] = rng.choice("qxzj")
    return "".join(characters)


def jaccard(first: str, second: str) -> float:
    """The similarity that signatures estimate."""
    a, b = ({(text + "\0" * 4)[i : i + 5] for i in range(len(text))} for text in (first, second))
    return len(a & b) / len(a | b)


class Documents:
    """A reader of given documents: {split: [(text, language, group), ...]}."""

    def __init__(self, **splits) -> None:
        self.splits, self.share = {"validation": [], "train": []} | splits, 0.03

    def fingerprint(self) -> str:
        return repr(self.splits)

    def read(self, split: str):
        return (Example(Document(*document)) for document in self.splits[split])

    def stamps(self):
        return []


def kept(reader: CleanReader) -> dict[str, list[str]]:
    return {split: [example.document.text for example in reader.read(split)] for split in ("validation", "train")}


def english(*texts: str) -> list[tuple[str, str]]:
    return [(text, "en") for text in texts]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Hello,  world!", "hello world"),
        ("ﬁne Ａ１", "fine a1"),  # a ligature and wide characters
        ("你好，世界。", "你好 世界"),
        ("so\u00adft hy\u200bphen", "soft hyphen"),
    ],
)
def test_comparable_texts_are_equal(first, second):
    assert comparable(first) == comparable(second)


@pytest.mark.parametrize(("first", "second"), [("की", "का"), ("C", "C++"), ("...", "?!"), ("a1", "a2")])
def test_other_texts_are_not(first, second):
    assert comparable(first) != comparable(second)


def test_exact_duplicates_are_dropped_and_the_first_stays():
    reader = Documents(
        validation=english("In validation.", "once"),
        train=[*english("IN  VALIDATION", "Twice.", "twice", "«Twice»", "other"), ("Twice.", "de")],
    )
    cleaned = CleanReader(reader, Cleaning())
    assert kept(cleaned) == {"validation": ["In validation.", "once"], "train": ["Twice.", "other", "Twice."]}
    report = cleaned.report()
    assert report["documents"]["train"] == {
        "de": {"read": 1, "kept": 1},
        "en": {"read": 5, "kept": 2, "exact": 3},
    }
    assert report["examples"]["exact"][0] == {
        "language": "en",
        "text": "IN  VALIDATION",
        "duplicate of": "In validation.",
    }
    assert list(lines(report)) == ["en: 3 of 7 texts dropped (3 exact)"]


@pytest.mark.parametrize(("rate", "least"), [(0.01, 0.999), (0.03, 0.99), (0.05, 0.97)])
def test_edited_copies_are_found(rate, least):
    """The recall that docs/data.md states for near = 0.45."""
    rng = random.Random(1)
    texts = [sentence(rng) for _ in range(600)]
    copies = [edited(text, rate, rng) for text in texts]
    cleaned = CleanReader(Documents(train=english(*texts, *copies)), Cleaning(near=0.45))
    assert kept(cleaned)["train"][:600] == texts  # no original is lost
    found = cleaned.report()["documents"]["train"]["en"]
    assert found.get("near", 0) + found.get("exact", 0) >= least * 600


def test_texts_that_share_less_are_not_near_duplicates():
    """At most 2 % of pairs whose similarity is 0.1 or more below the limit are taken for near duplicates."""
    rng = random.Random(2)
    texts = [comparable(sentence(rng)) for _ in range(2000)]
    assert not len(minhash.near_pairs(minhash.signatures(texts), 0.45))
    copies = [edited(text, rng.uniform(0.12, 0.2), rng) for text in texts]
    far = [pair for pair in zip(texts, copies, strict=True) if jaccard(*pair) < 0.35]
    first, second = (minhash.signatures(list(side)) for side in zip(*far, strict=True))
    assert len(far) > 1000 and (minhash.similarity(first, second) >= 0.45).mean() <= 0.02
    pairs = minhash.near_pairs(np.concatenate([first, second]), 0.45)
    assert len(pairs) <= 0.02 * len(far) and (pairs[:, 1] - pairs[:, 0] == len(far)).all()


def test_signatures_estimate_similarity():
    rng = random.Random(3)
    texts = [comparable(sentence(rng)) for _ in range(500)]
    copies = [edited(text, rng.uniform(0, 0.2), rng) for text in texts]
    true = np.array([jaccard(*pair) for pair in zip(texts, copies, strict=True)])
    estimates = minhash.similarity(minhash.signatures(texts), minhash.signatures(copies))
    assert abs((estimates - true).mean()) < 0.01 and (estimates - true).std() < 0.05


def test_signatures_do_not_depend_on_what_is_signed_together():
    rng = random.Random(4)
    texts = [comparable(sentence(rng, words)) for words in (1, 3000, 5, 9000, 2)] + ["a", "."]
    together = minhash.signatures(texts)
    np.testing.assert_array_equal(together, np.concatenate([minhash.signatures([text]) for text in texts]))


def test_many_equal_signatures_cost_no_square_of_comparisons():
    assert len(minhash.near_pairs(minhash.signatures(["the same text"] * 5000), 0.9)) <= 5 * 5000


def test_a_chain_of_edits_drops_only_what_is_like_a_text_that_stays():
    rng = random.Random(5)
    chain = [sentence(rng)]
    for _ in range(12):
        chain.append(edited(chain[-1], 0.03, rng))
    left = kept(CleanReader(Documents(train=english(*chain)), Cleaning(near=0.45)))["train"]
    assert 1 < len(left) < len(chain) and left[0] == chain[0]
    forms = [comparable(text) for text in left]
    assert all(jaccard(a, b) < 0.65 for a in forms for b in forms if a != b)


def test_lengths():
    shorter = Cleaning(shortest=3, longest=10)
    reader = Documents(train=english("ab!", "abc", "abcdefghij", "abcdefghij k"))
    assert kept(CleanReader(reader, shorter))["train"] == ["abc", "abcdefghij"]
    # Lengths of a language that needs a third of the characters; text 7 is wrong, and so is one text of the last pair.
    sizes = np.array([100, 110, 30, 50, 52, 16, 80, 10, 25, 70, 75, 60, 10])
    languages = np.array([*([0, 1, 2] * 3), 0, 1, 0, 1])
    groups = np.array([*np.repeat(np.arange(3), 3), 3, 3, 4, 4])
    assert np.flatnonzero(lengths.outliers(sizes, languages, groups, 2.0)).tolist() == [7, 11, 12]
    assert not lengths.outliers(sizes, languages, np.full(13, -1), 2.0).any()
    assert not lengths.outliers(sizes[:3], languages[:3], np.arange(3), 1.1).any()


@pytest.mark.parametrize("whole", [False, True])
def test_translations_of_a_dropped_text_stay_unless_whole_groups_go(whole):
    train = [("One text.", "en", "1"), ("Ein Text.", "de", "1"), ("one text", "en", "2"), ("Noch einer", "de", "2")]
    cleaned = CleanReader(Documents(train=train), Cleaning(whole_groups=whole))
    assert kept(cleaned)["train"] == ["One text.", "Ein Text.", *([] if whole else ["Noch einer"])]
    assert cleaned.report()["documents"]["train"]["de"].get("group", 0) == whole


def test_languages():
    pytest.importorskip("py3langid")
    german, english_text = "Das ist ein ganz gewöhnlicher deutscher Satz.", "This is a perfectly ordinary sentence."
    train = [(german, "en"), (english_text, "en-GB"), (german, "xx"), ("Das ist", "en")]
    cleaned = CleanReader(Documents(train=train), Cleaning(language=0.9))
    assert kept(cleaned)["train"] == [english_text, german, "Das ist"]
    assert identify.known("pt-BR") == "pt" and identify.known("en_ylt") == "en" and identify.known("tlh") is None


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    identify._identifier.cache_clear()
    with pytest.raises(UserError, match=r"Cleaning\.language needs py3langid: .*\[clean\]"):
        identify._identifier()


def test_ten_examples_of_each_kind_and_the_same_report_again():
    rng = random.Random(6)
    texts = [sentence(rng) for _ in range(30)]
    train = english(*texts, *texts, *(edited(text, 0.03, rng) for text in texts), "a", "b")
    reports = []
    for _ in range(2):
        cleaned = CleanReader(Documents(train=train), Cleaning(near=0.45, shortest=2))
        assert len(kept(cleaned)["train"]) == 30
        reports.append(cleaned.report())
    assert reports[0] == reports[1]
    shown = {reason: len(examples) for reason, examples in reports[0]["examples"].items()}
    assert shown == {"short": 2, "exact": EXAMPLES, "near": EXAMPLES}


def test_memory_holds_a_batch_and_not_all_texts(monkeypatch):
    class Long(Documents):
        def read(self, split):
            rng = random.Random(7)
            return (Example(Document(f"{rng.random()} " * 1000, "en")) for _ in range(640 if split == "train" else 0))

    monkeypatch.setattr("xalign_jax.data.cleaning.reader._BATCH", 64)
    cleaned = CleanReader(Long(), Cleaning(near=0.45))
    comparable("so that its table exists")
    tracemalloc.start()
    assert sum(1 for _ in cleaned.read("train")) == 640
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # all texts take 13 MB


@pytest.mark.parametrize(
    "settings", [{"near": 0.1}, {"ratio": 1.0}, {"language": 0}, {"shortest": 0}, {"shortest": 9, "longest": 3}]
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(UserError, match=rf"Cleaning\.{next(iter(settings))} = "):
        Cleaning(**settings)


@pytest.fixture(scope="module")
def tsv(tmp_path_factory):
    """100 groups in two languages; the English text of every fourth one stands twice."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "en.tsv").write_text("\n".join(f"p{i}\tThe page {i - i % 4 // 3} is here." for i in range(100)))
    (folder / "de.tsv").write_text("\n".join(f"p{i}\tDie Seite {i} ist hier." for i in range(100)))
    return f"tsv:en={folder}/en.tsv,de={folder}/de.tsv"


def test_cleaned_stores_are_stores_of_their_own(tsv, tmp_path, capfd):
    prepare(Texts(BYTES, [tsv], tmp_path))
    before = store_info(Texts(BYTES, [tsv], tmp_path), tsv)
    cleaning = Cleaning()
    prepare(Texts(BYTES, [tsv], tmp_path, cleaning=cleaning))
    assert store_info(Texts(BYTES, [tsv], tmp_path), tsv) == before
    assert not (Texts(BYTES, [tsv], tmp_path).directory(tsv) / "cleaning.json").exists()
    assert f"{tsv}: en: " in capfd.readouterr().err
    stores = open_stores(Texts(BYTES, [tsv], tmp_path, cleaning=cleaning), tsv)
    tokenizer = open_tokenizer(Texts(BYTES, [tsv], tmp_path, cleaning=cleaning))
    texts = [
        tokenizer.decode(s.tokens[a:b])
        for s in (stores[split]["en"] for split in ("train", "validation"))
        for a, b in zip(s.offsets[:-1], s.offsets[1:], strict=True)
    ]
    assert len(texts) == len(set(texts)) == 75
    assert sum(len(stores[split]["de"].group) for split in stores) == 100
    folder = Texts(BYTES, [tsv], tmp_path, cleaning=cleaning).directory(tsv)
    assert stores["train"]["en"].fingerprint != before["fingerprint"]
    report = json.loads((folder / "cleaning.json").read_text())
    dropped = [report["documents"][split].get("en", {}).get("exact", 0) for split in ("validation", "train")]
    assert 0 < sum(dropped) <= 25 and report["settings"]["exact"] is True
    other = Cleaning(whole_groups=True)
    prepare(Texts(BYTES, [tsv], tmp_path, cleaning=other))
    assert Texts(BYTES, [tsv], tmp_path, cleaning=other).directory(tsv) != folder
    with pytest.raises(UserError, match="has not been prepared"):
        open_stores(Texts(BYTES, [tsv], tmp_path, cleaning=Cleaning(exact=False)), tsv)


def test_a_vocabulary_is_trained_on_cleaned_text(tmp_path):
    """A text that is dropped leaves no pieces."""
    rng = random.Random(8)
    rows = [sentence(rng) for _ in range(200)] + ["Ω" * 300]
    (tmp_path / "en.txt").write_text("\n".join(rows))
    task, small = f"lines:en={tmp_path}/en.txt", Vocabulary(size=400)
    prepare(Texts(small, [task], tmp_path / "cache"))
    prepare(Texts(small, [task], tmp_path / "cache", cleaning=Cleaning(longest=200)))
    plain = open_tokenizer(Texts(small, [task], tmp_path / "cache"))
    cleaned = open_tokenizer(Texts(small, [task], tmp_path / "cache", cleaning=Cleaning(longest=200)))
    assert plain.base_fingerprint != cleaned.base_fingerprint
