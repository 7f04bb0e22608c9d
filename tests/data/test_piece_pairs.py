"""Pieces that translate each other, from dictionaries whose pieces are known."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.data.lexicon import subword_pairs
from xalign_jax.data.lexicon.lexicon import Word, concept_table
from xalign_jax.data.lexicon.subword_pairs import with_pieces

CLONE = 100


def lexicon(*concepts):
    """Each concept: its words as (language, ids)."""
    words = [
        Word(c, language, tuple(ids), f"{c}-{language}") for c, entry in enumerate(concepts) for language, ids in entry
    ]
    return concept_table(words, ("en", "de"))


def pieces(table, known):
    """The added concepts as (source piece, target piece)."""
    found = {}
    for w in np.flatnonzero(table.concept >= known):
        (piece,) = table.tokens(w).tolist()
        found.setdefault(table.concept[w], [None, None])[table.language[w]] = piece
    return sorted(map(tuple, found.values()))


def test_links_are_all_pairs_of_pieces_each_at_a_place_of_its_own():
    links = subword_pairs._links(lexicon([(0, [1, 2]), (1, [11])], [(0, [3]), (1, [12, 13, 14])]), 1)
    expected = {
        "source": [1, 2, 3, 3, 3],
        "target": [11, 11, 12, 13, 14],
        "source_at": [0, 1, 2, 2, 2],
        "target_at": [0, 0, 1, 2, 3],
        "prior": np.exp(-4 * np.array([1 / 4, 1 / 4, 1 / 3, 0, 1 / 3])),
    }
    assert links.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(links[name], values, atol=1e-12, err_msg=name)


def test_pieces_of_a_clone_are_found():
    rng = np.random.default_rng(0)
    words = [rng.integers(0, 40, rng.integers(2, 4)).tolist() for _ in range(200)]
    found = pieces(with_pieces(lexicon(*([(0, ids), (1, [i + CLONE for i in ids])] for ids in words))), 200)
    assert found == [(i, i + CLONE) for i in range(40)]


def test_what_words_share_decides_and_not_the_place_alone():
    # 9 is 19, last in most words; where it comes first and 19 last, the pieces that face each other are not believed.
    stems = range(1, 8)
    entries = [([stem, 9], [10 + stem, 19]) for stem in stems] + [([9, 8], [18, 19])]
    found = pieces(with_pieces(lexicon(*([(0, source), (1, target)] for source, target in entries))), len(entries))
    assert found == [*((stem, 10 + stem) for stem in stems), (9, 19)]


def test_pieces_without_a_partner_of_their_own_get_none():
    # One piece for two: no piece of the source means 11 or 12 alone, and 5 means either with one half.
    assert pieces(with_pieces(lexicon([(0, [5]), (1, [11, 12])], [(0, [1, 2]), (1, [21, 22])])), 2) == [
        (1, 21),
        (2, 22),
    ]


def test_a_piece_of_both_languages_is_no_pair():
    assert pieces(with_pieces(lexicon([(0, [1, 5]), (1, [11, 5])], [(0, [2, 5]), (1, [12, 5])])), 2) == [
        (1, 11),
        (2, 12),
    ]


def test_words_keep_their_own_concepts_and_the_table_its_form():
    table = lexicon([(0, [1]), (1, [11])], [(0, [1, 2]), (1, [11, 12])], [(0, [1, 3]), (1, [11, 13]), (1, [14])])
    found = with_pieces(table)
    assert pieces(found, 3) == [(2, 12), (3, 13)]  # 1 and 11 are words of the table
    n = len(table.concept)
    np.testing.assert_array_equal(found.ids[: len(table.ids)], table.ids)
    np.testing.assert_array_equal(found.concept[:n], table.concept)
    assert found.words[:n] == table.words and found.languages == table.languages


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_order_of_concepts_changes_nothing(order):
    rng = np.random.default_rng(1)
    entries = [
        [(0, rng.integers(0, 30, rng.integers(1, 4)).tolist()), (1, rng.integers(50, 80, rng.integers(1, 4)).tolist())]
        for _ in range(60)
    ]
    assert pieces(with_pieces(lexicon(*entries[order])), 60) == pieces(with_pieces(lexicon(*entries)), 60)
