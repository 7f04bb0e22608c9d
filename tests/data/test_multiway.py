"""Multi-way feeds: documents of lines, interleaved documents, whole groups. Each stored text says which one it is."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from fakes import checksum, make_store
from multiway import EOS, LANGUAGES, make_corpus

from xalign_jax.data import statistics
from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds import packing
from xalign_jax.data.feeds.documents import GroupFeed, InterleavedFeed
from xalign_jax.data.feeds.packed import ContrastFeed, TextFeed, TranslationFeed
from xalign_jax.data.preview.rows import collect
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.sampling.schedules import Linear, Piecewise
from xalign_jax.reports.preview_lines import lines
from xalign_jax.training.step import count_rows

BOS, T, S = 3, 64, 8
MIXTURE = Mixture(("a",))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus()


@pytest.fixture(scope="module")
def long_corpus() -> Corpus:
    return make_corpus(most=300)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(packing, "ITEMS", 512)


def documents(corpus: Corpus) -> dict[tuple[int, ...], tuple[str, int, int]]:
    """Content -> language, group, text hash."""
    return {
        tuple(store.tokens[a : b - 1].tolist()): (language, int(group), int(text))
        for language, store in corpus.stores["a"]["train"].items()
        for a, b, group, text in zip(
            store.offsets[:-1], store.offsets[1:], store.group, store.text_hash, strict=True
        )
    }  # fmt: skip


def lines_of(batch: dict, corpus: Corpus, languages: tuple[str, ...], tags: bool = True):
    """For every document: its (language, text) lines; tags are checked and taken off."""
    for row, ids in enumerate(batch["segment_ids"]):
        for slot in range(ids.max()):
            tokens = batch["tokens"][row][ids == slot + 1]
            named = batch["token_language"][row][ids == slot + 1]
            assert tokens[0] == BOS and tokens[-1] == EOS
            ends = np.flatnonzero(tokens == EOS) + 1
            found = []
            for line, of in zip(np.split(tokens[1:], ends - 1)[:-1], np.split(named[1:], ends - 1)[:-1], strict=True):
                language = languages[of[0]]
                assert len(set(of.tolist())) == 1
                if tags:
                    assert corpus.tokenizer.decode(line[:1]) == f"{language}:"
                found.append((language, tuple(line[tags:-1].tolist())))
            yield row, slot, found


KINDS = [
    GroupFeed(T, S, lines=3, side=12, fewest=2),
    GroupFeed(T, S, lines=2, side=12, pivot="en", tag=""),
    GroupFeed(T, S, lines=3, side=12, shuffled=True),
    InterleavedFeed(T, S, part=8),
    InterleavedFeed(T, S, part=8, pairs=(("en", "de"), ("fr", "en")), tag="{}:"),
    TranslationFeed(T, S, 12, pairs=(("en", "de"), ("fr", "hu")), reverse=0.05),
    ContrastFeed(T, S, 12, "en", reverse=0.2),
    TextFeed(T, S, whole_groups=True),
    TranslationFeed(T, S, 12, "en", whole_groups=True),
    ContrastFeed(T, S, 12, whole_groups=True),
]


CHECKSUMS = [
    1095309186,
    2244817887,
    514385022,
    1228928548,
    1464507627,
    2601089931,
    3497326221,
    3252418599,
    1356704651,
    3287302266,
]  # of a batch of each

# Whole groups have no rates.
PURE = [(kind, None) for kind in KINDS]
PURE += [(kind, course) for kind in KINDS if not getattr(kind, "whole_groups", False) for course in (Piecewise, Linear)]


@pytest.mark.parametrize(("config", "course"), PURE, ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_batches_are_pure_functions_of_the_step_on_any_number_of_hosts(corpus, config, course):
    """Batches 0 to 99 and 10^6: the same for 1, 2 and 8 hosts, and from a feed that is built anew."""
    rows, mixture = 16, MIXTURE
    if course is not None:
        mixture = Mixture(("a",), course(((0, {"en": 0.8, "de": 0.2}), (300, {"en": 0.2, "de": 0.8}))))
    feeds = [config.build(corpus, mixture, rows, 7) for _ in range(3)]
    for step in (*range(100), 10**6):
        whole = checksum(feeds[0].batch(step * rows, slice(0, rows)))
        for feed, hosts in zip(feeds[1:], (2, 8), strict=True):
            size = rows // hosts
            parts = [feed.batch(step * rows, slice(host * size, (host + 1) * size)) for host in range(hosts)]
            assert whole == checksum({key: np.concatenate([part[key] for part in parts]) for key in parts[0]}), step
    blank, batch = config.blank(rows), feeds[0].batch(0, slice(None))
    assert {k: (a.shape, a.dtype) for k, a in batch.items()} == {k: (a.shape, a.dtype) for k, a in blank.items()}


@pytest.mark.parametrize(("lines", "fewest", "pivot"), [(2, None, None), (3, None, "fr"), (5, 2, None)])
def test_the_lines_of_a_document_are_one_group_in_different_languages(corpus, lines, fewest, pivot):
    feed = GroupFeed(T, S, lines, 9, fewest, pivot).build(corpus, MIXTURE, 200, 0)
    known, counts = documents(corpus), Counter()
    batch = feed.batch(0, slice(None))
    for row, slot, found in lines_of(batch, corpus, feed.languages):
        rows = [known[text] for _, text in found]
        assert [name for name, *_ in rows] == [name for name, _ in found] and len({name for name, _ in found}) == len(
            found
        )
        assert len({group for _, group, _ in rows}) == 1 and (pivot is None or pivot in {name for name, _ in found})
        counts[len(found)] += 1
        # The group and the texts travel along; free places have -1.
        named = batch["group"][row, slot]
        assert len(set(named[: len(found)].tolist())) == 1 and (named[len(found) :] == -1).all()
        assert batch["text"][row, slot][: len(found)].tolist() == [text for *_, text in rows]
        if len(found) < lines:
            assert len(found) == len({n for n, g, _ in known.values() if g == rows[0][1]})
    assert set(counts) == ({lines} if fewest is None else {2, 3, 5}) and sum(counts.values()) > 200


def test_targets_are_the_next_tokens_of_the_same_document(corpus):
    batch = GroupFeed(T, S, 3, 12).build(corpus, MIXTURE, 30, 0).batch(0, slice(None))
    same = (batch["segment_ids"][:, :-1] == batch["segment_ids"][:, 1:]) & (batch["segment_ids"][:, :-1] > 0)
    assert np.array_equal(batch["weights"][:, :-1] > 0, same) and not batch["weights"][:, -1].any()
    assert np.array_equal(batch["targets"][:, :-1][same], batch["tokens"][:, 1:][same])
    assert (batch["targets"][batch["weights"] == 0] == 0).all()


@pytest.mark.parametrize("mixture", [MIXTURE, Mixture(("a",), {"en": 0.7, "hu": 0.3})])
def test_the_control_has_the_same_lines_in_every_block_and_none_is_aligned(corpus, mixture):
    """In every block: the same lines as often, the same languages in each document; so it is in every epoch."""
    sources = [
        GroupFeed(T, S, 3, 12, fewest=2, shuffled=shuffled).build(corpus, mixture, 8, 0)._source
        for shuffled in (False, True)
    ]
    for block in (0, 1, 77):
        plain, control = (source.block(block, 512) for source in sources)
        assert np.array_equal(plain.language, control.language)
        lines = [
            Counter(zip(*(column.ravel().tolist() for column in (i.store, i.start, i.size)), strict=True))
            for i in (plain, control)
        ]
        assert lines[0] == lines[1]
        # (I, 3) groups: all equal where aligned, and equal only by accident in the control.
        shares = [np.mean([len(set(g[g >= 0].tolist())) == 1 for g in items.group]) for items in (plain, control)]
        assert shares[0] == 1 and shares[1] < 0.02
        moved = (plain.group != control.group)[plain.group >= 0].mean()
        assert moved > 0.95


def test_every_text_is_drawn_once_in_an_epoch_and_lines_have_random_order(corpus):
    feed = GroupFeed(T, S, 2, 12).build(corpus, Mixture(("a",), {"fr": 1}), 8, 0)
    source = feed._source
    drawn = source.draw(np.arange(300))
    pairs = source._examples.pairs
    french = np.sort(drawn[pairs.language[drawn] == LANGUAGES.index("fr")])
    assert np.array_equal(french, np.flatnonzero(pairs.language == LANGUAGES.index("fr")))
    assert abs(np.mean(pairs.language[drawn[:, 0]] == LANGUAGES.index("fr")) - 0.5) < 0.1


@pytest.mark.parametrize("pairs", [(), (("en", "de"), ("fr", "en"))])
def test_windows_of_two_documents_join_to_both_texts_in_turn(long_corpus, pairs):
    """Over an epoch of a language, the windows of each document hold all of it, part by part in turn."""
    corpus, T = long_corpus, 128
    feed = InterleavedFeed(T, S, 16, pairs=pairs).build(corpus, Mixture(("a",), {"en": 1}), 8, 0)
    source, count = feed._source, feed._source._sizes["en"]
    items = source.items(np.arange(count))
    assert (items.size.sum(2) + items.ends.sum(2) + 1).max() <= T
    spans: dict[tuple[int, int], list] = {}
    for store, start, size, ends, group in zip(
        items.store[:, 0], items.start[:, 0], items.size[:, 0], items.ends[:, 0], items.group, strict=True
    ):
        there = ends > 0
        assert len(set(group.tolist())) == 1
        mine = list(zip(store[there].tolist(), start[there].tolist(), size[there].tolist(), strict=True))
        # The two stores take turns, except where a text has fewer words than parts.
        stores = [name for name, *_ in mine]
        assert len(set(stores)) == 2 or len(mine) < 3
        assert all(size <= 16 + 8 for *_, size in mine)
        for name, first, n in mine:
            spans.setdefault((int(group[0]), name), []).append((first, n))
    languages = {corpus.stores["a"]["train"][name].language for name in LANGUAGES}
    assert languages == set(LANGUAGES)
    english, whole = list(corpus.stores["a"]["train"]).index("en"), 0
    store = corpus.stores["a"]["train"]["en"]
    sizes = dict(zip(store.offsets[:-1].tolist(), (np.diff(store.offsets) - 1).tolist(), strict=True))
    for (_, name), parts in spans.items():
        parts.sort()
        # No gap and no overlap: each part begins where the one before ends.
        assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(parts))
        if name == english:
            assert sum(n for _, n in parts) == sizes[parts[0][0]]
            whole += 1
    assert whole == 600 and feed.report["windows"] > 600


def test_parts_begin_behind_sentences(long_corpus):
    """With a stop behind every fifth word, every inner cut is behind a stop."""
    stores = dict(long_corpus.stores["a"]["train"])
    for name, store in stores.items():
        tokens = np.array(store.tokens)
        for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True):
            tokens[a + 4 : b - 1 : 5] = 5
        stores[name] = dataclasses.replace(store, tokens=tokens)
    corpus = dataclasses.replace(long_corpus, stores={"a": {"train": stores}})
    source = InterleavedFeed(128, S, 16).build(corpus, MIXTURE, 8, 0)._source
    items = source.items(np.arange(300))
    real = items.ends[:, 0] > 0
    starts = {(name, a) for name, s in enumerate(stores.values()) for a in s.offsets[:-1].tolist()}
    found = list(zip(items.store[:, 0][real].tolist(), items.start[:, 0][real].tolist(), strict=True))
    # A document's first sentence has five words; cuts within the first parts of short documents have none before.
    early = {(name, at + i) for name, at in starts for i in range(8)}
    inner = [(name, at) for name, at in found if (name, at) not in early]
    assert len(inner) > 1000 and all(source.tokens[name][at - 1] == 5 for name, at in inner)


@pytest.mark.parametrize(
    "config", [k for k in KINDS if getattr(k, "whole_groups", False)], ids=lambda k: type(k).__name__
)
def test_a_batch_has_all_texts_of_its_groups(corpus, config):
    rows = 24
    feed = config.build(corpus, MIXTURE, rows, 3)
    known, seen = documents(corpus), Counter()
    size = Counter(group for _, group, _ in known.values())
    for step in range(600 // feed.block_size):
        batch, groups = feed.batch(step * rows, slice(None)), {}
        for _, _, found in lines_of(batch, corpus, feed.languages, tags=False):
            for _, text in found:
                groups.setdefault(known[text][1], set()).add(text)
        if "key_tokens" in batch:
            view = {name: batch[f"key_{name}"] for name in ("tokens", "segment_ids", "token_language")}
            for _, _, found in lines_of(view, corpus, feed.languages, tags=False):
                for _, text in found:
                    groups.setdefault(known[text][1], set()).add(text)
        assert all(len(texts) == size[group] for group, texts in groups.items())
        assert len(groups) == feed.block_size or batch["count_dropped"][0] > 0
        assert all(seen[group] == 0 for group in groups)
        seen.update(list(groups))
    assert len(seen) > 0.9 * (600 // feed.block_size) * feed.block_size
    assert feed.report["groups by languages"] == {2: 200, 3: 300, 5: 100}
    # A stage may begin at any row: the batch is a whole one all the same.
    assert checksum(feed.batch(7, slice(None))) == checksum(feed.batch(0, slice(None)))


def directions(batch: dict, languages: tuple[str, ...]) -> Counter:
    """How often each pair of languages stands in each order in a TranslationFeed's batch."""
    found = Counter()
    for row, ids in enumerate(batch["segment_ids"]):
        for slot in range(ids.max()):
            named = batch["token_language"][row][ids == slot + 1]
            found[languages[named[0]], languages[named[-1]]] += 1
    return found


def test_pairs_and_their_order_are_chosen(corpus):
    feed = TranslationFeed(T, S, 12, pairs=(("en", "de"), ("fr", "hu")), reverse=0.05).build(corpus, MIXTURE, 900, 0)
    found = directions(feed.batch(0, slice(None)), feed.languages)
    assert set(found) == {("en", "de"), ("de", "en"), ("fr", "hu"), ("hu", "fr")}
    total = sum(found.values())
    assert abs((found["de", "en"] + found["hu", "fr"]) / total - 0.05) < 4 * np.sqrt(0.05 * 0.95 / total)
    english = TranslationFeed(T, S, 12, "en", reverse=0.0).build(corpus, MIXTURE, 300, 0)
    assert all(first == "en" for first, _ in directions(english.batch(0, slice(None)), english.languages))
    both = TranslationFeed(T, S, 12, "en", reverse=1.0).build(corpus, MIXTURE, 300, 0)
    assert all(second == "en" for _, second in directions(both.batch(0, slice(None)), both.languages))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_mismatched_pairs_name_the_groups_of_both_texts(corpus, share):
    config = TranslationFeed(T, S, 12, "en", reverse=0.0, mismatched=share)
    feed, known = config.build(corpus, MIXTURE, 300, 0), documents(corpus)
    batch = feed.batch(0, slice(None))
    matched, second = [], Counter()
    for row, slot, ((language, text), (other, translation)) in lines_of(batch, corpus, feed.languages, tags=False):
        named = [known[text], known[translation]]
        assert language == "en" and batch["group"][row, slot].tolist() == [group for _, group, _ in named]
        assert batch["text"][row, slot].tolist() == [hashed for _, _, hashed in named]
        matched.append(named[0][1] == named[1][1])
        second[other] += 1
    assert abs(np.mean(matched) - (1 - share)) < 4 * np.sqrt(0.25 / len(matched))
    # The pairs of languages are those of the feed without mismatched pairs, in the same order.
    plain = dataclasses.replace(config, mismatched=0.0).build(corpus, MIXTURE, 300, 0)
    assert "group" not in plain.batch(0, slice(None))
    assert set(directions(plain.batch(0, slice(None)), plain.languages)) == {("en", other) for other in second}
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {name: (array.shape, array.dtype) for name, array in config.blank(300).items()}


@pytest.mark.parametrize("config", [KINDS[0], KINDS[3], KINDS[7]], ids=lambda kind: type(kind).__name__)
def test_a_step_counts_documents_and_tokens_by_language(corpus, config):
    feed = config.build(corpus, MIXTURE, 16, 0)
    batch = feed.batch(0, slice(None))
    counts = count_rows({"docs": batch}, {"docs": feed.languages})["docs"]
    assert counts["tokens"].tolist() == [int((batch["token_language"] == k).sum()) for k in range(5)]
    assert int(counts[f"count_{feed._source.unit}"]) > 16


def test_the_report_counts_groups_by_their_languages(corpus):
    feed = GroupFeed(T, S, 3, 12).build(corpus, MIXTURE, 8, 0)
    # Every sixth group is in all five languages, every other one in two or three.
    assert feed.report["groups by languages"] == {2: 200, 3: 300, 5: 100} and feed.report["documents"] == 900 + 500
    (line,) = statistics.packing({"docs": feed})
    assert "groups by languages 2: 200; 3: 300; 5: 100" in line
    text = "\n".join(lines(collect(feed.batch(0, slice(0, 8)), corpus, feed.languages, rows=8)))
    assert "] de:" in text and "(group " in text


@pytest.mark.parametrize("config", [GroupFeed(T, S, 2, 12), InterleavedFeed(T, S, 8)])
def test_a_limit_of_epochs_ends_the_rows(corpus, config):
    limited = config.build(corpus, dataclasses.replace(MIXTURE, epochs=2), 8, 0)
    assert limited.ends is not None and config.build(corpus, MIXTURE, 8, 0).ends is None
    unit = f"count_{limited._source.unit}"
    drawn = sum(int(limited.batch(row, slice(None))[unit].sum()) for row in range(0, limited.ends, 8))
    # Every document comes twice at most as the one that is drawn; a document is an item of its own or has windows.
    most = 2 * limited.report.get("windows", limited.report["documents"])
    assert most / 2 < drawn <= most


def test_empty_texts_and_texts_without_translation_are_left_out(corpus):
    stores = dict(corpus.stores["a"]["train"])
    tokens = np.array([20, 21, EOS, EOS, 22, EOS], np.uint16)
    stores["sv"] = dataclasses.replace(make_store(tokens, "sv"), group=np.array([900, 5, 6], np.int32), task="a")
    data = dataclasses.replace(corpus, stores={"a": {"train": stores}})
    feed = GroupFeed(T, S, 2, 8).build(data, MIXTURE, 4, 0)
    assert feed.report["empty"] == 1 and feed.report["without translation"] == 1
    assert feed.report["groups by languages"][1] == 1


def test_batches_of_a_seed_are_fixed(corpus):
    """A run that goes on after an update reads what it would have read: this is a format."""
    sums = [checksum(config.build(corpus, MIXTURE, 16, 7).batch(16 * 10**6, slice(None))) for config in KINDS]
    assert sums == CHECKSUMS
