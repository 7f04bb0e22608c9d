"""Previews: the arrays alone tell what is shown. Escapes hold in terminals and on pages; masks are those of the run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fakes import FakeTokenizer, prepare

from xalign_jax.data.preview.rows import collect
from xalign_jax.data.preview.spelling import Spelling
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.records.previewed import KEPT, MASKED, RANDOM, visible
from xalign_jax.reports.preview_lines import coloured, lines
from xalign_jax.reports.preview_page import preview_page
from xalign_jax.training.previews import choose

LANGUAGES = ("de", "en", "ja")
NASTY = "<script>\x1b[31m\u202e\u2028"


@pytest.fixture(scope="module")
def corpus():
    tokenizer = FakeTokenizer(["▁cat", "▁dog", "▁Katze", "▁", "s", "▁" + NASTY])
    return prepare(tokenizer, {})


def arrays(corpus, text: str, **others):
    """A batch of one row with one segment."""
    tokens = np.append(corpus.tokenizer.encode([text])[0], corpus.tokenizer.eos)[None]
    batch = {"tokens": tokens, "positions": np.arange(tokens.size)[None], "segment_ids": np.ones_like(tokens)}
    return batch | {name: np.array([values]) for name, values in others.items()}


def pages(*previews) -> str:
    return preview_page("title", [], previews)


@pytest.mark.parametrize("language", [1, [1, 1, 1], [1], [1, 0]])
def test_a_language_may_be_of_a_row_of_tokens_or_of_slots(corpus, language):
    preview = collect(arrays(corpus, "cat dog", language=language), corpus, LANGUAGES, rows=1)
    assert {token.language for token in preview.rows[0].slots[0].views[0]} == {"en"}
    assert any("[en] cat dog" in line for line in lines(preview))


@pytest.mark.parametrize("group", [7, [7], [[7]], [[7, 8]]])
def test_a_group_may_be_of_a_row_or_of_slots(corpus, group):
    preview = collect(arrays(corpus, "cat dog", group=group), corpus, LANGUAGES, rows=1)
    expected = [("group", "7"), ("group", "8")] if group == [[7, 8]] else [("group", "7")]
    assert list(preview.rows[0].slots[0].labels) == expected
    assert any(line.endswith(f"(group {', '.join(value for _, value in expected)})") for line in lines(preview))


def test_every_array_that_ends_with_tokens_and_has_segments_is_a_view(corpus):
    batch = arrays(corpus, "cat")
    batch |= {f"third_{name}": array for name, array in arrays(corpus, "dogs").items()} | {
        "own_tokens": batch["tokens"]
    }
    preview = collect(batch, corpus, LANGUAGES, rows=1)
    assert preview.views == ("", "third_")
    assert any("cat  ||  " in line and "dogs" in line for line in lines(preview))
    assert "third" in pages(preview)


def test_text_of_two_languages_in_one_segment_is_shown_apart(corpus):
    batch = arrays(corpus, "cat Katze dog", token_language=[1, 0, 1, 1])
    (line,) = [line for line in lines(collect(batch, corpus, LANGUAGES, rows=1)) if line.startswith("  0.0")]
    assert line == "  0.0: [en] cat / [de] Katze / [en] dog"


def test_positions_that_begin_again_are_marked(corpus):
    batch = arrays(corpus, "cat dog", token_language=[1, 0, 0]) | {"positions": np.array([[0, 0, 1]])}
    preview = collect(batch, corpus, LANGUAGES, rows=1)
    assert "  0.0: [en] cat / ↺ [de] dog" in lines(preview) and "positions begin again" in pages(preview)


def test_what_an_objective_hides_is_shown_with_what_stood_there(corpus):
    batch = arrays(corpus, "cat dog Katze cat", language=1)
    read = batch["tokens"].copy()
    read[0, 0], read[0, 1] = corpus.tokenizer.mask, read[0, 2]
    chosen = np.array([[True, True, True, False, False]])
    preview = collect(batch, corpus, LANGUAGES, rows=1, corrupted={"tokens": read, "chosen": chosen})
    tokens = preview.rows[0].slots[0].views[0]
    assert [token.change for token in tokens] == [MASKED, RANDOM, KEPT, "", ""]
    assert [token.target for token in tokens] == [" cat", " dog", " Katze", None, None]
    assert lines(preview)[1] == "  0 [en] {_ ← cat} {Katze ← dog} {Katze} cat"
    assert all(f'class="t {change}"' in pages(preview) for change in (MASKED, RANDOM, KEPT))


def test_colours_only_add_to_the_lines(corpus):
    preview = collect(arrays(corpus, "cat Katze", token_language=[1, 0, 0]), corpus, LANGUAGES, rows=1)
    painted = lines(preview, coloured)
    assert painted != lines(preview)
    assert [re.sub(r"\033\[[\d;]*m", "", line) for line in painted] == lines(preview)


def test_characters_that_hide_or_turn_text_are_written_out(corpus):
    assert visible("a\x1b\u202e\ud800\u2028é\u200d") == "a\\x1b\\u202e\\ud800\\u2028é\u200d"
    preview = collect(
        arrays(corpus, "cat") | {"tokens": np.array([[len(corpus.tokenizer.pieces) - 1, 1]])}, corpus, (), rows=1
    )
    page, shown = pages(preview), "\n".join(lines(preview))
    assert "<script" not in page and "&lt;script&gt;\\x1b[31m" in page
    assert not {"\x1b", "\u202e", "\u2028"} & set(page + shown)
    page.encode()


def test_a_page_is_whole_and_needs_nothing_from_elsewhere(corpus):
    class Checker(HTMLParser):
        void = ("meta", "input", "img")

        def __init__(self):
            super().__init__()
            self.open, self.seen = [], []

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)
            assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    batch = arrays(corpus, "cat", language=1, targets=[6, 0], weights=[1.0, 0.0], types=[0, 2], group=[[3]])
    checker.feed(pages(collect(batch, corpus, LANGUAGES, rows=1)))
    assert not checker.open and "script" not in checker.seen and "input" in checker.seen


def test_padding_and_empty_rows(corpus):
    batch = arrays(corpus, "cat dog", token_language=[1, 1, -1])
    batch["segment_ids"] = np.array([[1, 0, 0]])
    blank = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in batch.items()}
    preview = collect(blank, corpus, LANGUAGES, rows=9)
    assert [row.padding[0] for row in preview.rows] == [pytest.approx(2 / 3), 1]
    assert preview.rows[1].slots == () and any("padding: 83%" in line for line in lines(preview))


def test_bytes_of_a_character_are_one_text():
    tokenizer = Tokenizer.of(Vocabulary(kind="bytes"))
    ids = tokenizer.encode(["aé 日"])[0]
    assert Spelling(tokenizer).texts(ids) == [" ", "a", "é", "", " ", "日", "", ""]
    # Half a character keeps the names of its bytes.
    assert Spelling(tokenizer).texts(ids[:3])[2:] == ["<0xC3>"] and Spelling(tokenizer).texts(ids[3:4]) == ["<0xA9>"]


def test_streams_and_steps_that_do_not_exist_are_named():
    stages = [
        SimpleNamespace(first_step=0, last_step=5, feeds={"a": None}),
        SimpleNamespace(first_step=5, last_step=9, feeds={"b": None}),
    ]
    assert [(name, step) for _, name, step in choose(stages, None, None)] == [("a", 0), ("b", 5)]
    assert [(name, step) for _, name, step in choose(stages, "b", 8)] == [("b", 8)]
    for stream, step, message in (
        (None, 9, "--step=9: the recipe's steps are 0 to 8"),
        (None, -1, "--step=-1"),
        ("c", None, "--stream=c: no such stream; the streams are a, b"),
        ("a", 6, "--stream=a: no such stream; the streams of the stage of step 6 are b"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            choose(stages, stream, step)


def test_what_previews_show_of_masks_is_what_the_loss_reads():
    """The jitted loss and the preview draw the same masks from the key of (seed, step, stream)."""
    from xalign_jax.models.model import build
    from xalign_jax.models.xlm_roberta import XLMRoberta
    from xalign_jax.objectives.masked_lm import MaskedLM
    from xalign_jax.objectives.parts.corruption import Corruption
    from xalign_jax.training.step import stream_key

    model = build(XLMRoberta(1, 8, 2, 16, 16), 64, special=np.arange(64) < 5, mask_id=4)
    tokens = np.random.default_rng(0).integers(5, 64, (6, 16)).astype(np.int32)
    batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens), "positions": np.tile(np.arange(16), (6, 1))}
    objective, key = MaskedLM(Corruption(rate=0.4)), stream_key(0, jax.numpy.int32(3), "mlm")
    shown = jax.device_get(objective.corrupted(model, batch, key))
    plan = jax.device_get(jax.jit(lambda k: objective._plan(model, batch, k))(key))
    np.testing.assert_array_equal(shown["tokens"], plan.tokens)
    assert shown["chosen"].sum() == plan.scored.sum() == int(objective.count(model, batch, key))
    assert not (shown["tokens"] != tokens)[~shown["chosen"]].any()
