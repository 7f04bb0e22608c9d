"""Words of scripts without spaces: found when text is stored, and read by dictionaries, counts and switching."""

import dataclasses

import numpy as np
import pytest

from xalign_jax.data import statistics
from xalign_jax.data.corpus import load
from xalign_jax.data.feeds.windows import Switch, WindowFeed
from xalign_jax.data.lexicon.frequencies import count_types
from xalign_jax.data.lexicon.lexicon import Lexicon
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.store.prepare import run
from xalign_jax.data.store.store import Texts, open_stores, open_tokenizer, store_info
from xalign_jax.data.tokens.backends import Bytes, Ids
from xalign_jax.data.tokens.segmenter import BORDER, mark_borders
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers
from xalign_jax.preparing import open_task

pytest.importorskip("icu4py")
WORDS = {"ja": ["ファイル", "を", "開く", "には", "使い", "ます", "設定", "画面"], "th": ["ภาษา", "ไทย", "ง่าย", "มาก"]}
TEXTS = [
    "ファイルを開くには設定画面を使います。",
    "設定を開く。Excelを使います",
    "画面 の 設定",
    "ภาษาไทยง่ายมาก",
    "我喜欢人工智能",
    "ｶﾞ🙂です the cat",
    "no such script",
    "",
]


def sentences() -> list[str]:
    """Lines in three scripts, in which any word may follow any other."""
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(words, 6)) for words in WORDS.values() for _ in range(150)]
    # Some words often follow each other, so that a vocabulary has pieces for both together.
    lines += ["ファイルを開く", "使いますには"] * 100
    return lines + [" ".join(rng.choice(["the", "cat", "opens", "files", "settings"], 6)) for _ in range(150)]


@pytest.fixture(scope="module")
def cut() -> Tokenizer:
    """A vocabulary whose pieces never reach over a border."""
    model = train_sentencepiece(sorted(map(mark_borders, sentences())), 315, "unigram", False, borders=True)
    return Tokenizer(SentencePieces(model), Vocabulary(size=315, words="icu"))


@pytest.fixture(scope="module")
def uncut() -> Tokenizer:
    """A loaded vocabulary, whose pieces may."""
    return Tokenizer(
        SentencePieces(train_sentencepiece(sorted(sentences()), 315, "unigram", False)), Vocabulary(words="icu")
    )


def test_borders_are_between_words():
    assert mark_borders("ภาษาไทยง่ายมาก").split(BORDER) == ["ภาษา", "ไทย", "ง่าย", "มาก"]
    assert mark_borders("Excelを使う。🙂我").split(BORDER) == ["Excel", "を", "使う", "。🙂", "我"]
    # Spaces are borders already, and scripts with spaces are left alone.
    assert mark_borders("東京 大阪 the cat's") == "東京 大阪 the cat's"
    # The mark itself is no text.
    assert BORDER not in mark_borders(f"a{BORDER}b")


@pytest.mark.parametrize("kind", ["cut", "uncut", "bytes"])
@pytest.mark.parametrize("places", [False, True])
def test_ids_do_not_depend_on_what_is_asked(kind, places, request):
    tokenizer = (
        Tokenizer(Bytes(), Vocabulary(kind="bytes", words="icu")) if kind == "bytes" else request.getfixturevalue(kind)
    )
    for found, ids in zip(tokenizer.encode_texts(TEXTS, places), tokenizer.encode_documents(TEXTS), strict=True):
        assert found.ids.tolist() == ids.tolist()
        assert found.starts.shape == ids.shape
        assert found.borders[0] >= found.borders[1]


def test_no_piece_reaches_over_a_border(cut):
    for text in [*sentences(), *TEXTS]:
        (found,) = cut.encode_texts([text])
        assert cut.decode(found.ids) == cut.normal(text)
        if not set("🙂。") & set(text):  # characters in several pieces, punctuation
            words = [cut.decode(part) for part in np.split(found.ids, np.flatnonzero(found.starts)[1:])]
            wanted = [word for part in mark_borders(cut.normal(text)).split(BORDER) for word in part.split()]
            assert [word.strip() for word in words if word.strip()] == wanted


def test_a_loaded_vocabulary_keeps_its_ids(uncut):
    plain = uncut.with_clones(Vocabulary())
    lines = sentences()[:300]
    found = uncut.encode_texts(lines)
    assert [f.ids.tolist() for f in found] == [ids.tolist() for ids in plain.encode(lines)]
    borders, there = np.sum([f.borders for f in found], axis=0)
    assert 0 < there < borders
    assert uncut.base_fingerprint != plain.base_fingerprint


def test_every_token_of_a_text_has_its_byte(cut, uncut):
    for tokenizer in (cut, uncut, Tokenizer(Bytes(), Vocabulary(kind="bytes"))):
        for text, found in zip(TEXTS, tokenizer.encode_texts(TEXTS, places=True), strict=True):
            size = len(tokenizer.normal(text).encode())
            assert (np.diff(found.places) >= 0).all()
            assert not len(found.places) or (found.places[0] == 0 and found.places[-1] < size)


def test_a_dictionary_word_is_encoded_as_in_a_text(cut):
    for word in WORDS["ja"] + WORDS["th"]:
        (inside,) = cut.encode_texts([f"設定{word}"])
        (ids,) = cut.encode_words([word])
        assert inside.ids.tolist()[-len(ids) :] == ids.tolist()


def test_bad_settings():
    with pytest.raises(UserError, match=r'Vocabulary.words = "icu" or None|Vocabulary.words = .*"icu" or None'):
        Vocabulary(words="mecab")
    with pytest.raises(UserError, match="finds words in text"):
        Vocabulary(kind="ids", path="x", words="icu")


def test_a_vocabulary_of_another_icu_is_refused(cut, tmp_path):
    cut.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == cut.fingerprint
    file = tmp_path / "vocabulary.json"
    file.write_text(file.read_text().replace('"icu": "', '"icu": "0.'))
    with pytest.raises(UserError, match=r"found by ICU 0\..*install the version of icu4py"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_that_cuts_is_not_exported(cut, tmp_path):
    with pytest.raises(UserError, match="it cuts text where ICU finds words"):
        write_tokenizers(cut, tmp_path, causal=True, max_length=8, languages=["ja"])


def test_cut_pieces_need_the_setting(cut):
    with pytest.raises(UserError, match="bind it again"):
        Tokenizer(SentencePieces(cut.files["spm.model"]), Vocabulary())


def prepared(folder, words: str | None, kind: str = "sentencepiece"):
    """A corpus of English and Japanese, whose words a dictionary translates."""
    rng = np.random.default_rng(1)
    pairs = dict(zip(["file", "open", "setting", "screen"], ["ファイル", "開く", "設定", "画面"], strict=True))
    english, japanese = [], []
    for i in range(400):
        some = rng.choice(list(pairs), 8)
        english.append(f"p{i}\t" + " the ".join(some))
        japanese.append(f"p{i}\t" + "を".join(pairs[word] for word in some))
    folder.mkdir(exist_ok=True)
    (folder / "en.tsv").write_text("\n".join(english), encoding="utf-8")
    (folder / "ja.tsv").write_text("\n".join(japanese), encoding="utf-8")
    (folder / "en-ja.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs.items()), encoding="utf-8")
    task = f"tsv:en={folder}/en.tsv,ja={folder}/ja.tsv"
    texts = Texts(Vocabulary(kind=kind, size=300, words=words), [task], folder / "cache")
    run(texts, [], open_task)
    lexicon = Lexicon("file", (str(folder / "en-ja.tsv"),), ("ja", "en"), heldout=0.0, max_tokens=16)
    corpus = load(texts.vocabulary, lexicon, None, [Mixture((task,))], texts.cache)
    return texts, task, corpus


def test_stores_say_where_words_begin(tmp_path):
    texts, task, corpus = prepared(tmp_path, "icu")
    store = open_stores(texts, task)["train"]["ja"]
    assert store.word_start.shape == store.tokens.shape
    assert store.word_start[store.offsets[:-1]].all()
    counts = store_info(texts, task)["counts"]["train"]
    assert counts["ja"]["borders"] == counts["ja"]["borders_found"] > 0
    assert "borders" not in counts["en"]
    # The most frequent words are whole words.
    tokenizer = open_tokenizer(texts)
    types = count_types([store], tokenizer, 8).tuples()
    found = {tokenizer.decode(np.array(ids)).strip() for ids in types}
    assert found <= {"ファイル", "開く", "設定", "画面", "を"}
    # Every word but "を" is in the dictionary.
    assert statistics.covered(corpus, statistics.coverage(corpus)) == [
        "coverage of running words (training text of ja): 53.3%"
    ]


def test_without_the_setting_nothing_changes(tmp_path):
    texts, task, _ = prepared(tmp_path, None)
    assert open_stores(texts, task)["train"]["ja"].word_start is None
    assert "borders" not in store_info(texts, task)["counts"]["train"]["ja"]


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_switching_reads_the_words(tmp_path, kind):
    _, task, corpus = prepared(tmp_path, "icu", kind)
    feed = WindowFeed(32, Switch(rate=1.0)).build(corpus, Mixture((task,), languages=("ja",)), 16, 0)
    batch = feed.batch(0, slice(None))
    # Four words of five are in the dictionary, and "を" is not.
    assert batch["count_drawn"].sum() == batch["count_words"].sum()
    share = batch["count_switched"].sum() / batch["count_words"].sum()
    assert 0.4 < share < 0.7
    text = " ".join(corpus.tokenizer.decode(row) for row in batch["tokens"])
    assert "file" in text and "設定" not in text.split()
    # A part of a batch is the same rows.
    half = feed.batch(0, slice(8, 16))
    assert all((half[key] == batch[key][8:]).all() for key in batch)


def test_parts_of_words_are_no_words(tmp_path):
    """The word for "screen" is not found within a longer word that ends with its pieces."""
    tokenizer = Tokenizer(Bytes(), Vocabulary(kind="bytes", words="icu"))
    (found,) = tokenizer.encode_texts(["東京大学"])
    assert found.starts.tolist().count(True) == found.borders[0] + 1


def test_bare_ids_have_no_words():
    with pytest.raises(UserError):
        Tokenizer(Ids(b'{"size": 300, "specials": {}}'), dataclasses.replace(Vocabulary(), words="icu", kind="ids"))
