from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import FakeTokenizer, make_store

from xalign_jax.data.lexicon.facts import COPIES, Facts, build_facts
from xalign_jax.data.lexicon.lexicon import Lexicon, build_lexicon
from xalign_jax.errors import UserError

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(10) for j in range(10)]
FACTS = Facts(count=60, relations=4, objects=10)


@pytest.fixture(scope="module")
def tokenizer():
    return FakeTokenizer(
        [*(f"▁{word}" for word in WORDS[:50]), *(f"▁{word[:2]}" for word in WORDS[50::10]), *"abcdefghij"], 1
    )


def lexicon_of(tokenizer, **changes):
    tokens = np.append(tokenizer.encode([" ".join(WORDS)])[0], 1).astype(np.uint16)
    return build_lexicon(Lexicon(**changes), tokenizer, {"texts": {"train": {"en": make_store(tokens)}}})


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return lexicon_of(tokenizer)


def test_roles_are_disjoint_pairs_unique_and_objects_balanced(lexicon, tokenizer):
    table = build_facts(FACTS, lexicon, tokenizer)
    subjects, relations, objects = (set(column.tolist()) for column in table.triples.T)
    assert len(relations) == 4 and len(objects) == 10
    assert not subjects & relations and not subjects & objects and not relations & objects
    assert len({tuple(pair) for pair in table.triples[:, :2].tolist()}) == 60
    assert set(np.bincount(table.triples[:, 2])[sorted(objects)]) == {6}


def test_documents_are_the_facts_in_copies_of_different_order(lexicon, tokenizer):
    table = build_facts(FACTS, lexicon, tokenizer)
    documents = [tuple(table.tokens[a:b].tolist()) for a, b in zip(table.offsets, table.offsets[1:], strict=False)]
    assert len(documents) == 60 * COPIES and all(
        d[-1] == tokenizer.eos and tokenizer.eos not in d[:-1] for d in documents
    )
    first, second = documents[:60], documents[60:120]
    assert first != second and sorted(first) == sorted(second)
    told = {(*np.concatenate([table.words[0][w] for w in t]).tolist(), tokenizer.eos) for t in table.triples}
    assert told == set(first)


def test_queries_ask_the_same_facts_in_every_language(lexicon, tokenizer):
    table = build_facts(FACTS, lexicon, tokenizer)
    source, clone = table.queries(0), table.queries(1)
    assert source.prompts.shape[0] == 60 and source.candidates.shape[:2] == (60, 4)
    for n, (s, r, o) in enumerate(table.triples):
        prompt = source.prompts[n, : source.prompt_lengths[n]]
        assert np.array_equal(prompt, np.concatenate([table.words[0][s], table.words[0][r]]))
        right = source.candidates[n, source.answer[n], : source.candidate_lengths[n, source.answer[n]]]
        assert np.array_equal(right, table.words[0][o])
        assert len(set(table.choices[n].tolist())) == 4
    mask = np.arange(source.prompts.shape[1]) < source.prompt_lengths[:, None]
    assert np.array_equal(clone.prompts[mask], source.prompts[mask] + tokenizer.base_size)
    assert np.array_equal(clone.answer, source.answer)


def test_answers_stand_in_every_place_and_wrong_objects_come_from_the_pool(tokenizer, lexicon):
    table = build_facts(dataclasses.replace(FACTS, count=200, relations=20), lexicon, tokenizer)
    places = np.bincount(table.answer, minlength=4)
    assert np.all(np.abs(places - 50) < 5 * np.sqrt(37.5))
    assert set(table.choices.ravel().tolist()) <= set(table.triples[:, 2].tolist())


def test_the_control_has_the_same_facts_and_another_seed_others(tokenizer, lexicon):
    table = build_facts(FACTS, lexicon, tokenizer)
    control = build_facts(FACTS, lexicon_of(tokenizer, shuffle=True), tokenizer)
    assert np.array_equal(table.tokens, control.tokens)
    other = build_facts(dataclasses.replace(FACTS, seed=1), lexicon, tokenizer)
    assert not np.array_equal(table.triples, other.triples)


def test_too_few_words_is_an_error(lexicon, tokenizer):
    with pytest.raises(UserError, match="Facts"):
        build_facts(Facts(count=10**4), lexicon, tokenizer)
    with pytest.raises(UserError, match="Facts"):
        Facts(candidates=1)
