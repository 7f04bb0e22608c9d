"""The feeds of packed texts. Every stored text is unique, so that what stands in a row says which document it is."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from fakes import FakeTokenizer, checksum, make_store

from xalign_jax.data import statistics
from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds import packing
from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed
from xalign_jax.data.feeds.pairs import Choice, Pairs
from xalign_jax.data.feeds.pieces import Pieces
from xalign_jax.data.preview.rows import collect
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.tokens.prompts import prompt
from xalign_jax.errors import UserError
from xalign_jax.reports.preview_lines import lines

EOS, BOS = 1, 3
T, S = 64, 8
LANGUAGES = ("de", "en", "fr")


def parallel(language: str, task: str, groups: np.ndarray, seed: int):
    """Random texts of 2 to 25 tokens, empty in group 0, one for each of `groups` (-1: none)."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(10, 200, 0 if g == 0 else rng.integers(2, 26)) for g in groups]
    tokens = np.concatenate([np.append(text, EOS) for text in texts]).astype(np.uint16)
    store = make_store(tokens, language)
    hashes = rng.integers(1, 2**32, len(groups), dtype=np.uint32)
    return dataclasses.replace(store, group=groups.astype(np.int32), text_hash=hashes, task=task)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Task a: 299 groups in de and en, 100 of them twice in fr; alone in de: an empty text and 40 others. Task b: 49."""
    tokenizer = FakeTokenizer([f"▁w{i}" for i in range(240)], clones=1)
    groups = np.arange(1, 300)
    alone = np.concatenate([np.arange(300), np.full(20, -1), np.arange(400, 420)])
    a = {"de": parallel("de", "a", alone, 0), "en": parallel("en", "a", groups, 1)}
    a["fr"] = parallel("fr", "a", np.repeat(groups, 2)[:200], 2)
    b = {language: parallel(language, "b", np.arange(1, 50), 3 + i) for i, language in enumerate(("en", "fr"))}
    return Corpus(tokenizer, {"a": {"train": a}, "b": {"train": b}}, None, None)


@pytest.fixture
def small_blocks(monkeypatch):
    """An eighth of the usual work."""
    monkeypatch.setattr(packing, "ITEMS", 512)


MIXTURE = Mixture(("a", "b"), alpha=0.5)
FEEDS = [
    TextFeed(T, S),
    TranslationFeed(T, S, 30),
    TranslationFeed(T, S, 10, "en", reset_positions=True, language_types=True),
    ContrastFeed(T, S, 30),
    ContrastFeed(T, S, 30, "en", mixup=True),
]
CHECKSUMS = [2505578756, 4246245812, 3414661746, 2876385161, 1099679157]  # of a batch of each


pytestmark = pytest.mark.usefixtures("small_blocks")


def documents(corpus: Corpus) -> dict[tuple[int, ...], tuple[str, str, int, int]]:
    """Content -> language, task, group, text hash."""
    found = {}
    for task, splits in corpus.stores.items():
        for language, store in splits["train"].items():
            for d in range(len(store.offsets) - 1):
                content = tuple(store.tokens[store.offsets[d] : store.offsets[d + 1] - 1].tolist())
                found[content] = language, task, int(store.group[d]), int(store.text_hash[d])
    return found


def segments(batch: dict, view: str = ""):
    """(row, slot, tokens, positions, languages) of every segment; checks that segments stand one after another."""
    for row, ids in enumerate(batch[f"{view}segment_ids"]):
        real = ids > 0
        assert not real[np.count_nonzero(real) :].any()
        assert (batch[f"{view}tokens"][row][~real] == 0).all() and (batch[f"{view}positions"][row][~real] == 0).all()
        assert (batch[f"{view}token_language"][row][~real] == -1).all()
        assert np.isin(np.diff(ids[real]), (0, 1)).all()
        for slot in range(ids.max()):
            mine = ids == slot + 1
            names = ("tokens", "positions", "token_language")
            yield row, slot, *(batch[f"{view}{name}"][row][mine] for name in names)


def texts_of(tokens: np.ndarray) -> list[tuple[int, ...]]:
    """The texts of bos a eos b eos."""
    assert tokens[0] == BOS and tokens[-1] == EOS and np.count_nonzero(tokens == BOS) == 1
    return [tuple(part[:-1].tolist()) for part in np.split(tokens[1:], np.flatnonzero(tokens[1:] == EOS) + 1)[:-1]]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("config", FEEDS)
def test_any_slice_of_any_step_equals_the_rows_of_the_whole_batch(corpus, config):
    feed = config.build(corpus, MIXTURE, 96, 7)
    first = (feed.block_rows // 96) * 96  # a batch of two blocks
    whole = feed.batch(first, slice(0, 96))
    assert same(whole, feed.batch(first, slice(None)))
    for part in (slice(0, 1), slice(17, 60), slice(95, 96), slice(0, 0)):
        cold = config.build(corpus, MIXTURE, 96, 7)
        assert same(cold.batch(first, part), {key: array[part] for key, array in whole.items()})
    other = config.build(corpus, MIXTURE, 48, 7)
    assert same(other.batch(first + 48, slice(0, 48)), {key: array[48:] for key, array in whole.items()})
    assert not same(whole, config.build(corpus, MIXTURE, 96, 8).batch(first, slice(0, 96)))
    assert feed.batch(10**12, slice(0, 4))["tokens"].shape == (4, T)


@pytest.mark.parametrize(("config", "expected"), zip(FEEDS, CHECKSUMS, strict=True))
def test_batches_of_a_seed_are_fixed(corpus, config, expected):
    """A run that goes on after an update reads what it would have read: this is a format."""
    assert checksum(config.build(corpus, MIXTURE, 32, 7).batch(32 * 10**6, slice(None))) == expected


@pytest.mark.parametrize("config", FEEDS)
def test_shapes_types_and_counts(corpus, config):
    feed = config.build(corpus, MIXTURE, 0, 0)
    block = config.build(corpus, MIXTURE, feed.block_rows, 0).batch(0, slice(None))
    views = ("", "key_") if isinstance(config, ContrastFeed) else ("",)
    for view in views:
        for name in ("tokens", "positions", "segment_ids", "token_language"):
            assert block[view + name].shape == (feed.block_rows, T) and block[view + name].dtype == np.int32
        assert block[f"{view}segment_ids"].max() <= S
    for name in (key for key in block if key.startswith("count_")):
        assert block[name].shape == (feed.block_rows,) and block[name].dtype == np.int32
    unit = "count_texts" if isinstance(config, TextFeed) else "count_pairs"
    units = 2 if getattr(config, "mixup", False) else 1
    assert block[unit].sum() == units * sum(1 for _ in segments(block))
    assert block[unit].sum() + block["count_dropped"].sum() == units * packing.ITEMS
    assert block["count_dropped"].sum() < 0.05 * units * packing.ITEMS and not block["count_dropped"][1:].any()
    assert ("types" in block) == getattr(config, "language_types", False)
    blank = config.blank(feed.block_rows)
    assert {k: (a.shape, a.dtype) for k, a in block.items()} == {k: (a.shape, a.dtype) for k, a in blank.items()}


def test_texts_are_documents_in_their_language_and_clones(corpus):
    mixture = Mixture(("a", "b"), {"en": 0.3, "en_clone": 0.2, "fr": 0.5})
    feed = TextFeed(T, S).build(corpus, mixture, 400, 3)
    assert feed.languages == ("en", "en_clone", "fr")
    known, base, shares = documents(corpus), corpus.tokenizer.base_size, np.zeros(3)
    for _, _, tokens, positions, language in segments(feed.batch(0, slice(None))):
        assert np.array_equal(positions, np.arange(len(tokens))) and len(set(language)) == 1
        (content,) = texts_of(tokens)
        k = feed.languages[language[0]] == "en_clone"
        assert known[tuple(t - base * k for t in content)][0] == feed.languages[language[0]].removesuffix("_clone")
        shares[language[0]] += 1
    assert np.allclose(shares / shares.sum(), (0.3, 0.2, 0.5), atol=0.03)


def test_every_piece_comes_once_in_an_epoch(corpus):
    mixture = Mixture(("a", "b"), {"en": 0.5, "en_clone": 0.5})
    pieces = Pieces(corpus.members(mixture), mixture, 7, 0)
    sizes = np.concatenate([np.diff(corpus.stores[t]["train"]["en"].offsets) - 1 for t in "ab"])
    count = int((-(-sizes // 7)).sum())
    assert pieces.report == {"documents": len(sizes), "pieces": count, "empty": 0}
    german = Mixture(("a",), {"de": 1})
    assert Pieces(corpus.members(german), german, 25, 0).report == {"documents": 339, "pieces": 339, "empty": 1}
    for epoch in range(2):
        items = pieces.items(epoch * count + np.arange(count))
        spans = set(zip(items.store.ravel().tolist(), items.start.ravel().tolist(), strict=True))
        assert len(spans) == count and items.size.max() == 7 and items.size.sum() == sizes.sum()


@pytest.mark.parametrize("targets", ["second", "all"])
def test_a_causal_model_predicts_the_second_text_given_the_first(corpus, targets):
    config = TranslationFeed(T, S, 30, targets=targets)
    batch = config.build(corpus, MIXTURE, 40, 3).batch(0, slice(None))
    plain = TranslationFeed(T, S, 30).build(corpus, MIXTURE, 40, 3).batch(0, slice(None))
    assert same(plain, {name: batch[name] for name in plain}), "the texts are the same as without targets"
    scored = np.zeros((40, T), bool)
    for row, slot, tokens, _, _ in segments(batch):
        (start,) = np.flatnonzero(batch["segment_ids"][row] == slot + 1)[:1]
        # "bos a eos b eos": the first scored target is b's first token, predicted at a's eos; the last one is b's eos.
        first = list(tokens).index(EOS) if targets == "second" else 0
        scored[row, start + first : start + len(tokens) - 1] = True
        np.testing.assert_array_equal(
            batch["targets"][row, start + first : start + len(tokens) - 1], tokens[first + 1 :]
        )
    np.testing.assert_array_equal(batch["weights"], scored.astype(np.float32))
    assert {k: (a.shape, a.dtype) for k, a in batch.items()} == {
        k: (a.shape, a.dtype) for k, a in config.blank(40).items()
    }
    with pytest.raises(UserError, match=r"TranslationFeed\.targets = 'first': must be one of second, all"):
        TranslationFeed(T, S, 30, targets="first")


@pytest.mark.parametrize("pivot", [None, "de", "en"])
def test_translations_are_of_one_group_and_two_languages(corpus, pivot):
    feed = TranslationFeed(T, S, 30, pivot).build(corpus, MIXTURE, 500, 0)
    known, seen = documents(corpus), set()
    for _, _, tokens, positions, language in segments(feed.batch(0, slice(None))):
        (first, second), half = texts_of(tokens), int(np.flatnonzero(tokens == EOS)[0]) + 1
        assert known[first][1:3] == known[second][1:3] and known[first][0] != known[second][0]
        assert {feed.languages[k] for k in language[:half]} == {known[first][0]}
        assert {feed.languages[k] for k in language[half:]} == {known[second][0]}
        assert np.array_equal(positions, np.arange(len(tokens)))
        seen.add((known[first][0], known[second][0]))
    pairs = {(a, b) for a in LANGUAGES for b in LANGUAGES if a != b and (pivot is None or pivot in (a, b))}
    assert seen == pairs


def test_xlm_form_restarts_positions_and_has_types_and_cuts_sides(corpus):
    feed = TranslationFeed(T, S, 10, reset_positions=True, language_types=True).build(corpus, MIXTURE, 200, 0)
    batch = feed.batch(0, slice(None))
    assert np.array_equal(batch["types"], np.maximum(batch["token_language"], 0))
    cut = 0
    for _, _, tokens, positions, _ in segments(batch):
        first, second = texts_of(tokens)
        expected = [*range(len(first) + 2), *range(len(second) + 1)]
        assert positions.tolist() == expected and max(len(first), len(second)) <= 10
        cut += (len(first) == 10) + (len(second) == 10)
    assert 0 < batch["count_cut"].sum() <= cut


@pytest.mark.parametrize("mixup", [False, True])
def test_a_prompt_stands_between_bos_and_eos_and_changes_nothing_else(corpus, mixup):
    """The texts of both sides stand between the ids of prefix and suffix; without them they are the same."""
    plain = ContrastFeed(T, S, 15, "en", reverse=0.0, mixup=mixup)
    led = dataclasses.replace(plain, prefix="w1 w2: ", suffix=" w3 [MASK]")
    before, after = prompt(corpus.tokenizer, "ContrastFeed", led.prefix, led.suffix)
    assert len(before) >= 2 and after[-1] == corpus.tokenizer.mask
    found = []
    for config in (plain, led):
        feed = config.build(corpus, MIXTURE, 200, 0)
        block = config.build(corpus, MIXTURE, feed.block_rows, 0).batch(0, slice(None))
        texts = {view: [tuple(own[2].tolist()) for own in segments(block, view)] for view in ("", "key_")}
        assert {k: (a.shape, a.dtype) for k, a in block.items()} == {
            k: (a.shape, a.dtype) for k, a in config.blank(feed.block_rows).items()
        }
        assert all(np.array_equal(own[3], np.arange(len(own[3]))) for own in segments(block))
        found.append(texts)
    for view in ("", "key_"):
        head, tail = (BOS, *before), (*after, EOS)
        assert all(text[: len(head)] == head and text[-len(tail) :] == tail for text in found[1][view])
        without = Counter((BOS, *text[len(head) : -len(tail)], EOS) for text in found[1][view])
        # The two feeds may drop other items where a block's rows are full.
        assert sum((without & Counter(found[0][view])).values()) > 0.95 * len(found[1][view])
    with pytest.raises(UserError, match=rf"ContrastFeed\.side = 60: {1 + mixup} of them with their specials take"):
        dataclasses.replace(led, side=60).build(corpus, MIXTURE, 200, 0)


@pytest.mark.parametrize("mixup", [False, True])
def test_slots_of_queries_and_keys_are_one_item(corpus, mixup):
    feed = ContrastFeed(T, S, 25, mixup=mixup).build(corpus, MIXTURE, 300, 0)
    batch, known = feed.batch(0, slice(None)), documents(corpus)
    keys = {(row, slot): (tokens, language) for row, slot, tokens, _, language in segments(batch, "key_")}
    numbers, orders, roles = {}, set(), set()
    for row, slot, tokens, _, language in segments(batch):
        key_tokens, _ = keys.pop((row, slot))
        query, key = ([known[text] for text in texts_of(view)] for view in (tokens, key_tokens))
        assert feed.languages[language[0]] == query[0][0] and len(query) == len(key) == 1 + mixup
        groups = batch["group"][row, slot].tolist()
        for side, texts in ((query, "text"), (key, "key_text")):
            assert [text[3] for text in side] == batch[texts][row, slot].tolist()
            assert sorted(text[1:3] for text in side) == sorted(text[1:3] for text in query)
        for number, name in zip(groups, query, strict=True):
            assert numbers.setdefault(number, name[1:3]) == name[1:3]
        orders.add(query[0][1:3] == key[0][1:3])
        roles.add(query[0][0])
    assert not keys and orders == ({True, False} if mixup else {True}) and roles == set(LANGUAGES)
    absent = batch["group"][..., 0] < 0
    assert absent.any() and (batch["text"][absent] == 0).all() and (batch["group"][absent] == -1).all()
    assert batch["text"].dtype == batch["key_text"].dtype == np.uint32 and batch["group"].dtype == np.int32


def test_groups_are_dense_over_the_tasks(corpus):
    batch = ContrastFeed(T, S, 30).build(corpus, MIXTURE, 3000, 0).batch(0, slice(None))
    known, names = documents(corpus), {}
    for row, slot, tokens, *_ in segments(batch):
        (text,) = texts_of(tokens)
        assert names.setdefault(int(batch["group"][row, slot, 0]), known[text][1:3]) == known[text][1:3]
    assert len(set(names.values())) == len(names) and max(names) == 299 + 49 - 1 and len(names) > 300


def test_what_has_no_translation_is_left_out_and_reported(corpus):
    feed = TranslationFeed(T, S, 30).build(corpus, Mixture(("a",)), 4, 0)
    used = {name: feed.report[name] for name in ("documents", "empty", "without translation")}
    assert used == {"documents": 299 + 299 + 200, "empty": 1, "without translation": 40}
    english = TranslationFeed(T, S, 30).build(corpus, Mixture(("a",), languages=("de", "fr")), 4, 0)
    assert english.report["documents"] == 100 + 200 and english.languages == ("de", "fr")
    shown = "\n".join(statistics.packing({"tlm": feed}))
    assert "stream tlm: documents 798, empty 1, without translation 40, rows a block" in shown


def test_pairs_are_texts_of_a_group_that_are_not_empty(corpus):
    """Texts without a group are no translations of each other, nor two of one language; group 0 is a group."""

    def store(language: str, groups: list[int], empty: int):
        texts = [[20 + i] * (i != empty) for i in range(len(groups))]
        tokens = np.concatenate([[*text, EOS] for text in texts]).astype(np.uint16)
        return dataclasses.replace(make_store(tokens, language), group=np.array(groups, np.int32))

    pairs = Pairs([store("de", [0, 1, -1, 2, 3, 3], 9), store("en", [0, 1, -1, 2], 1)], Choice())
    assert pairs.report == {"documents": 4, "empty": 1, "without translation": 5}
    assert pairs.group.tolist() == [0, 0, 1, 1] and pairs.language.tolist() == [0, 1, 0, 1]
    many = Pairs([store for task in corpus.stores.values() for store in task["train"].values()], Choice())
    expected = np.lexsort((np.arange(len(many.language)), many.language))
    np.testing.assert_array_equal(many.by_language, expected)


@pytest.mark.parametrize(
    "config", [TranslationFeed(T, S, 30), ContrastFeed(T, S, 30), ContrastFeed(T, S, 30, mixup=True)]
)
def test_a_lot_decides_which_side_comes_first(corpus, config):
    """Every pair is drawn by its German text; that text is first, or the query, in half of them."""
    feed = config.build(corpus, Mixture(("a",), {"de": 1}), 300, 0)
    first = np.array([feed.languages[language[0]] for *_, language in segments(feed.batch(0, slice(None)))])
    assert len(first) > 300 and abs(np.mean(first == "de") - 0.5) < 0.08


def test_without_a_bos_there_is_none(corpus, monkeypatch):
    monkeypatch.setattr(corpus.tokenizer, "bos", None)
    batch = TranslationFeed(52, S, 25).build(corpus, MIXTURE, 20, 0).batch(0, slice(None))
    known = documents(corpus)
    for _, _, tokens, *_ in segments(batch):
        first, second = (tuple(part[:-1].tolist()) for part in np.split(tokens, np.flatnonzero(tokens == EOS) + 1)[:2])
        assert known[first][2] == known[second][2] and tokens[-1] == EOS


@pytest.mark.parametrize("config", FEEDS)
def test_previews_name_the_languages(corpus, config):
    feed = config.build(corpus, MIXTURE, 4, 0)
    text = "\n".join(lines(collect(feed.batch(0, slice(None)), corpus, feed.languages, rows=4)))
    assert "  0.0: [" in text and ("||" in text) == isinstance(config, ContrastFeed)


@pytest.mark.parametrize(
    ("config", "mixture", "message"),
    [
        (
            TranslationFeed(T, S, 31),
            MIXTURE,
            r"TranslationFeed\.side = 31.* take 65 tokens.*TranslationFeed\.length = 64",
        ),
        (ContrastFeed(T, S, 63), MIXTURE, r"ContrastFeed\.side = 63"),
        (ContrastFeed(T, S, 31, mixup=True), MIXTURE, r"ContrastFeed\.side = 31: 2 of them"),
        (TextFeed(2, S), MIXTURE, r"TextFeed\.length = 2"),
        (TextFeed(T, S), None, r"Stream\.mixture: a TextFeed"),
        (ContrastFeed(T, S, 9), None, r"Stream\.mixture: a ContrastFeed"),
        (ContrastFeed(T, S, 9, "xx"), MIXTURE, r"ContrastFeed\.pivot = 'xx'.* de, en, fr"),
        (ContrastFeed(T, S, 9), Mixture(("a",), languages=("en",)), r"no train text has a translation"),
        (ContrastFeed(T, S, 9, "de"), Mixture(("b",)), r"ContrastFeed\.pivot = 'de'"),
        (ContrastFeed(T, S, 9), Mixture(("a",), {"en": 1, "xx": 1}), r"Mixture\.rates names 'xx'"),
        (ContrastFeed(T, S, 9), Mixture(("a",), {"en_clone": 1}), r"Mixture\.rates names 'en_clone'"),
    ],
)
def test_bad_settings_are_named(corpus, config, mixture, message):
    with pytest.raises(UserError, match=message):
        config.build(corpus, mixture, 4, 0)


@pytest.mark.parametrize(
    ("feed", "settings", "field"),
    [(ContrastFeed, (T, S, 0), "side"), (TranslationFeed, (T, S, 0), "side"), (TextFeed, (T, 0), "slots")],
)
def test_sizes_are_positive(feed, settings, field):
    with pytest.raises(UserError, match=rf"{feed.__name__}\.{field} = 0: must be at least 1"):
        feed(*settings)


def test_a_language_without_a_pair_is_named(corpus):
    stores = corpus.stores["a"]["train"] | {"sv": parallel("sv", "a", np.arange(900, 950), 9)}
    data = dataclasses.replace(corpus, stores={"a": {"train": stores}})
    with pytest.raises(UserError, match=r"Mixture\.rates gives 'sv' a rate, but no text in it has a translation"):
        TranslationFeed(T, S, 9).build(data, Mixture(("a",), {"en": 0.5, "sv": 0.5}), 4, 0)
    assert TranslationFeed(T, S, 9).build(data, Mixture(("a",)), 4, 0).languages == ("de", "en", "fr", "sv")


@pytest.mark.parametrize("slots", [0, -1])
def test_slots_must_be_positive(slots):
    with pytest.raises(UserError, match=r"TextFeed\.slots"):
        TextFeed(T, slots)


@pytest.mark.parametrize("config", [TextFeed(T, S), ContrastFeed(T, S, 25)])
def test_rows_are_full_and_little_is_left_over(corpus, config, monkeypatch):
    monkeypatch.setattr(packing, "ITEMS", 4096)
    feed = config.build(corpus, MIXTURE, 5000, 0)
    batch = feed.batch(30 * feed.block_rows, slice(None))
    packed = batch.get("count_texts", batch.get("count_pairs")).sum()
    assert (batch["segment_ids"] > 0).mean() > 0.9 and batch["count_dropped"].sum() < 0.01 * packed


@pytest.mark.parametrize("config", [TextFeed(T, S), ContrastFeed(T, S, 25)])
def test_the_report_says_how_full_the_sampled_blocks_are(corpus, config):
    feed = config.build(corpus, MIXTURE, 4, 0)
    blocks = config.build(corpus, MIXTURE, 8 * feed.block_rows, 0).batch(0, slice(None))
    full = np.mean([(blocks[view + "segment_ids"] > 0).mean() for view in ("", "key_") if view + "tokens" in blocks])
    assert isinstance(feed.report["percent filled"], int)
    assert abs(feed.report["percent filled"] - 100 * full) <= 0.5 + 1e-9
