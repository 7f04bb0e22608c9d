"""Fields of documents: read from formats, stored as columns, and read by feeds."""

import json

import numpy as np
import pytest

from xalign_jax.data import statistics
from xalign_jax.data.corpus import load
from xalign_jax.data.feeds.windows import ContrastFeed, TextFeed, WindowFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, open_stores, open_tokenizer
from xalign_jax.data.text.fields import Span
from xalign_jax.data.text.files import Document
from xalign_jax.data.text.names import parse_name
from xalign_jax.data.text.readers import fields_of, source_reader
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.preparing import open_task

BYTES = Vocabulary(kind="bytes")
KINDS = ("original", "human", "machine")


def documents(name: str) -> list[Document]:
    return list(parse_name(name)[1].documents())


def lines(file, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_jsonl_reads_fields(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        [
            {"text": "  Ada wrote it ", "kind": "human", "gold": 1, "who": [[2, 5, "PER"]]},
            {"text": "no more", "kind": None, "gold": "no", "who": [{"start": 3, "end": 7, "label": "X"}]},
        ],
    )
    found = documents(f"jsonl:en={path},provenance=kind,label=gold,spans=who")
    assert found == [
        Document("Ada wrote it", "en", "", "1", "human", (Span(0, 3, "PER"),)),
        Document("no more", "en", "", "no", None, (Span(3, 7, "X"),)),
    ]


def test_dialogues_are_texts_with_roles(tmp_path):
    said = [{"role": "user", "content": " Hi "}, {"role": "bot", "content": "Ciao!"}, {"role": "user", "content": ""}]
    path = lines(tmp_path / "a.jsonl", [{"messages": said}])
    (found,) = documents(f"jsonl:en={path},roles=messages")
    assert found == Document("Hi\nCiao!", "en", roles=(Span(0, 2, "user"), Span(3, 8, "bot")))


def test_tables_read_fields_of_rows_and_of_languages(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("en,de,gold,how\none,eins,7,machine\ntwo,zwei,,human\n")
    found = documents(f"csv:{path},label=gold,provenance.de=how")
    assert found == [
        Document("one", "en", "1", "7"),
        Document("eins", "de", "1", "7", "machine"),
        Document("two", "en", "2"),
        Document("zwei", "de", "2", None, "human"),
    ]
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"en": ["one", "two"], "de": ["eins", "zwei"], "gold": [7, None], "how": ["machine", "human"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents(f"parquet:{tmp_path}/a.parquet,label=gold,provenance.de=how") == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "abc", "s": [[0, 4, "A"]]}, r"a.jsonl:2: span 'A' \(0 to 4\) is not within the 3 characters"),
        ({"text": "abc", "s": [[-1, 2, "A"]]}, r":2: span 'A' .* is not within"),
        ({"text": "abc", "s": [[2, 2, "A"]]}, r":2: span 'A' .* is not within"),
        ({"text": "abc", "s": [[0, 2, "A"], [1, 3, "B"]]}, r":2: span 'B' \(1 to 3\) overlaps the one before it"),
        ({"text": "abc", "s": [[0, 2]]}, r":2: spans hold \[0, 2\]; expected \[start, end, name\]"),
        ({"text": "abc", "s": [[0, True, "A"]]}, r":2: spans hold"),
        ({"text": "abc", "s": [[0, 1, "\ud800"]]}, r":2: half a surrogate pair in the spans"),
        ({"text": "abc", "s": 5}, r":2: 's' is 5; expected a list"),
        ({"text": "abc", "s": "[["}, r":2: the spans are not JSON"),
        ({"text": "abc", "r": [[0, 2, "a"], [1, 3, "b"]]}, r":2: role 'b' \(1 to 3\) overlaps"),
        ({"r": [{"role": "a", "content": "x"}, {"role": 3, "content": "x"}]}, r":2: a turn is .* expected an object"),
        ({"text": "abc", "p": "robot"}, r":2: the provenance is 'robot'; expected one of original, human, machine"),
        ({"text": "abc", "l": ["x"]}, r":2: the label is \['x'\]; expected text or a whole number"),
        ({"text": "abc", "l": "\udc00"}, r":2: half a surrogate pair in the label"),
        ({"text": "abc", "l": "a\0"}, r":2: a NUL character in the label"),
    ],
)
def test_bad_fields_name_the_line(tmp_path, row, message):
    good = {"text": "ab", "s": [[0, 1, "A"]], "r": [[0, 1, "a"]], "p": "human", "l": "x"}
    path = lines(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(UserError, match=message):
        documents(f"jsonl:en={path},spans=s,roles=r,provenance=p,label=l")


def test_missing_fields(tmp_path, capsys):
    path = lines(tmp_path / "some.jsonl", [{"text": "a", "l": "x"}, {"text": "b"}, {"text": "c", "l": ""}])
    assert [d.label for d in documents(f"jsonl:en={path},label=l")] == ["x", None, None]
    assert "2 of 3 texts have no label" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"some.jsonl: none of 3 texts has label under 'gold'"):
        documents(f"jsonl:en={path},label=gold")
    table = tmp_path / "a.csv"
    table.write_text("en,de\none,eins\n")
    with pytest.raises(UserError, match="no column 'gold'"):
        documents(f"csv:{table},label=gold")
    with pytest.raises(UserError, match=r"'label.fr' names no language of the table: en, de"):
        documents(f"csv:{table},en=en,de=de,label.fr=en")


def test_tasks_without_fields_keep_their_fingerprints(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"text": "a", "l": "x"}, {"text": "b", "l": "y"}])
    # As it was before fields existed.
    assert source_reader(f"jsonl:en={path}").fingerprint().startswith("051596385ef4")
    assert source_reader(f"jsonl:en={path},label=l").fingerprint() != source_reader(f"jsonl:en={path}").fingerprint()
    assert fields_of(f"jsonl:en={path},label=l") == ("label",)
    assert fields_of(f"jsonl:en={path}") == ()
    assert fields_of("some_seqio_task") is None


def corpus(folder, **about) -> tuple[Texts, str]:
    """200 texts in two languages, with all fields."""
    rows = []
    for i in range(200):
        text = f"Grüße {i} von Ada an 東京"
        spans = [[text.index("Ada"), text.index("Ada") + 3, "PER"], [text.index("東京"), len(text), "LOC"]]
        row = {
            "text": text,
            "language": "de",
            "group_id": i,
            "label": i % 3,
            "provenance": KINDS[i % 3],
            "spans": spans,
        }
        rows += [row, {**row, "text": text.replace("Grüße", "Greetings"), "language": "en", "provenance": None}]
        shift = len("Greetings") - len("Grüße")
        rows[-1]["spans"] = [[a + shift, b + shift, name] for a, b, name in spans]
    path = lines(folder / "a.jsonl", rows)
    task = f"jsonl:en={path},label=label,provenance=provenance,spans=spans"
    texts = Texts(Vocabulary(**{"kind": "bytes", **about}), [task], folder / "cache")
    run(texts, [], open_task)
    return texts, task


@pytest.mark.parametrize(
    "about", [{}, {"kind": "sentencepiece", "size": 310}, {"kind": "sentencepiece", "size": 310, "words": "icu"}]
)
def test_stores_have_columns_for_fields(tmp_path, about):
    if about.get("words"):
        pytest.importorskip("icu4py")
    texts, task = corpus(tmp_path, **about)
    tokenizer = open_tokenizer(texts)
    store = open_stores(texts, task)["train"]["de"]
    assert store.tables == {"label": ["0", "1", "2"], "provenance": list(KINDS), "spans": ["LOC", "PER"]}
    # All three fields of a document belong to it: its text, by its number, says what they are.
    for d in range(len(store.offsets) - 1):
        ids = store.tokens[store.offsets[d] : store.offsets[d + 1]]
        tags = store.fields["spans"][store.offsets[d] : store.offsets[d + 1]]
        number = int(tokenizer.decode(ids).split()[1])
        assert store.fields["label"][d] == store.fields["provenance"][d] == number % 3
        for code, name in enumerate(store.tables["spans"]):
            found = tokenizer.decode(ids[(tags == 2 * code + 1) | (tags == 2 * code + 2)]).strip()
            wanted = {"LOC": "東京", "PER": "Ada"}[name]
            # A piece that reaches over the end of a range belongs to it as a whole.
            assert wanted in found if about and not about.get("words") else found == wanted
            assert np.count_nonzero(tags == 2 * code + 1) == 1


def test_mixtures_read_some_documents(tmp_path):
    texts, task = corpus(tmp_path)
    every = Mixture((task,))
    some = Mixture((task,), where={"provenance": ("human", "")}, languages=("de",))
    found = load(texts.vocabulary, None, None, [every], texts.cache)
    feed = TextFeed(64, 4).build(found, some, 8, 0)
    store = found.stores[task]["train"]["de"]
    numbers = set()
    for i in range(20):
        for row in feed.batch(8 * i, slice(None))["tokens"]:
            words = found.tokenizer.decode(row).split()
            numbers.update(int(n) for n in words if n.isdecimal())
    assert numbers and all(number % 3 == 1 for number in numbers)
    assert feed.report["left out by Mixture.where"] == np.count_nonzero(store.fields["provenance"] != 1)
    # Everything chosen is the same as nothing chosen.
    whole = Mixture((task,), where={"provenance": (*KINDS, "")})
    ours, theirs = (TextFeed(64, 4).build(found, m, 8, 0).batch(16, slice(None)) for m in (whole, every))
    assert all((ours[key] == theirs[key]).all() for key in theirs)
    # Pairs: both texts must be chosen. English has no provenance.
    with pytest.raises(UserError, match="no train text has a translation"):
        ContrastFeed(64, 4, 30).build(found, Mixture((task,), where={"provenance": ("human",)}), 8, 0)
    pairs = ContrastFeed(64, 4, 30).build(found, Mixture((task,), where={"label": ("2",)}), 8, 0)
    words = [found.tokenizer.decode(row).split() for row in pairs.batch(0, slice(None))["tokens"]]
    assert {int(word) % 3 for row in words for word in row if word.isdecimal()} == {2}
    assert statistics.fields(found)[0].startswith(f"label ({task}, train, de): ")
    assert "none" in statistics.fields(found)[4] and "LOC" in statistics.fields(found)[2]


def test_fields_that_no_task_declares(tmp_path):
    texts, task = corpus(tmp_path)
    plain = task.split(",")[0]
    mixture = Mixture((plain,), where={"label": ("1",)})
    run(Texts(BYTES, [plain], texts.cache), [], open_task)
    found = load(BYTES, None, None, [mixture], texts.cache)
    with pytest.raises(UserError, match=r"Mixture.where: the task .* declares no label"):
        TextFeed(64, 4).build(found, mixture, 8, 0)
    found = load(BYTES, None, None, [Mixture((task,))], texts.cache)
    with pytest.raises(UserError, match=r"has the label '9'; it has 0, 1, 2"):
        TextFeed(64, 4).build(found, Mixture((task,), where={"label": ("9",)}), 8, 0)
    with pytest.raises(UserError, match="a WindowFeed reads a task's text from end to end"):
        WindowFeed(64).check(mixture, False)


@pytest.mark.parametrize(
    "where", [{"provenance": ("robot",)}, {"spans": ("A",)}, {"label": "A"}, {"label": 3}, 5, {"provenance": ()}]
)
def test_bad_settings(where):
    with pytest.raises(UserError, match=r"Mixture.where"):
        Mixture(("x",), where=where)
