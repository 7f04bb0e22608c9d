"""Rows for new tokens: what is known stays, clones copy their originals, pieces are spelt, words follow translations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from xalign_jax.data.lexicon.lexicon import LexiconTable, Word, concept_table
from xalign_jax.data.lexicon.vectors import WordVectors, read_vectors, write_vectors
from xalign_jax.data.new_rows import row_sources
from xalign_jax.data.tokens.backends import load_pieces
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.training.warm_start import _segments, _words, extended

ENGLISH = ["the cat sees the dog", "the dog sees a house", "a cat and a dog in the house"] * 5
GERMAN = ["die Katze sieht den Hund", "der Hund sieht ein Haus", "eine Katze und ein Hund im Haus"] * 5


def tokenizer(texts, size=275, **settings):
    return Tokenizer(SentencePieces(train_sentencepiece(texts, size, "unigram", False)), Vocabulary(**settings))


@pytest.fixture(scope="module")
def english():
    return tokenizer(ENGLISH)


@pytest.fixture(scope="module")
def both():
    return tokenizer(ENGLISH + GERMAN, 295)


def rows(sources):
    return [sources.ids[a:b].tolist() for a, b in zip(sources.starts, sources.starts[1:], strict=False)]


def test_the_same_vocabulary_needs_nothing(english):
    assert row_sources(english, english, "mean") is None


def test_a_clone_starts_as_the_mean_or_as_its_original(english):
    cloned = english.with_clones(Vocabulary(clones=1, anchors=0.2))
    base = np.arange(english.base_size)
    mean, copy = (row_sources(english, cloned, how) for how in ("mean", "copy"))
    for sources in (mean, copy):
        assert len(sources.starts) == cloned.size + 1
        assert rows(sources)[: english.base_size] == [[i] for i in base]
    of_clone = [i for i in cloned.clone(base, 1) if i >= english.base_size]
    assert of_clone and all(rows(mean)[i] == [] for i in of_clone)
    assert all(rows(copy)[i] == [i - english.base_size] for i in of_clone)
    assert (copy.kept, copy.made) == (np.sum(~english.special), len(of_clone))
    back = row_sources(cloned, english, "mean")
    assert rows(back)[: english.base_size] == [[i] for i in base] and back.made == 0


def test_pieces_are_found_by_spelling_and_new_ones_spelt(english, both):
    sources = row_sources(english, both, "copy")
    of, found = rows(sources), 0
    for i in range(both.base_size):
        if both.special[i] or not both.texts[i]:
            continue
        twin = [j for j in of[i] if (english.texts[j], english.word_start[j]) == (both.texts[i], both.word_start[i])]
        if len(of[i]) == 1 and twin:
            found += 1
        elif of[i]:
            assert "".join(english.texts[j] for j in of[i]) == both.texts[i]
        assert not english.special[of[i]].any()
    assert found > 15 and sources.kept == found + sum(
        bool(of[i]) for i in range(both.base_size) if not both.texts[i] and not both.special[i]
    )
    for name in ("pad", "eos", "unk", "bos", "mask"):
        assert of[getattr(both, name)] == [getattr(english, name)]


@pytest.mark.parametrize("how", ["mean", "copy"])
def test_every_piece_of_both_vocabularies_keeps_its_row(english, both, how):
    """Those that spell nothing (a bare space, parts of characters), and "(" beside "▁(", as well."""
    of = rows(row_sources(english, both, how))
    places = {name: i for i, name in enumerate(english.names)}
    common = [i for i, name in enumerate(both.names) if name in places]
    assert len(common) > 270 and {"▁", "<0x80>", "<0x2C>"} <= {both.names[i] for i in common}
    assert all(of[i] == [places[both.names[i]]] for i in common)


def test_a_token_added_to_a_file_moves_no_other_row(tmp_path):
    """Of a byte-level vocabulary with newlines, runs of spaces and parts of characters."""
    pieces = ["<|endoftext|>", "Ġ", "Ċ", "ĉ", "a", "Ġa", ",", "Ġ,", "à", "¤", "à¤", "aà", "  ", "你"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

    def load(name, pieces):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        literal = [piece for piece in pieces if piece[0] in "< 你"]
        added = [{"id": pieces.index(p), "content": p, "special": p[0] == "<", **flags} for p in literal]
        model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []}
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(
            json.dumps(
                {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "model": model}
                | {"pre_tokenizer": level, "decoder": level}
            )
        )
        return Tokenizer(load_pieces("huggingface", tmp_path / name), Vocabulary("huggingface", str(tmp_path)))

    old, new = load("old", pieces), load("new", [*pieces, "<|new|>"])
    assert len(set(old.names)) == len(pieces) and old.word_start[pieces.index("  ")]
    sources = row_sources(old, new, "mean")
    assert rows(sources)[: len(pieces)] == [[i] for i in range(len(pieces))]
    assert sources.kept == len(pieces) - 1


def test_words_of_a_dictionary_start_as_their_translations(english, both):
    def word(language, text):
        return Word(0, language, tuple(both.encode_words([text])[0].tolist()), text)

    table = concept_table([word(0, "cat"), word(1, "Katze")], ("en", "de"))
    lexicon = LexiconTable(table, table, table, {})
    known, aligned = (rows(row_sources(english, both, how, lexicon)) for how in ("mean", "aligned"))
    expected = english.encode_words(["cat"])[0].tolist()
    new = [i for i in both.encode_words(["Katze"])[0] if not known[i]]
    assert new and expected and all(aligned[i] == expected for i in new)
    changed = {i for i in range(both.size) if aligned[i] != known[i]}
    assert changed == set(new)


def test_pieces_with_vectors_start_as_their_nearest_tokens_and_as_mixtures(english, both):
    """UniBridge's order: mutual neighbours first, then sparsemax over all tokens that have a row by then."""
    known = rows(row_sources(english, both, "mean"))
    words = [w for w in ("the", "cat", "dog", "house", "Katze", "Hund", "Haus", "sieht", "eine") if w]
    place = dict(zip(words, np.random.default_rng(0).standard_normal((len(words), 6)).astype(np.float32), strict=True))
    place["Katze"] = place["cat"] + 0.01  # mean the same
    place["Haus"] = 0.6 * place["house"] + 0.4 * place["dog"]
    vectors = WordVectors(words, np.stack([place[word] for word in words]))
    sources = row_sources(english, both, "similar", words=vectors)
    found = rows(sources)
    weights = [sources.weights[a:b] for a, b in zip(sources.starts, sources.starts[1:], strict=False)]

    def of(tokenizer):
        """Unit vectors by token, from the words that contain it."""
        sums = {}
        for word, ids in zip(words, tokenizer.encode_words(words), strict=True):
            for i in ids.tolist():
                sums[i] = sums.get(i, 0) + place[word]
        return {i: v / np.linalg.norm(v) for i, v in sums.items()}

    before, after = of(english), of(both)
    fresh = [i for i in after if not known[i]]
    nearest = {i: max(before, key=lambda j, i=i: after[i] @ before[j]) for i in fresh}
    mutual = {i: j for i, j in nearest.items() if max(fresh, key=lambda k: after[k] @ before[j]) == i}
    anchors = {i: known[i][0] for i in after if known[i]} | mutual
    assert 0 < len(mutual) < len(fresh)
    for i in fresh:
        if i in mutual:
            assert (found[i], weights[i].tolist()) == ([mutual[i]], [1.0])
            continue
        z = np.array([after[i] @ after[k] for k in anchors])
        # The projection onto the simplex by bisection of its threshold.
        low, high = z.min() - 1, z.max()
        for _ in range(60):
            low, high = (t, high) if np.maximum(z - (t := (low + high) / 2), 0).sum() > 1 else (low, t)
        expected = np.zeros(english.size)
        np.add.at(expected, list(anchors.values()), np.maximum(z - low, 0))
        mixture = np.zeros(english.size)
        np.add.at(mixture, found[i], weights[i])
        np.testing.assert_allclose(mixture, expected, atol=1e-5)
    assert all(found[i] == known[i] for i in range(both.size) if i not in fresh)
    assert sources.made == len(fresh)
    table = np.random.default_rng(1).standard_normal((english.size, 3)).astype(np.float32)
    new = np.asarray(extended(table, *_segments(sources), sources.ordinary))
    one = next(i for i in fresh if len(found[i]) > 1)
    np.testing.assert_allclose(new[one], weights[one] @ table[found[one]], rtol=1e-5, atol=1e-6)


def test_files_of_vectors(tmp_path):
    path = tmp_path / "words.vec"
    words, vectors = ["a", "Überläufe", "b.c"], np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    write_vectors(path, words, vectors)
    found = read_vectors(str(path))
    assert found.words == words
    np.testing.assert_allclose(found.vectors, vectors, rtol=1e-5)
    write_vectors(tmp_path / "more.vec", ["a", "d"], 2 * vectors[:2])
    joined = _words([str(path), str(tmp_path / "more.vec")])
    assert joined.words == [*words, "a", "d"] and _words(()) is None
    np.testing.assert_allclose(joined.vectors, np.concatenate([vectors, 2 * vectors[:2]]), rtol=1e-5)
    for text, said in [
        ("a 1 2\n", r"words\.vec:1: expected \"WORDS WIDTH\""),
        ("2 2\na 1 2\n", "1 words, but its first line says 2"),
        ("1 2\na 1\n", r"words\.vec:2: expected a word and 2 numbers"),
        ("1 2\na 1 nan\n", r"words\.vec:2: expected"),
        ("1 2\na 1 x\n", r"words\.vec:2: expected"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_vectors(str(path))


def test_ways_that_cannot_be(english, both):
    with pytest.raises(UserError, match=r"Recipe.new_rows = 'copied': one of mean, copy, aligned, similar"):
        row_sources(english, both, "copied")
    with pytest.raises(UserError, match=r"Recipe.lexicon"):
        row_sources(english, both, "aligned")
    with pytest.raises(UserError, match=r"Recipe.row_vectors, which is not bound"):
        row_sources(english, both, "similar")
    with pytest.raises(UserError, match=r"Vocabulary.rows = 10"):
        english.with_clones(Vocabulary(rows=10))
    assert english.with_clones(Vocabulary(rows=301)).size == 301
