from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from fakes import FakeTokenizer, checksum, make_store, prepare

from xalign_jax.data.feeds import windows
from xalign_jax.data.feeds.packed import TextFeed
from xalign_jax.data.feeds.windows import PieceFeed, Switch, WindowFeed, WordFeed
from xalign_jax.data.lexicon.facts import Facts, build_facts
from xalign_jax.data.lexicon.lexicon import Lexicon, Word, build_lexicon, concept_table
from xalign_jax.data.lexicon.subword_pairs import with_pieces
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.token_ties import language_ties, own_tokens, translation_ties
from xalign_jax.errors import UserError

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(10) for j in range(10)]
EOS, BOS = 1, 3
T = 16


def make_tokenizer():
    """WORDS[:50] are one piece each, the others two."""
    heads = sorted({f"▁{word[:2]}" for word in WORDS[50:]})
    return FakeTokenizer([*(f"▁{word}" for word in WORDS[:50]), *heads, *"abcdefghij"], clones=1)


def make_tokens(tokenizer, documents: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    encoded = tokenizer.encode_words(WORDS)
    texts = [
        np.concatenate([encoded[i] for i in rng.integers(100, size=rng.integers(3, 40))]) for _ in range(documents)
    ]
    return np.concatenate([np.append(text, EOS) for text in texts]).astype(np.uint16)


@pytest.fixture(scope="module")
def corpus():
    tokenizer = make_tokenizer()
    data = prepare(tokenizer, {"en": make_tokens(tokenizer, 150), "de": make_tokens(tokenizer, 60, 1)})
    lexicon = build_lexicon(Lexicon(), tokenizer, data.stores)
    facts = build_facts(Facts(count=20, relations=3, objects=8), lexicon, tokenizer)
    return dataclasses.replace(data, lexicon=lexicon, facts=facts)


def mixture(**rates) -> Mixture:
    return Mixture(tasks=("texts",), rates=rates)


MIXED = mixture(en=0.5, en_clone=0.3, de=0.15, facts=0.05)


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("switch", [None, Switch(rate=0.5), Switch(rate=0.5, vanilla=True, both_ways=True)])
def test_any_slice_equals_the_rows_of_the_whole_batch(corpus, switch):
    feed = WindowFeed(T, switch).build(corpus, MIXED, 64, 7)
    whole = feed.batch(6400, slice(0, 64))
    assert equal(whole, feed.batch(6400, slice(None)))
    for part in (slice(0, 1), slice(17, 40), slice(63, 64)):
        assert equal(feed.batch(6400, part), {key: array[part] for key, array in whole.items()})
    other = WindowFeed(T, switch).build(corpus, MIXED, 32, 7)
    assert equal(other.batch(6432, slice(0, 32)), {key: array[32:] for key, array in whole.items()})
    assert not equal(whole, WindowFeed(T, switch).build(corpus, MIXED, 64, 8).batch(6400, slice(0, 64)))


@pytest.mark.parametrize(
    ("feed", "expected"),
    [
        (WindowFeed(T), 3726448744),
        (WindowFeed(T, Switch(rate=0.5)), 625290451),
        (WindowFeed(T, Switch(rate=0.5, vanilla=True, both_ways=True)), 851034222),
        (WordFeed(T, 6, 10), 3907051830),
        (PieceFeed(T, 6, 10), 2077055028),
    ],
)
def test_batches_of_a_seed_are_fixed(corpus, feed, expected):
    """A run that goes on after an update reads what it would have read: this is a format."""
    assert checksum(feed.build(corpus, MIXED, 32, 7).batch(32 * 10**6, slice(None))) == expected


def test_long_batches_are_cut_in_pieces_without_a_seam(corpus, monkeypatch):
    feed = WindowFeed(T, Switch(rate=0.5)).build(corpus, MIXED, 500, 7)
    whole = feed.batch(0, slice(0, 500))
    for rows in (7, 250, 499, 500):
        monkeypatch.setattr(windows, "_CHUNK", rows * T)
        assert equal(feed.batch(0, slice(0, 500)), whole)


@pytest.mark.parametrize(("pad", "filled"), [(4, 4), (None, 0)])
def test_what_is_filled_is_the_vocabularys_padding(corpus, monkeypatch, pad, filled):
    monkeypatch.setattr(corpus.tokenizer, "pad", pad)
    words = WordFeed(T, 6, 10).build(corpus, None, 8, 3).batch(0, slice(None))
    texts = TextFeed(T, 6).build(corpus, MIXED, 8, 3).batch(0, slice(None))
    for batch in (words, texts):
        empty = batch["segment_ids"] == 0
        assert empty.any() and (batch["tokens"][empty] == filled).all()


def test_shapes_and_types(corpus):
    batch = WindowFeed(T, Switch()).build(corpus, MIXED, 8, 0).batch(0, slice(0, 8))
    for key in ("tokens", "targets", "positions", "segment_ids"):
        assert batch[key].shape == (8, T) and batch[key].dtype == np.int32, key
    assert batch["weights"].shape == (8, T) and batch["weights"].dtype == np.float32
    for key in ("language", *(k for k in batch if k.startswith("count_"))):
        assert batch[key].shape == (8,) and batch[key].dtype == np.int32, key
    assert len([k for k in batch if k.startswith("count_")]) == 5
    assert same_form(batch, WindowFeed(T, Switch()).blank(8))


def same_form(batch: dict, blank: dict) -> bool:
    """Equal names, shapes and dtypes."""
    form, expected = ({k: (a.shape, a.dtype) for k, a in one.items()} for one in (batch, blank))
    return form == expected


def test_windows_are_stored_tokens_and_documents_are_segments(corpus):
    feed = WindowFeed(T).build(corpus, mixture(de=1.0), 50, 3)
    stored = corpus.stores["texts"]["train"]["de"].tokens.astype(np.int32)
    _, _, _, start = feed.windows(np.arange(50))
    batch = feed.batch(0, slice(0, 50))
    for row in range(50):
        window = stored[start[row] : start[row] + T + 1]
        assert np.array_equal(batch["targets"][row], window[1:])
        first = window[:-1] == EOS
        assert np.array_equal(batch["tokens"][row], np.where(first, BOS, window[:-1]))
        segment, position = 1, 0
        for t in range(T):
            if first[t]:
                segment, position = segment + (t > 0), 0
            assert (batch["segment_ids"][row, t], batch["positions"][row, t]) == (segment, position)
            position += 1
    assert (batch["weights"] == 1).all() and (batch["segment_ids"] > 1).any()


def test_without_bos_a_documents_first_target_weighs_nothing(corpus, monkeypatch):
    with_bos = WindowFeed(T).build(corpus, mixture(de=1.0), 50, 3).batch(0, slice(0, 50))
    monkeypatch.setattr(corpus.tokenizer, "bos", None)
    batch = WindowFeed(T).build(corpus, mixture(de=1.0), 50, 3).batch(0, slice(0, 50))
    first = with_bos["tokens"] == BOS
    assert first.any() and np.array_equal(batch["weights"], np.where(first, 0, 1))
    assert (batch["tokens"][first] == EOS).all() and np.array_equal(batch["segment_ids"], with_bos["segment_ids"])


def test_every_window_once_in_an_epoch_never_in_two_languages(corpus):
    """Row by row over two epochs: windows of a text are disjoint, whichever of its languages they are written in."""
    feed = WindowFeed(T).build(corpus, MIXED, 1, 5)
    member, epoch, _, start = feed.windows(np.arange(3000))
    english = (member == 1) | (member == 2)
    size = len(corpus.stores["texts"]["train"]["en"].tokens)
    for number in range(2):
        mine = np.sort(start[english & (epoch == number)])
        assert len(np.unique(member[english & (epoch == number)])) == 2
        assert (np.diff(mine) == T).all() and len(mine) == (size - 1) // T - 1
        assert 0 <= mine[0] < T and mine[-1] + T + 1 <= size
    starts = [np.sort(start[english & (epoch == number)])[0] for number in range(4)]
    assert len(set(starts)) > 1
    assert not np.array_equal(start[english & (epoch == 0)], start[english & (epoch == 1)])


def test_windows_and_their_offsets_end_with_the_store():
    """A store of N tokens has (N - 1) // T windows of T targets; one of several is given up for offsets."""
    sizes = np.arange(6 * T)
    room, first = windows._window_table(sizes, T)
    count = np.diff(first)
    assert first[0] == 0 and count.tolist() == [max(n - 1, 0) // T - (n > 2 * T) for n in sizes]
    assert room[count > 0].tolist() == [min(n - 1 - w * T, T - 1) for n, w in zip(sizes, count, strict=True) if w]


def test_languages_have_exact_shares_and_their_own_ids(corpus):
    feed = WindowFeed(T).build(corpus, MIXED, 1000, 5)
    batch = feed.batch(3000, slice(0, 1000))
    assert feed.languages == ("de", "en", "en_clone")
    assert np.bincount(batch["language"]).tolist() == [150, 500 + 50, 300]
    clone = batch["language"] == 2
    base = corpus.tokenizer.base_size
    ordinary = batch["targets"] % base > 4
    assert ((batch["targets"] >= base) == (clone[:, None] & ordinary)).all()


def test_switching_off_is_bit_identical(corpus):
    plain = WindowFeed(T).build(corpus, MIXED, 64, 7).batch(128, slice(0, 64))
    assert equal(plain, WindowFeed(T, Switch(rate=0.0)).build(corpus, MIXED, 64, 7).batch(128, slice(0, 64)))
    nothing = dataclasses.replace(corpus, lexicon=build_lexicon(Lexicon(), corpus.tokenizer, corpus.stores))
    empty = nothing.lexicon.train
    for name in ("concept", "language", "text_hash"):
        object.__setattr__(empty, name, getattr(empty, name)[:0])
    assert equal(plain, WindowFeed(T, Switch()).build(nothing, MIXED, 64, 7).batch(128, slice(0, 64)))


def test_switched_rows_keep_targets_in_their_own_language(corpus):
    feed = WindowFeed(T, Switch(rate=0.5)).build(corpus, MIXED, 1000, 5)
    batch = feed.batch(0, slice(0, 1000))
    plain = WindowFeed(T).build(corpus, MIXED, 1000, 5).batch(0, slice(0, 1000))
    base = corpus.tokenizer.base_size
    english = batch["language"] == 1
    assert (batch["targets"][english & True] < base).all()
    changed = (batch["tokens"] != plain["tokens"]).any(axis=1)
    assert np.array_equal(changed, ((batch["tokens"] >= base) & english[:, None]).any(axis=1))
    kept = batch["weights"] > 0
    assert np.array_equal(batch["targets"][kept], plain["targets"][kept])  # a clone's words keep their length
    switched = batch["count_switched"][english].sum()
    assert 0.3 * 0.8 < switched / batch["count_words"][english].sum() < 0.5
    assert not batch["count_words"][~english].any()


def test_facts_are_switched_in_the_input_as_all_text_is_and_their_targets_never(corpus):
    facts = WindowFeed(T, Switch(rate=1.0)).build(corpus, mixture(facts=1.0), 200, 5).batch(0, slice(0, 200))
    assert (facts["count_switched"] == facts["count_words"]).all() and facts["count_switched"].any()
    assert facts["tokens"].max() >= corpus.tokenizer.base_size > facts["targets"].max()


def test_held_out_words_are_never_switched(corpus):
    batch = WindowFeed(T, Switch(rate=1.0)).build(corpus, mixture(en=1.0), 500, 5).batch(0, slice(0, 500))
    foreign = {i for i in batch["tokens"].ravel().tolist() if i >= corpus.tokenizer.base_size}
    table = corpus.lexicon
    held = [table.heldout.tokens(w) for w in np.flatnonzero(table.heldout.language == 1)]
    trained = np.concatenate([table.train.tokens(w) for w in np.flatnonzero(table.train.language == 1)])
    assert foreign == set(trained.tolist())
    assert not foreign & {int(ids[0]) for ids in held if len(ids) == 1}


@pytest.mark.parametrize(("pad", "stands"), [(0, 0), (4, 4), (None, 0)])
def test_the_end_of_a_store_is_filled_and_weighs_nothing(corpus, tmp_path, monkeypatch, pad, stands):
    """n -> m translations that shorten rows: the last window has no slack to read."""
    path = tmp_path / "d.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in zip(WORDS[50:], WORDS[:50], strict=True)))
    tokens = corpus.stores["texts"]["train"]["en"].tokens
    tokens = np.append(tokens[: (len(tokens) - 1) // T * T], EOS).astype(np.uint16)  # no more than the windows need
    data = prepare(corpus.tokenizer, {"en": tokens})
    lexicon = Lexicon(source="file", paths=(str(path),), languages=("en", "de"), heldout=0.0)
    data = dataclasses.replace(data, lexicon=build_lexicon(lexicon, data.tokenizer, data.stores))
    monkeypatch.setattr(corpus.tokenizer, "pad", pad)
    feed = WindowFeed(T, Switch(rate=1.0)).build(data, mixture(en=1.0), 3000, 5)
    batch = feed.batch(0, slice(0, 3000))
    filled = batch["count_filled"]
    assert filled.any() and np.mean(filled > 0) < 0.05
    for row in np.flatnonzero(filled):
        rest = slice(T - filled[row], None)
        assert all((batch[key][row, rest] == stands).all() for key in ("tokens", "targets"))
        assert not any(batch[key][row, rest].any() for key in ("weights", "positions", "segment_ids"))
        assert batch["segment_ids"][row, : T - filled[row]].all()


def test_a_far_step_is_as_fast_as_the_first(corpus):
    feed = WindowFeed(T, Switch()).build(corpus, MIXED, 32, 7)
    feed.batch(0, slice(0, 32))
    start = time.thread_time()  # of this thread alone: a busy machine does not count
    feed.batch(32 * 10**9, slice(0, 32))
    assert time.thread_time() - start < 0.2


def test_errors_name_the_binding(corpus):
    with pytest.raises(UserError, match=r"Mixture\.rates sum to 0"):
        mixture(en=0.0)
    for wrong in (mixture(fr=1.0), Mixture(("texts",), languages=("fr",))):
        with pytest.raises(UserError, match=r"Mixture\."):
            WindowFeed(T).build(corpus, wrong, 8, 0)
    with pytest.raises(UserError, match=r"Mixture\.rates: 'de'"):
        WindowFeed(10**5).build(corpus, mixture(de=1.0), 8, 0)
    bare = dataclasses.replace(corpus, lexicon=None, facts=None)
    with pytest.raises(UserError, match=r"Recipe\.lexicon"):
        WindowFeed(T, Switch()).build(bare, mixture(en=1.0), 8, 0)
    with pytest.raises(UserError, match=r"Recipe\.lexicon"):
        WordFeed(T, 4, 4).build(bare, None, 8, 0)
    with pytest.raises(UserError, match=r"Stream\.mixture"):
        WindowFeed(T).build(corpus, None, 8, 0)


def test_word_rows_hold_each_word_in_a_segment(corpus):
    feed = WordFeed(length=T, words_per_row=6, concepts=10).build(corpus, None, 8, 3)
    batch = feed.batch(16, slice(0, 8))
    table = corpus.lexicon.train
    words = {
        (int(c), int(lang)): table.tokens(w).tolist()
        for w, (c, lang) in enumerate(zip(table.concept, table.language, strict=True))
    }
    found = []
    for row, slot in zip(*np.nonzero(batch["concept"] >= 0), strict=True):
        mine = batch["segment_ids"][row] == slot + 1
        key = int(batch["concept"][row, slot]), int(batch["language"][row, slot])
        ids = batch["tokens"][row][mine].tolist()
        assert ids == words[key] and batch["positions"][row][mine].tolist() == list(range(len(ids)))
        assert batch["targets"][row][mine].tolist() == [*ids[1:], 0]
        assert batch["weights"][row][mine].tolist() == [1.0] * (len(ids) - 1) + [0.0]
        assert (batch["own_tokens"][row][mine] == key[1]).all()  # a clone shares no token
        found.append(key)
    assert len(set(found)) == len(found) == 20 == batch["count_words"].sum()
    assert len({concept for concept, _ in found}) == 10 and not batch["count_dropped"].any()
    assert (batch["segment_ids"].max(axis=1) <= 6).all() and feed.languages == ("en", "en_clone")
    assert same_form(batch, WordFeed(length=T, words_per_row=6, concepts=10).blank(8))


def test_tokens_of_two_languages_belong_to_the_one_that_uses_them_ten_times_as_often(corpus):
    size = corpus.tokenizer.base_size
    texts = {  # token 10: 1 % of English, 10 % of German; 11: 2 and 10 %; 12 German only; 13 English only; 14 neither
        "en": [10] * 10 + [11] * 20 + [13] * 970,
        "de": [10] * 10 + [11] * 10 + [12] * 80,
    }
    stores = {"texts": {"train": {name: make_store(np.array(ids, np.uint16)) for name, ids in texts.items()}}}
    own = own_tokens(dataclasses.replace(corpus, stores=stores), ("en", "de", "en_clone"))
    assert own[1, 10:15].tolist() == [True, False, True, False, False] and not own[0].any()
    assert not own[2, 10:14:3].any() and own[2, size + 10 : size + 15].tolist() == [True, True, False, True, False]


def test_piece_rows_hold_the_words_and_their_pieces(corpus):
    table = with_pieces(corpus.lexicon.train)
    concepts = len(np.unique(table.concept))
    assert concepts > len(np.unique(corpus.lexicon.train.concept))
    feed = PieceFeed(length=T, words_per_row=T, concepts=concepts).build(corpus, None, 2 * len(table.ids) // T, 3)
    batch = feed.batch(0, slice(None))
    assert not batch["count_dropped"].any() and batch["count_words"].sum() == len(table.concept)
    assert set(batch["concept"].ravel()) == {-1, *table.concept}
    with pytest.raises(UserError, match=rf"PieceFeed\.concepts = {concepts + 1}"):
        PieceFeed(T, 4, concepts + 1).build(corpus, None, 8, 0)


def test_word_steps_are_epochs_over_concepts(corpus):
    concepts = len(np.unique(corpus.lexicon.train.concept))
    feed = WordFeed(length=T, words_per_row=8, concepts=9).build(corpus, None, 8, 3)
    steps = concepts // 9
    epochs = [
        [np.unique(feed.batch(8 * (e * steps + s), slice(0, 8))["concept"]) for s in range(steps)] for e in (0, 1)
    ]
    for epoch in epochs:
        seen = np.concatenate(epoch)
        seen = seen[seen >= 0]
        assert len(np.unique(seen)) == len(seen) == 9 * steps
    assert not np.array_equal(epochs[0][0], epochs[1][0])


def test_word_rows_are_slices_of_the_packing_and_count_what_does_not_fit(corpus):
    feed = WordFeed(length=T, words_per_row=3, concepts=20).build(corpus, None, 8, 3)
    whole = feed.batch(8 * 10**9, slice(None))
    for part in (slice(0, 2), slice(3, 8)):
        assert equal(feed.batch(8 * 10**9, part), {key: array[part] for key, array in whole.items()})
    assert whole["count_words"].sum() + whole["count_dropped"].sum() == 40 and whole["count_words"].max() == 3
    assert whole["count_dropped"][0] == 16
    with pytest.raises(UserError, match=r"WordFeed\.concepts"):
        WordFeed(T, 4, 10**4).build(corpus, None, 8, 0)
    with pytest.raises(UserError, match=r"WordFeed\.length = 1: the longest word takes"):
        WordFeed(1, 4, 4).build(corpus, None, 8, 0)
    with pytest.raises(UserError, match=r"WordFeed\.words_per_row = 0: must be at least 1"):
        WordFeed(T, 0, 4)


def test_words_of_one_token_and_pieces_follow_what_they_translate_and_all_of_a_language_share_a_vector(corpus):
    shared, table = translation_ties(corpus), with_pieces(corpus.lexicon.train)
    follows = shared.source != shared.token
    source, follower = shared.source[follows], shared.token[follows]
    assert (corpus.tokenizer.clone(source, 1) == follower).all() and (shared.language == 1).all()
    singles = [table.tokens(w)[0] for w in np.flatnonzero((table.language == 0) & (np.diff(table.starts) == 1))]
    assert sorted(source) == sorted(singles) and len(set(shared.token)) == len(shared.token)
    assert set(shared.token) == set(np.flatnonzero(own_tokens(corpus, table.languages)[1])) > set(follower)
    alone = language_ties(corpus)
    assert (alone.token == shared.token).all() and (alone.source == alone.token).all()
    assert (alone.language == shared.language).all()


def test_rows_that_the_first_language_uses_do_not_follow(corpus):
    words = [Word(0, 0, (10,), "a"), Word(0, 1, (11,), "b"), Word(1, 0, (12,), "c"), Word(1, 1, (13,), "d")]
    words += [Word(2, 0, (13,), "d"), Word(2, 1, (14,), "e"), Word(3, 0, (15,), "f"), Word(3, 1, (14,), "e")]
    texts = {"en": [11] * 10 + [10, 12, 13, 15] * 20, "de": [11, 13, 14, 16] * 10}
    stores = {"texts": {"train": {name: make_store(np.array(ids, np.uint16)) for name, ids in texts.items()}}}
    table = concept_table(words, ("en", "de"))
    lexicon = dataclasses.replace(corpus.lexicon, train=table)
    found = translation_ties(dataclasses.replace(corpus, stores=stores, lexicon=lexicon))
    # English uses 11, and 13 is a word of its own; of two concepts that name 14 the first one counts. 16 is German alone.
    assert (found.source.tolist(), found.token.tolist(), found.language.tolist()) == ([13, 16], [14, 16], [1, 1])
    with pytest.raises(UserError, match="no token of the lexicon's words"):
        none = dataclasses.replace(lexicon, train=concept_table(words[:2], ("en", "de")))
        translation_ties(dataclasses.replace(corpus, stores=stores, lexicon=none))
    with pytest.raises(UserError, match=r"TiedRows need Recipe\.lexicon"):
        language_ties(dataclasses.replace(corpus, lexicon=None))
    alike = {"texts": {"train": {name: stores["texts"]["train"]["en"] for name in ("en", "de")}}}
    with pytest.raises(UserError, match="no token is used ten times as often by de as by en"):
        language_ties(dataclasses.replace(corpus, stores=alike, lexicon=lexicon))
