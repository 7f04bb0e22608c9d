from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeTokenizer
from switch_reference import dictionary, draws_of, switch_loop

from xalign_jax.data.feeds.codeswitch import Switch, build_table, switch
from xalign_jax.data.lexicon.lexicon import Word, concept_table
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.tokens.words import hash_words

PIECES = [
    "▁she",
    "▁walk",
    "ed",
    "▁home",
    "▁Walk",
    "▁WALK",
    "ED",
    "▁l",
    "ie",
    "f",
    "▁a",
    "x",
    "y",
    "▁b",
    "走",
    "路",
    "▁now",
]
PAD, EOS = 0, 1


def make(pairs: list[tuple[str, str]], languages=("en", "nl"), clones: int = 0, both_ways: bool = False):
    """Tokenizer and table of (source word, target word in languages[1]) pairs; equal source words share a concept."""
    tokenizer = FakeTokenizer(PIECES, clones)
    k = 1 if languages[1].endswith("clone") else 0
    numbers = {source: n for n, source in enumerate(dict.fromkeys(source for source, _ in pairs))}
    words = {Word(n, 0, tuple(tokenizer.encode_words([source])[0].tolist()), source) for source, n in numbers.items()}
    for source, target in pairs:
        ids = tokenizer.clone(tokenizer.encode_words([target])[0], k)
        words.add(Word(numbers[source], 1, tuple(ids.tolist()), target))
    concepts = concept_table(sorted(words, key=lambda w: (w.concept, w.language, w.ids)), languages)
    return tokenizer, build_table(concepts, tokenizer, both_ways)


def run(tokenizer, table, texts: list[str], rate=1.0, vanilla=False, length=None, slack=0, language=0, seed=0):
    """Each text + eos as a row of `length` + slack tokens, eos beyond its end."""
    rows = [np.append(ids, EOS) for ids in tokenizer.encode(texts)]
    length = length or max(map(len, rows))
    base = np.full((len(rows), length + slack), EOS, np.uint16)
    for row, ids in zip(base, rows, strict=True):
        row[: len(ids)] = ids[: length + slack]
    valid = np.array([min(len(ids), length + slack) for ids in rows])
    keys = hash64(seed, np.arange(len(rows)))
    config = Switch(rate=rate, vanilla=vanilla)
    return switch(
        base, base.astype(np.int32), valid, keys, np.full(len(rows), language), table=table, config=config,
        length=length, pad=PAD,
    )  # fmt: skip


def names(tokenizer, ids) -> str:
    return " ".join(tokenizer.pieces[i] for i in ids)


def test_worked_example_two_tokens_become_three():
    tokenizer, table = make([("walked", "lief")])
    found = run(tokenizer, table, ["she walked home"], length=6)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁l ie f ▁home </s>"
    assert names(tokenizer, found.labels[0]) == "▁she ▁walk <pad> <pad> ▁home </s>"
    assert found.weights[0].tolist() == [1, 1, 0, 0, 1, 1]
    assert found.switched.tolist() == [1] and found.words.tolist() == [3] and found.filled.tolist() == [0]


def test_worked_example_three_tokens_become_one():
    tokenizer, table = make([("axy", "b")])
    found = run(tokenizer, table, ["she axy home"])
    assert names(tokenizer, found.tokens[0]) == "▁she ▁b ▁home </s> <pad> <pad>"
    assert names(tokenizer, found.labels[0]) == "▁she ▁a ▁home </s> <pad> <pad>"
    assert found.weights[0].tolist() == [1, 1, 1, 1, 0, 0]
    assert found.length.tolist() == [4] and found.filled.tolist() == [2]


def test_worked_example_vanilla():
    tokenizer, table = make([("walked", "lief")])
    found = run(tokenizer, table, ["she walked home"], vanilla=True, length=6)
    assert names(tokenizer, found.labels[0]) == "▁she ▁l ie f ▁home </s>"
    assert found.weights[0].tolist() == [1] * 6


def test_worked_example_clone_at_rate_one():
    words = ["she", "walked", "home"]
    tokenizer, table = make([(word, word) for word in words], ("en", "en_clone"), clones=1)
    found = run(tokenizer, table, ["she walked home"])
    original = [*tokenizer.encode(["she walked home"])[0].tolist(), EOS]
    assert found.tokens[0].tolist() == [i + tokenizer.base_size if i != EOS else EOS for i in original]
    assert names(tokenizer, found.labels[0]) == "▁she ▁walk <pad> ▁home </s>"
    assert found.weights[0].tolist() == [1, 1, 0, 1, 1]


def test_supervised_targets_fall_by_n_minus_one_whatever_m_is():
    for target in ("b", "lief", "走"):
        tokenizer, table = make([("axy", target)])
        found = run(tokenizer, table, ["she axy home"], length=8)
        assert found.weights.sum() == 6 - 2


def test_words_next_to_punctuation_and_document_ends_match():
    tokenizer, table = make([("walked", "lief"), ("home", "b")])
    found = run(tokenizer, table, ["she walked, home"], length=8)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁l ie f , ▁b </s> <pad>"
    assert found.switched.tolist() == [2]


def test_followers_of_punctuation_and_cut_words_are_left_alone():
    tokenizer, table = make([("walk", "b")])
    base = np.array([tokenizer.encode(["she.ed walk walk"])[0]], np.uint16)
    assert names(tokenizer, base[0]) == "▁she . ed ▁walk ▁walk"
    keys, none = hash64(np.arange(1)), np.zeros(1, np.int64)
    config = Switch(rate=1.0)
    found = switch(base, base.astype(np.int32), np.array([5]), keys, none, table=table, config=config, length=5, pad=0)
    assert names(tokenizer, found.tokens[0]) == "▁she . ed ▁b ▁walk"  # the last word may go on beyond the row
    assert found.words.tolist() == [3]


def test_targets_without_spaces_and_many_translations():
    tokenizer, table = make([("walk", "走路"), ("walk", "走"), ("walk", "b")])
    found = run(tokenizer, table, ["walk home"] * 3000, length=5)
    first = np.bincount(found.tokens[:, 0], minlength=len(tokenizer.pieces))
    second = found.tokens[:, 1] == tokenizer.pieces.index("路")
    assert abs(first[tokenizer.pieces.index("▁b")] - 1000) < 5 * np.sqrt(667)
    assert abs(second.sum() - 1000) < 5 * np.sqrt(667)
    assert "".join(tokenizer.decode(found.tokens[second][0])) == "走路 home"


def test_target_languages_are_equally_likely_however_many_translations_they_have():
    tokenizer = FakeTokenizer(PIECES)
    rows = [(0, "walk"), (1, "b"), (2, "走"), (2, "路"), (2, "lief")]
    ids = tokenizer.encode_words([word for _, word in rows])
    words = [Word(0, language, tuple(i.tolist()), word) for (language, word), i in zip(rows, ids, strict=True)]
    table = build_table(concept_table(words, ("en", "nl", "zh")), tokenizer)
    found = run(tokenizer, table, ["walk"] * 4000, length=4)
    assert abs((found.tokens[:, 0] == tokenizer.pieces.index("▁b")).sum() - 2000) < 5 * np.sqrt(1000)


def test_exact_entries_come_before_case_folded_ones():
    tokenizer, table = make([("walked", "lief")])
    found = run(tokenizer, table, ["Walked WALKED walked"], length=12)
    assert names(tokenizer, found.tokens[0][:9]) == "▁l ie f ▁l ie f ▁l ie f"
    tokenizer, table = make([("walked", "lief"), ("Walked", "b")])
    found = run(tokenizer, table, ["Walked walked"], length=5)
    assert names(tokenizer, found.tokens[0]) == "▁b ▁l ie f </s>"


def test_both_ways_switches_target_words_into_the_source():
    tokenizer, table = make([("walked", "lief")], both_ways=True)
    found = run(tokenizer, table, ["she lief home"], language=1, length=6)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁walk ed ▁home </s> <pad>"
    assert names(tokenizer, found.labels[0]) == "▁she ▁l <pad> ▁home </s> <pad>"
    assert run(tokenizer, table, ["she lief home"], language=0).switched.sum() == 0
    assert run(tokenizer, table, ["she lief home"], language=-1).words.sum() == 0


def test_slack_refills_and_growth_clips():
    tokenizer, table = make([("axy", "b")])
    found = run(tokenizer, table, ["axy she home now she home"], length=5, slack=2)
    assert names(tokenizer, found.tokens[0]) == "▁b ▁she ▁home ▁now ▁she"
    assert found.filled.tolist() == [0] and found.clipped.tolist() == [0]
    tokenizer, table = make([("b", "lief")])
    found = run(tokenizer, table, ["b she home"], length=4)
    assert names(tokenizer, found.tokens[0]) == "▁l ie f ▁she"
    assert found.clipped.tolist() == [2]


def test_a_span_that_the_row_would_cut_is_not_switched():
    tokenizer, table = make([("b", "lief")])
    found = run(tokenizer, table, ["she home b now b"], length=4)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁home ▁b ▁now"
    assert found.switched.tolist() == [0] and found.drawn.tolist() == [3]


def test_words_of_two_languages_have_hashes_of_their_own():
    """Each column and the language have a factor of their own: no word collides with its neighbour."""
    words = np.array([[a, b] for a in range(-1, 9) for b in range(-1, 9)], np.int32)
    factors = hash64("table", 1, np.arange(3)) | np.uint64(1)
    found = [hash_words(words, np.full(len(words), language), factors) for language in range(3)]
    assert len(np.unique(found)) == 3 * len(words)


def test_draws_do_not_depend_on_other_rows():
    tokenizer, table = make([("walked", "lief"), ("home", "b"), ("axy", "走")])
    texts = ["she walked home axy " * 8] * 64
    whole = run(tokenizer, table, texts, rate=0.3, length=48, slack=8)
    half = run(tokenizer, table, texts[:17], rate=0.3, length=48, slack=8)
    assert np.array_equal(whole.tokens[:17], half.tokens) and np.array_equal(whole.labels[:17], half.labels)
    assert len(np.unique(whole.tokens, axis=0)) > 50


def test_a_key_of_several_words_is_switched_as_one():
    tokenizer, table = make([("now.ed", "lief"), ("now", "b"), ("ed", "she")])
    found = run(tokenizer, table, ["she now.ed, now.x now"], length=12)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁l ie f , ▁b . x ▁b </s> <pad> <pad>"
    assert names(tokenizer, found.labels[0]) == "▁she ▁now <pad> <pad> , ▁now . x ▁now </s> <pad> <pad>"
    assert found.switched.tolist() == [3] and found.words.tolist() == [6]


def test_words_inside_a_longer_key_are_left_alone_though_it_is_not_drawn():
    tokenizer, table = make([("路走", "b"), ("走", "she")])
    for seed in range(20):
        found = run(tokenizer, table, ["路走now"], rate=0.5, length=4, seed=seed)
        assert "▁she" not in names(tokenizer, found.tokens[0])


def test_words_are_found_in_a_script_without_spaces():
    tokenizer, table = make([("走路", "b"), ("路", "she")])
    found = run(tokenizer, table, ["路走路路 walk路"], length=8)
    assert names(tokenizer, found.tokens[0]) == "▁she ▁b ▁she ▁walk ▁she </s> <pad> <pad>"
    tokenizer, table = make([("walk", "走路")], both_ways=True)
    found = run(tokenizer, table, ["路走路路"], language=1, length=5)
    assert names(tokenizer, found.tokens[0]) == "路 ▁walk 路 </s> <pad>"


@pytest.mark.parametrize("vanilla", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("slack", [0, 9])
@pytest.mark.parametrize("several", [False, True])
def test_equals_the_plain_loop(rate, slack, vanilla, several):
    pairs = [("walked", "lief"), ("walked", "b"), ("home", "走路"), ("axy", "b"), ("b", "axy"), ("now", "she")]
    if several:
        pairs += [("走", "now"), ("走路", "b"), ("路走走", "lief"), ("b.x", "she"), ("b.", "axy"), ("axy,b", "b")]
    tokenizer, table = make(pairs)
    rng = np.random.default_rng(0)
    some = [tokenizer.pieces.index(piece) for piece in ("走", "路", "▁b", ".", ",", "x", "▁a", "y")]
    ids = np.array(some) if several else np.arange(5, tokenizer.base_size)
    base = rng.choice(ids, (200, 40 + slack)).astype(np.uint16)
    base[rng.random(base.shape) < 0.1] = EOS
    valid = np.where(np.arange(200) % 7 == 0, 30, 40 + slack)
    base[np.arange(40 + slack) >= valid[:, None] - (valid < 40 + slack)[:, None]] = EOS
    keys, language = hash64(5, np.arange(200)), np.where(np.arange(200) % 5 == 0, -1, 0)
    config = Switch(rate=rate, vanilla=vanilla)
    found = switch(base, base.astype(np.int32), valid, keys, language, table=table, config=config, length=40, pad=PAD)
    (draws, picks), keyed, flags = draws_of(keys, 40 + slack), dictionary(table), table.flags.tolist()
    for row in range(200):
        tokens, labels, weights, counts = switch_loop(
            base[row, : valid[row]].tolist(), draws[row], picks[row], language[row], keyed, flags, config, 40, PAD,
            3 if several else 1,
        )  # fmt: skip
        there = len(tokens)
        assert found.length[row] == there and found.filled[row] == 40 - there
        assert found.tokens[row, :there].tolist() == tokens and (found.tokens[row, there:] == PAD).all()
        assert found.labels[row, :there].tolist() == labels
        assert found.weights[row, :there].tolist() == weights and not found.weights[row, there:].any()
        assert {name: int(getattr(found, name)[row]) for name in counts} == counts


def test_effective_rate_on_a_million_words():
    """rate * coverage within 3 sigma; here every word type but one of five is in the table."""
    words = ["she", "walked", "home", "now"]
    tokenizer, table = make([(word, word) for word in words], ("en", "en_clone"), clones=1)
    types = tokenizer.encode_words([*words, "b"])
    rng = np.random.default_rng(1)
    stream = np.concatenate([types[i] for i in rng.integers(5, size=1_010_000)]).astype(np.uint16)
    base = stream[: len(stream) // 1000 * 1000].reshape(-1, 1000)
    found = switch(
        base, base.astype(np.int32), np.full(len(base), 1000), hash64(np.arange(len(base))), np.zeros(len(base), int),
        table=table, config=Switch(rate=0.05), length=1000, pad=PAD,
    )  # fmt: skip
    n = found.words.sum()
    assert n > 1_000_000
    for count, p in ((found.drawn.sum(), 0.05), (found.switched.sum(), 0.05 * 0.8)):
        assert abs(count / n - p) < 3 * np.sqrt(p * (1 - p) / n)
