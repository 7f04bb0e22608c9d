from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fakes import FakeTokenizer, make_store

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.codeswitch import Switch, build_table, switch
from xalign_jax.data.feeds.words import WordFeed
from xalign_jax.data.lexicon.entries import REASONS
from xalign_jax.data.lexicon.lexicon import Lexicon, LexiconTable, build_lexicon
from xalign_jax.data.sampling.hashing import hash64
from xalign_jax.data.text.linked import Pair
from xalign_jax.errors import UserError
from xalign_jax.evaluation.aligning.dictionary import DictionaryCounts
from xalign_jax.evaluation.aligning.pairs import Alignment

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(10)]
TARGETS = [word.replace("w", "v") for word in WORDS]
PIECES = [f"▁{word}" for word in [*WORDS, *TARGETS]] + ["▁The", "▁the", "▁THE", "▁x", "ab", "▁ab", "▁a1"]


def corpus(tokenizer, text: str):
    return {"texts": {"train": {"en": make_store(np.append(tokenizer.encode([text])[0], 1).astype(np.uint16))}}}


@pytest.fixture(scope="module")
def tokenizer():
    return FakeTokenizer(PIECES, clones=1)


@pytest.fixture(scope="module")
def stores(tokenizer):
    """WORDS[i] occurs 80 - i times."""
    return corpus(tokenizer, " ".join(word for n, word in enumerate(WORDS) for _ in range(80 - n)))


def pairs(path, rows) -> str:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def accounted(report: dict[str, int]) -> bool:
    """Whether the counts of a lexicon's entries add up."""
    used = report["dictionary_concepts"] + report["heldout_concepts"]
    return report["entries"] == used + sum(report.get(reason, 0) for reason in REASONS)


def by_concept(table) -> dict[int, dict[str, list[str]]]:
    found: dict[int, dict[str, list[str]]] = {}
    for word, concept in enumerate(table.concept.tolist()):
        language = table.languages[table.language[word]]
        found.setdefault(concept, {}).setdefault(language, []).append(table.words[word])
    return found


def test_clone_lexicon_takes_the_most_frequent_words(tokenizer, stores):
    table = build_lexicon(Lexicon(size=20, heldout=0.0), tokenizer, stores)
    assert by_concept(table.train) == {n: {"en": [w], "en_clone": [w]} for n, w in enumerate(WORDS[:20])}
    for word, language in enumerate(table.train.language.tolist()):
        ids = table.train.tokens(word)
        assert np.array_equal(tokenizer.unclone(ids), tokenizer.encode_words([table.train.words[word]])[0])
        assert (ids >= tokenizer.base_size).all() == bool(language)


def test_clone_lexicon_leaves_out_short_words_numbers_and_punctuation(tokenizer):
    stores = corpus(tokenizer, "x x x a1 a1 a1 , , , ( waa waa .ab .ab")
    table = build_lexicon(Lexicon(heldout=0.0), tokenizer, stores)
    assert table.dictionary.words == ("waa", "waa")


def test_clone_lexicon_takes_words_written_with_vowel_signs():
    hindi = FakeTokenizer(["▁है", "▁में", "▁किताब", "▁१२"], clones=1)
    table = build_lexicon(Lexicon(heldout=0.0), hindi, corpus(hindi, "है है है में में किताब १२ १२ १२ १२"))
    assert table.dictionary.words[::2] == ("है", "में", "किताब")


def test_held_out_concepts_are_a_fifth_and_disjoint(tokenizer, stores):
    table = build_lexicon(Lexicon(), tokenizer, stores)
    assert table.report["heldout_concepts"] == 16 and table.report["dictionary_concepts"] == 64
    assert not set(table.heldout.words) & set(table.dictionary.words)
    assert not set(table.heldout.concept.tolist()) & set(table.train.concept.tolist())
    other = build_lexicon(Lexicon(seed=1), tokenizer, stores)
    assert set(other.heldout.words) != set(table.heldout.words)


def test_casings_of_a_word_stay_together_and_held_out_words_have_no_key(tokenizer):
    stores = corpus(tokenizer, " ".join(["The the THE", *WORDS]))
    for seed in range(8):
        table = build_lexicon(Lexicon(heldout=0.5, seed=seed), tokenizer, stores)
        assert len({"The", "the", "THE"} & set(table.heldout.words)) in (0, 3)
        keys = build_table(table.train, tokenizer).keys
        held = {int(ids[0]) for ids in tokenizer.encode_words(table.heldout.words)}
        assert not held & set(keys.ravel().tolist())


def test_coverage_keeps_a_nested_share_and_the_same_held_out_words(tokenizer, stores):
    whole, most, half = (build_lexicon(Lexicon(coverage=c), tokenizer, stores) for c in (1.0, 0.75, 0.5))
    assert [t.report["dictionary_concepts"] for t in (whole, most, half)] == [64, 48, 32]
    assert set(half.train.words) < set(most.train.words) < set(whole.train.words)
    assert half.heldout.words == whole.heldout.words


def test_shuffle_permutes_training_targets_only(tokenizer, stores):
    plain = build_lexicon(Lexicon(), tokenizer, stores)
    table = build_lexicon(Lexicon(shuffle=True), tokenizer, stores)
    assert table.dictionary.words == plain.dictionary.words and table.heldout.words == plain.heldout.words
    shuffled = by_concept(table.train)
    assert all(words["en"] != words["en_clone"] for words in shuffled.values())
    assert sorted(w["en_clone"] for w in shuffled.values()) == sorted(w["en"] for w in shuffled.values())


def test_a_share_of_the_entries_may_be_wrong(tokenizer, stores):
    right = by_concept(build_lexicon(Lexicon(), tokenizer, stores).train)
    table = build_lexicon(Lexicon(shuffle=0.3), tokenizer, stores)
    trained = by_concept(table.train)
    wrong = [number for number, words in trained.items() if words != right[number]]
    assert len(wrong) == round(0.3 * len(right))
    assert all(trained[number]["en"] == right[number]["en"] for number in right)
    assert by_concept(table.dictionary) == right
    with pytest.raises(UserError, match=r"Lexicon.shuffle = 1.5"):
        Lexicon(shuffle=1.5)


def test_homographs_list_a_second_sense_beside_the_true_one(tokenizer, stores):
    plain = build_lexicon(Lexicon(), tokenizer, stores)
    table = build_lexicon(Lexicon(homographs=0.3), tokenizer, stores)
    assert table.dictionary.words == plain.dictionary.words and table.heldout.words == plain.heldout.words
    assert plain.train.words == plain.dictionary.words
    words = list(zip(table.train.concept.tolist(), table.train.language.tolist(), table.train.words, strict=True))
    true = set(zip(plain.train.concept.tolist(), plain.train.language.tolist(), plain.train.words, strict=True))
    senses = set(words) - true
    concepts = len(np.unique(plain.train.concept))
    assert true < set(words) and len(words) == len(true) + len(senses) and len(senses) == round(0.3 * concepts)
    assert {language for _, language, _ in senses} == {1} and len({concept for concept, _, _ in senses}) == len(senses)
    with pytest.raises(UserError, match=r"Lexicon.homographs = 2"):
        Lexicon(homographs=2)


def test_file_entries_merge_senses_and_count_what_is_dropped(tokenizer, stores, tmp_path):
    rows = [("waa", "vaa"), ("wab", "vab"), ("waa", "vac"), ("nowhere", "vad"), ("wac", ""), ("wac", "wac")]
    rows += [("wad", "vaa vab vac"), ("wae", "z")]
    path = pairs(tmp_path / "en-de.tsv", rows)
    lexicon = Lexicon(source="file", paths=[path], languages=["en", "de"], heldout=0.0, max_tokens=2)
    table = build_lexicon(lexicon, tokenizer, stores)
    assert by_concept(table.train) == {0: {"en": ["waa"], "de": ["vaa", "vac"]}, 1: {"en": ["wab"], "de": ["vab"]}}
    # "wac" and the line without its translation make no entry; "wac wac" is one whose translation is its own tokens.
    wanted = {"entries": 6, "not_in_text": 1, "too_long": 1, "unknown_piece": 1, "no_translation": 1}
    assert {name: table.report[name] for name in wanted} == wanted
    assert accounted(table.report)


def test_several_files_name_their_languages_and_clones_take_base_words(tokenizer, stores, tmp_path):
    de = pairs(tmp_path / "de.tsv", [("waa", "vaa"), ("wab", "vab")])
    fr = pairs(tmp_path / "fr.tsv", [("waa", "vba")])
    paths = {de: ("en", "de"), fr: ("en", "fr")}
    lexicon = Lexicon(source="file", paths=paths, languages=("en", "de", "fr", "de_clone"), heldout=0.0)
    found = by_concept(build_lexicon(lexicon, tokenizer, stores).train)
    assert found[0] == {"en": ["waa"], "de": ["vaa"], "fr": ["vba"], "de_clone": ["vaa"]}
    assert found[1] == {"en": ["wab"], "de": ["vab"], "de_clone": ["vab"]}


def test_files_say_their_languages_in_their_names(tokenizer, stores, tmp_path):
    de = pairs(tmp_path / "en-de.tsv", [("waa", "vaa"), ("wab", "vab")])
    fr = pairs(tmp_path / "fra-eng.tsv", [("vba", "waa")])
    lexicon = Lexicon(source="file", paths=(de, fr), languages=("en", "de", "fr"), heldout=0.0)
    found = by_concept(build_lexicon(lexicon, tokenizer, stores).train)
    assert found == {0: {"en": ["waa"], "de": ["vaa"], "fr": ["vba"]}, 1: {"en": ["wab"], "de": ["vab"]}}


def test_files_in_other_languages_or_in_none_that_they_say_are_refused(tokenizer, stores, tmp_path):
    french = pairs(tmp_path / "en-fr.tsv", [("waa", "vba")])
    with pytest.raises(UserError, match=r"Lexicon.paths: .*en-fr.tsv names the language 'fr'"):
        Lexicon(source="file", paths=(french,), languages=("en", "de"))
    assert Lexicon(source="file", paths={french: ("en", "de")}, languages=("en", "de")).files[0][1] == ("en", "de")
    unsaid = pairs(tmp_path / "words.tsv", [("waa", "vaa")])
    lexicon = Lexicon(source="file", paths=(unsaid,), languages=("en", "de", "fr"))
    with pytest.raises(UserError, match=r"words.tsv has 2 words a line at most and the recipe 3 languages; say which"):
        build_lexicon(lexicon, tokenizer, stores)
    with pytest.raises(UserError, match=r"Lexicon.paths: \('en', 'de'\) is not a file; write"):
        Lexicon(source="file", paths=(unsaid, ("en", "de")), languages=("en", "de", "fr"))


def texts_of(tokenizer, **texts: str):
    """Training stores of a text in each language."""
    return {"texts": {"train": {name: corpus(tokenizer, text)["texts"]["train"]["en"] for name, text in texts.items()}}}


def test_every_entry_is_accounted_for(tokenizer, tmp_path):
    stores = texts_of(tokenizer, en=" ".join(WORDS[:60] + WORDS[:50]), de=" ".join(TARGETS[:40]))
    rows = [*zip(WORDS, TARGETS, strict=True), ("the wab", "vaa"), ("The", "vaa vab vac vad")]
    lexicon = {"source": "file", "paths": (pairs(tmp_path / "en-de.tsv", rows),), "languages": ("en", "de")}
    linked = build_lexicon(Lexicon(**lexicon, one_to_one=True, size=30, coverage=0.5), tokenizer, stores).report
    wanted = {"entries": 82, "phrases": 1, "not_in_text": 21, "translation_not_in_text": 20, "beyond_size": 10}
    wanted |= {"left_out": 12, "dictionary_concepts": 12, "heldout_concepts": 6}
    assert {name: linked[name] for name in wanted} == wanted and accounted(linked)
    table = build_lexicon(Lexicon(**lexicon, heldout=0.0, max_tokens=3), tokenizer, stores)
    assert accounted(table.report) and accounted(build_lexicon(Lexicon(), tokenizer, stores).report)
    (line,) = table.summary
    assert line == (
        "dictionary: 60 of 82 entries are trained on and 0 held out; of the others 1 are phrases of several words, "
        "21 have a word that is not in the text of en"
    )


HYPHEN = ["▁e", "-", "mail", "▁l", "'", "eau", "▁don", "t", "▁Mail", "▁Wasser", "▁mail", "▁nicht"]


def test_words_that_texts_cut_are_found(tmp_path):
    tokenizer = FakeTokenizer(HYPHEN, punctuation="-'.")
    stores = texts_of(tokenizer, en="e-mail e-mail don't l'eau e don e-mail", de="Mail Mail Wasser nicht")
    rows = [("e-mail", "Mail"), ("don't", "nicht"), ("l'eau", "Wasser"), ("e", "Wasser"), ("mail", "Mail")]
    path = pairs(tmp_path / "en-de.tsv", rows)
    lexicon = Lexicon(source="file", paths=(path,), languages=("en", "de"), heldout=0.0)
    table = build_lexicon(lexicon, tokenizer, stores)
    found = [words["en"][0] for words in by_concept(table.train).values()]
    assert found == ["e-mail", "don't", "l'eau", "e"]  # "mail" only stands in "e-mail"
    assert table.report["not_in_text"] == 1 and accounted(table.report)


def test_words_of_scripts_without_spaces_are_found(tmp_path):
    tokenizer = FakeTokenizer(["▁cat", "▁walk", "▁east", "東", "京", "都", "猫", "走る", "▁猫", "▁Tokyo"])
    stores = texts_of(tokenizer, en="cat cat walk Tokyo east", ja="猫 東京都東京猫走る走る走るcat")
    rows = [("cat", "猫"), ("Tokyo", "東京"), ("walk", "走る"), ("east", "京都")]
    path = pairs(tmp_path / "en-ja.tsv", rows)
    lexicon = Lexicon(source="file", paths=(path,), languages=("en", "ja"), heldout=0.0, one_to_one=True)
    table = build_lexicon(lexicon, tokenizer, stores)
    assert [words["ja"][0] for words in by_concept(table.train).values()] == ["猫", "東京", "走る"]
    assert table.report["translation_not_in_text"] == 1  # "京都" only stands across "東京" and "都"
    ids = table.train.tokens(table.train.words.index("猫"))
    assert [tokenizer.pieces[i] for i in ids] == ["猫"]


def test_a_clone_of_a_language_without_spaces_has_its_words():
    tokenizer = FakeTokenizer(["東京", "走る", "猫"], clones=1)
    stores = texts_of(tokenizer, ja="東京走る走る猫")
    table = build_lexicon(Lexicon(languages=("ja", "ja_clone"), heldout=0.0), tokenizer, stores)
    assert table.dictionary.words[::2] == ("走る", "東京")  # words of one letter are left out


def test_a_dictionary_the_wrong_way_round_is_told(tokenizer, tmp_path):
    stores = texts_of(tokenizer, en=" ".join(WORDS), de=" ".join(TARGETS))
    path = pairs(tmp_path / "words.tsv", list(zip(TARGETS, WORDS, strict=True)))
    message = r"words.tsv seems to lead from de to en: of its 80 words for en, 0 .* \(\"de\", \"en\"\)\)"
    with pytest.raises(UserError, match=message):
        build_lexicon(Lexicon(source="file", paths=(path,), languages=("en", "de")), tokenizer, stores)
    lexicon = Lexicon(source="file", paths={path: ("de", "en")}, languages=("en", "de"), heldout=0.0)
    assert build_lexicon(lexicon, tokenizer, stores).report["dictionary_concepts"] == 80


def test_a_file_of_whose_words_the_texts_have_few_is_told(tokenizer, tmp_path):
    stores = texts_of(tokenizer, en=" ".join(WORDS), de=" ".join(["x", TARGETS[0]]))
    path = pairs(tmp_path / "words.tsv", list(zip(WORDS, TARGETS, strict=True)))
    lexicon = Lexicon(source="file", paths=(path,), languages=("en", "de"))
    note = f"{path}: the text of de has 1 of 80 of its words for de; is it a dictionary of de, and for such texts?"
    assert build_lexicon(lexicon, tokenizer, stores).notes == (note,)


def test_a_vocabulary_that_marks_no_words_is_refused(stores):
    with pytest.raises(UserError, match=r"Vocabulary.path: no piece of the vocabulary begins a word"):
        build_lexicon(Lexicon(), FakeTokenizer(["ab", "c"], clones=1), stores)


def test_files_may_lead_to_the_source_language_and_words_of_two_languages_may_look_alike(tokenizer, stores, tmp_path):
    there = pairs(tmp_path / "en-de.tsv", [("waa", "vaa")])
    rows = [("waa", "wab"), ("vac", "wac"), ("vaa", "waa"), ("vad", "waa")]  # German "waa" is not English "waa"
    back = pairs(tmp_path / "de-en.tsv", rows)
    lexicon = Lexicon(
        source="file", paths={there: ("en", "de"), back: ("de", "en")}, languages=("en", "de"), heldout=0.0
    )
    found = by_concept(build_lexicon(lexicon, tokenizer, stores).train)
    assert list(found.values()) == [
        {"en": ["waa"], "de": ["vaa", "vad"]},
        {"en": ["wab"], "de": ["waa"]},
        {"en": ["wac"], "de": ["vac"]},
    ]


def test_most_frequent_source_words_come_first(tokenizer, stores, tmp_path):
    path = pairs(tmp_path / "d.tsv", list(zip(WORDS[::-1], TARGETS[::-1], strict=True)))
    lexicon = Lexicon(source="file", paths=(path,), languages=("en", "de"), size=10, heldout=0.0)
    table = build_lexicon(lexicon, tokenizer, stores)
    assert [words["en"] for words in by_concept(table.train).values()] == [[w] for w in WORDS[:10]]
    assert table.report["beyond_size"] == 70


def test_one_to_one_links_words_that_are_alike_in_frequency_and_none_twice(tokenizer, tmp_path):
    english = "waa " * 60 + "wab " * 30 + "wac " * 10
    german = "vaa " * 12 + "vab " * 6 + "vac " * 2
    stores = {"texts": {"train": corpus(tokenizer, english)["texts"]["train"]}}
    stores["texts"]["train"]["de"] = corpus(tokenizer, german)["texts"]["train"]["en"]
    # Shares of the words: waa and vaa .6, wab and vab .3. wac has no word left, wad is not in the text.
    rows = [
        ("wab", "vaa"),
        ("wab", "vab"),
        ("wab", "vad"),
        ("waa", "vab"),
        ("waa", "vaa"),
        ("wac", "vaa"),
        ("wad", "vac"),
    ]
    path = pairs(tmp_path / "en-de.tsv", rows)
    options = {"source": "file", "paths": (path,), "languages": ("en", "de"), "heldout": 0.0}
    table = build_lexicon(Lexicon(**options, one_to_one=True), tokenizer, stores)
    assert by_concept(table.train) == {0: {"en": ["waa"], "de": ["vaa"]}, 1: {"en": ["wab"], "de": ["vab"]}}
    assert (table.report["not_in_text"], table.report["translation_taken"]) == (1, 1) and accounted(table.report)
    assert len(build_lexicon(Lexicon(**options), tokenizer, stores).train.words) == 3 + 6


def test_senses_of_a_made_dictionary_reach_stage_1_and_switching(tokenizer, stores, tmp_path):
    """A word that `xalign align` links to several words keeps them all, in the feed of words and in switched text."""
    found = DictionaryCounts()
    for line, target in enumerate(["vaa", "vaa", "vaa", "vab", "vab", "vac"]):
        found.add(Pair(line, ("waa", "wab"), (target, "vad")), Alignment(((0, 0), (1, 1)), (1.0, 1.0)))
    path = pairs(tmp_path / "en-de.tsv", [str(line).split("\t") for line in found.lines()])
    # vac is linked once only, so it is no translation.
    senses = {"waa": ["vaa", "vab"], "wab": ["vad"]}
    lexicon = build_lexicon(
        Lexicon(source="file", paths=(path,), languages=("en", "de"), heldout=0.0), tokenizer, stores
    )
    table = lexicon.train
    assert {words["en"][0]: words["de"] for words in by_concept(table).values()} == senses
    batch = WordFeed(8, 6, 2).build(Corpus(tokenizer, stores, lexicon, None), None, 2, 0).batch(0, slice(0, 2))
    fed: dict[int, set[str]] = {}
    for row, slot in zip(*np.nonzero(batch["concept"] >= 0), strict=True):
        ids = batch["tokens"][row][batch["segment_ids"][row] == slot + 1]
        fed.setdefault(int(batch["concept"][row, slot]), set()).add(tokenizer.decode(ids))
    assert sorted(map(sorted, fed.values())) == sorted(sorted([source, *targets]) for source, targets in senses.items())
    # A row for each draw: both senses of the word are drawn equally often, whatever their probabilities.
    text = np.tile(np.append(tokenizer.encode(["waa"])[0], tokenizer.eos), (400, 1))
    switched = switch(
        text.astype(np.uint16), text, np.full(400, 2), hash64(0, np.arange(400)), np.zeros(400, np.int64),
        table=build_table(table, tokenizer), config=Switch(rate=1.0), length=2, pad=tokenizer.pad,
    )  # fmt: skip
    drawn = [tokenizer.decode(row[:1]) for row in switched.tokens]
    assert set(drawn) == {"vaa", "vab"} and 150 < drawn.count("vaa") < 250


def test_multi_rows_hold_out_words_that_training_does_not_have(tokenizer, stores, tmp_path):
    """All source words share one target: it is in training, so nothing of the held-out concepts is left."""
    path = tmp_path / "multi.jsonl"
    path.write_text("".join(json.dumps({"words": f"{word} $ vaa"}) + "\n" for word in WORDS))
    lexicon = Lexicon(source="file", paths=(str(path),), languages=("en", "de"))
    table = build_lexicon(lexicon, tokenizer, stores)
    assert table.report["heldout_in_training"] == 16 and len(table.heldout.words) == 0


def test_equal_ids_have_equal_hashes(tokenizer, stores, tmp_path):
    path = pairs(tmp_path / "d.tsv", [("waa", "vaa"), ("wab", "vaa")])
    lexicon = Lexicon(source="file", paths=(path,), languages=("en", "de"), heldout=0.0)
    table = build_lexicon(lexicon, tokenizer, stores).train
    assert len(set(table.text_hash.tolist())) == 3 and table.text_hash[1] == table.text_hash[3]


def test_errors_name_what_to_do(tokenizer, stores, tmp_path):
    path = pairs(tmp_path / "d.tsv", [("nowhere", "vaa")])
    with pytest.raises(UserError, match=r"0 of 1 entries are trained .* 1 have a word that is not in the text of en; "):
        build_lexicon(Lexicon(source="file", paths=(path,), languages=("en", "de")), tokenizer, stores)
    with pytest.raises(UserError, match=r"Vocabulary\.clones >= 2"):
        build_lexicon(Lexicon(languages=("en", "en_clone2")), tokenizer, stores)
    with pytest.raises(UserError, match=r"Lexicon\.paths: .*d\.tsv is in \('en', 'ge'\)"):
        lexicon = Lexicon(source="file", paths={path: ("en", "ge")}, languages=("en", "de"))
        build_lexicon(lexicon, tokenizer, stores)
    for wrong in ({"source": "web"}, {"source": "file"}, {"languages": ("en",)}, {"languages": ("en", "de")}):
        with pytest.raises(UserError, match=r"Lexicon\."):
            Lexicon(**wrong)


def test_saved_tables_are_readable(tokenizer, stores, tmp_path):
    build_lexicon(Lexicon(size=5), tokenizer, stores).save(tmp_path)
    lines = [line.split("\t") for line in (tmp_path / "lexicon.tsv").read_text().splitlines()]
    assert lines[0] == ["concept", "split", "language", "word"]
    assert {line[1] for line in lines[1:]} == {"train", "dictionary", "heldout"}
    assert "heldout_concepts\t1\n" in (tmp_path / "report.tsv").read_text()


@pytest.mark.parametrize("changes", [{}, {"shuffle": True}, {"homographs": 0.3}, {"languages": ("en_clone", "en")}])
def test_saved_tables_are_read_back_to_the_bit(tokenizer, stores, tmp_path, changes):
    lexicon = Lexicon(**changes)
    table = build_lexicon(lexicon, tokenizer, stores)
    table.save(tmp_path)
    again = LexiconTable.load(tmp_path, tokenizer, lexicon.languages)
    for split in ("train", "dictionary", "heldout"):
        saved, read = (dataclasses.astuple(getattr(one, split)) for one in (table, again))
        assert all(np.array_equal(one, other) for one, other in zip(saved, read, strict=True))
    assert again.report == table.report


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-9], lambda t: t.replace("\ten\t", "\tfr\t"), lambda t: t + "x\n", None]
)
def test_damaged_tables_are_one_line(tokenizer, stores, tmp_path, damage):
    build_lexicon(Lexicon(size=5), tokenizer, stores).save(tmp_path)
    file = tmp_path / "lexicon.tsv"
    if damage:
        file.write_text(damage(file.read_text()))
    else:
        file.unlink()
    with pytest.raises(UserError, match="not the words that a run saved there"):
        LexiconTable.load(tmp_path, tokenizer, ("en", "en_clone"))
