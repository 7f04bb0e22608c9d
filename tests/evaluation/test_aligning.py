"""Parallel files, links, gold links and dictionaries: what is written is read, and what is wrong is one line."""

from __future__ import annotations

import json

import pytest

from xalign_jax.data.lexicon.files import read_dictionary
from xalign_jax.data.text.linked import Pair, count_pairs, read_gold, read_links, read_pairs, split_words
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.dictionary import DictionaryCounts
from xalign_jax.evaluation.aligning.lexical import DiagonalAligner
from xalign_jax.evaluation.aligning.links import json_line, pharaoh
from xalign_jax.evaluation.aligning.pairs import Alignment, windows

PAIRS = [
    Pair(1, ("The", "cat", "sleeps"), ("die", "Katze", "schläft")),
    Pair(2, (), ("nichts",)),
    Pair(3, ("a",), ("b",)),
]


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_links_are_read_as_they_were_written(tmp_path):
    found = [Alignment(((0, 0), (1, 2), (2, 1)), (0.5, 0.25, 1.0)), Alignment(), Alignment(((0, 0),), (1.0,))]
    file = write(tmp_path / "links", *map(pharaoh, found))
    assert [gold.sure for gold in read_links(file)] == [alignment.links for alignment in found]
    assert all(gold.possible == () for gold in read_links(file))
    row = json.loads(json_line(PAIRS[0], found[0]))
    assert row["source"] == ["The", "cat", "sleeps"] and row["line"] == 1
    assert row["links"] == [[0, 0], [1, 2], [2, 1]] and row["probabilities"] == [0.5, 0.25, 1.0]


def test_gold_links_are_sure_or_possible_and_count_from_either_number(tmp_path):
    zero = write(tmp_path / "zero", "0-0 1p2", "", "0-0")
    one = write(tmp_path / "one", "1-1 2p3", "", "1-1")
    found = [gold for _, gold in read_gold(zero, iter(PAIRS))]
    assert found[0].sure == ((0, 0),) and found[0].possible == ((1, 2),)
    assert [gold for _, gold in read_gold(one, iter(PAIRS), base=1)] == found


@pytest.mark.parametrize(
    ("lines", "base", "said"),
    [
        (["0-0 3-1", "", ""], None, r"gold:1: link 3-1 lies outside 3 source and 3 target words; words are split"),
        (["1-1 3-3", "", ""], None, r"gold:1: link 3-3 .* if the file counts from 1, add --gold_base=1"),
        (["0-0", "", "1-1"], 1, r"gold:1: 0-0 counts words from 0; leave --gold_base=1 out"),
        (["0-0 1:1", "", ""], None, r"gold:1: '1:1' is no link; write 2-3 \(sure\) or 2p3 \(possible\)"),
        (["0-0", ""], None, r"gold: 2 lines, but the texts have more"),
        (["0-0", "", "", ""], None, r"gold: more lines than the texts, which have 3"),
    ],
)
def test_wrong_gold_links_are_one_line(tmp_path, lines, base, said):
    file = write(tmp_path / "gold", *lines)
    with pytest.raises(UserError, match=said):
        list(read_gold(file, iter(PAIRS), base))


def test_a_gold_file_that_counts_from_one_within_range_is_refused(tmp_path):
    pairs = [Pair(n, ("a",) * 5, ("b",) * 5) for n in range(1, 31)]
    file = write(tmp_path / "gold", *["1-1 2-3"] * 30)
    with pytest.raises(UserError, match="seems to count from 1"):
        list(read_gold(file, iter(pairs)))
    assert len(list(read_gold(file, iter(pairs), base=0))) == 30


def test_files_of_unequal_length_are_refused(tmp_path):
    first, second = write(tmp_path / "a", "x y", "", "z"), write(tmp_path / "b", "u", "v")
    for read in (lambda: list(read_pairs(first, second)), lambda: count_pairs(first, second)):
        with pytest.raises(UserError, match="line n of one must translate line n of the other"):
            read()
    assert [len(held) for held in windows(iter(PAIRS), 2)] == [2, 1]


def test_words_of_scripts_without_spaces_are_found_by_icu():
    pytest.importorskip("icu4py")
    text = "私は猫が好きです, ok fine"
    assert split_words(text) == ("私は猫が好きです,", "ok", "fine")
    words = split_words(text, "icu")
    assert "猫" in words and words[-2:] == ("ok", "fine") and "".join(words) == text.replace(" ", "")


def test_a_dictionary_is_read_as_it_was_written(tmp_path):
    counts = DictionaryCounts()
    pair = Pair(1, ("Cat,", "the", ".", "a{f}b"), ("(Katze", "die", ".", "x"))
    for links in (((0, 0), (1, 1), (2, 2), (3, 3)), ((0, 0), (1, 0)), ((1, 1),), ((0, 0),)):
        counts.add(pair, Alignment(links, (1.0,) * len(links)))
    counts.add(Pair(2, ("cat",), ("Kater",)), Alignment(((0, 0),), (1.0,)))
    lines = list(counts.lines(least_count=1))
    assert [(line.source, line.target, line.times) for line in lines] == [
        ("Cat", "Katze", 3),
        ("Cat", "Kater", 1),
        ("the", "die", 2),
        ("the", "Katze", 1),
    ]
    assert [line.probability for line in lines] == pytest.approx([0.75, 0.25, 2 / 3, 1 / 3])
    file = write(tmp_path / "en-de.tsv", *lines)
    found = read_dictionary(file, ("en", "de"))
    assert [entry.words for entry in found.entries] == [
        ((0, "Cat"), (1, "Katze"), (1, "Kater")),
        ((0, "the"), (1, "die"), (1, "Katze")),
    ]
    assert found.report["lines"] == 4 and found.report["single"] == 0
    # Rare and improbable translations are left out.
    assert [line.target for line in counts.lines(least_count=2)] == ["Katze", "die"]
    assert [line.target for line in counts.lines(least_count=1, least_probability=0.3)] == ["Katze", "die", "Katze"]


def test_the_diagonal_links_words_at_equal_shares():
    found = DiagonalAligner().align([*PAIRS[:2], Pair(3, ("a", "b"), ("c", "d", "e", "f"))])
    assert found[0].links == ((0, 0), (1, 1), (2, 2)) and found[1].links == ()
    assert [i for i, _ in found[2].links] == [0, 1]


def test_links_below_a_probability_are_dropped():
    found = Alignment(((0, 0), (1, 1)), (0.5, 0.7)).above(0.6)
    assert found == Alignment(((1, 1),), (0.7,)) and found.above(0.0) is found
