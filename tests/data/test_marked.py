"""Gold links become rows with one marked word. What is wrong with the files is one line before training."""

from __future__ import annotations

import numpy as np
import pytest

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.feeds.marked import MarkedFeed
from xalign_jax.data.sampling.mixture import Mixture
from xalign_jax.data.text.linked import Pair
from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.marked import Marking, WordEncoder, words_to_mark
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.marked_words import MarkedWords
from xalign_jax.recipe import Recipe, Stage, Stream
from xalign_jax.training import inputs
from xalign_jax.training.optimizers import AdamW, WarmupCosine

TOKENIZER = Tokenizer(Bytes(), Vocabulary("bytes"))
CORPUS = Corpus(TOKENIZER, {}, None, None)
SHAPE = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32, "max_length": 64}
SOURCE, TARGET, GOLD = ["a bb", "", "c d e"], ["xx y", "z", "u v"], ["0-1 1p0", "", "0-0 2-0 2-1"]


@pytest.fixture
def feed(tmp_path):
    """Makes feeds of three files; other lines and settings can be given."""

    def make(source=SOURCE, target=TARGET, links=GOLD, **settings):
        for name, lines in (("source", source), ("target", target), ("links", links)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        files = {name: str(tmp_path / name) for name in ("source", "target", "links")}
        return MarkedFeed(**{"length": 64, "marker": "#"} | files | settings)

    return make


def examples(batch):
    """{"the row's text": {linked text, judged text}} of each segment of a batch."""
    found = {}
    for tokens, segments, linked in zip(batch["tokens"], batch["segment_ids"], batch["linked"], strict=True):
        for number in range(1, segments.max() + 1):
            own = segments == number
            texts = [TOKENIZER.decode(tokens[own & chosen]) for chosen in (linked > -2, linked == 1, linked >= 0)]
            found[" ".join(texts[0].split())] = tuple("".join(text.split()) for text in texts[1:])
    return found


def test_each_word_of_both_sides_is_marked_once_in_an_epoch(feed):
    rows = feed().build(CORPUS, None, 4, seed=0)
    assert rows.report["pairs"] == 3 and rows.report["words"] == 9 and rows.report["words a step"] == 9
    batch = rows.batch(0, slice(0, 4))
    expected = {
        "# a # bb xx y": ("y", "xxy"),
        "a # bb # xx y": ("", "y"),  # the link with xx is only possible, so xx is not judged
        "# xx # y a bb": ("", "a"),
        "xx # y # a bb": ("a", "abb"),
        "# c # d e u v": ("u", "uv"),
        "c # d # e u v": ("", "uv"),
        "c d # e # u v": ("uv", "uv"),
        "# u # v c d e": ("ce", "cde"),
        "u # v # c d e": ("e", "cde"),
    }
    assert examples(batch) == expected
    assert batch["count_words"].sum() == 9 and batch["count_dropped"].sum() == 0
    # Another epoch has the same examples in another order. A slice has the rows of the whole.
    other = rows.batch(4, slice(0, 4))
    assert examples(other) == expected and not np.array_equal(other["tokens"], batch["tokens"])
    np.testing.assert_array_equal(rows.batch(4, slice(1, 3))["linked"], other["linked"][1:3])
    linked = examples(feed(possible=True).build(CORPUS, None, 4, seed=0).batch(0, slice(0, 4)))
    assert linked["a # bb # xx y"] == ("xx", "xxy")


def test_rows_begin_and_end_with_specials_and_positions_restart(feed):
    batch = feed().build(CORPUS, None, 4, seed=0).batch(0, slice(0, 4))
    for row in range(4):
        for number in range(1, batch["segment_ids"][row].max() + 1):
            own = batch["segment_ids"][row] == number
            tokens, languages = batch["tokens"][row, own], batch["token_language"][row, own]
            assert (tokens[0], tokens[-1]) == (TOKENIZER.bos, TOKENIZER.eos) or TOKENIZER.bos is None
            assert np.count_nonzero(tokens == TOKENIZER.eos) == 2
            np.testing.assert_array_equal(batch["positions"][row, own], np.arange(own.sum()))
            # The marked side comes first, and labels stand on the other side alone.
            assert np.count_nonzero(np.diff(languages)) == 1
            assert not np.any(batch["linked"][row, own][languages == languages[0]] >= 0)
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {name: (array.shape, array.dtype) for name, array in feed().blank(4).items()}


def test_pairs_that_are_too_long_are_left_out_and_counted(feed):
    rows = feed(["a b", "long " * 30], ["c", "d"], ["0-0", "0-0"]).build(CORPUS, None, 2, seed=0)
    assert rows.report["too long"] == 1 and rows.report["words"] == 3
    with pytest.raises(UserError, match=r"MarkedFeed.length = 8: the shortest row with a marked word has \d+ tokens"):
        feed(length=8).build(CORPUS, None, 2, seed=0)


def test_words_without_tokens_on_the_other_side_are_not_marked():
    pairs = WordEncoder(TOKENIZER).encode([Pair(1, ("a",), ()), Pair(2, ("a", "b"), ("c",))])
    assert words_to_mark(pairs).tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert words_to_mark([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"links": ["0-0 2-1", "", ""]}, r"links:1: link 2-1 lies outside 2 source and 2 target words"),
        ({"links": ["1-1 2-2", "", "1-1"]}, r"if the file counts from 1, add MarkedFeed.base=1"),
        ({"links": ["0-0", "", ""], "base": 1}, r"links:1: 0-0 counts words from 0; leave MarkedFeed.base=1 out"),
        ({"target": ["xx y", "z"]}, r"source and .*target have 3 and 2 lines; line n of one must translate"),
        ({"links": ["0-0"]}, r"links: 1 lines, but the texts have more"),
        ({"links": ["1p0", "", ""]}, r"links: no sure link there, so nothing can be learned"),
        ({"links": ["0:0", "", ""]}, r"links:1: '0:0' is no link"),
    ],
)
def test_wrong_files_are_one_line_before_anything_is_prepared(feed, changes, said):
    with pytest.raises(UserError, match=said):
        feed(**changes).check(None, lexicon=False)


def test_settings_that_mean_nothing_are_refused(feed):
    with pytest.raises(UserError, match=r"MarkedFeed.base = 2: 0 or 1"):
        feed(base=2)
    with pytest.raises(UserError, match=r"Stream.mixture: a MarkedFeed reads MarkedFeed.source"):
        feed().check(Mixture(("lines:en=en.txt",)), lexicon=False)
    with pytest.raises(UserError, match=r"MarkedFeed.marker = '': the vocabulary has no token for it"):
        Marking(TOKENIZER, "", "MarkedFeed.marker")


def test_a_change_of_the_files_is_noticed(feed):
    def read(links):
        stream = Stream("marked", feed(links=links), MarkedWords(), 4)
        stage = Stage("pretrain", 2, (stream,), AdamW(), WarmupCosine(1e-2))
        return inputs.of_start(Recipe(XLMRoberta(**SHAPE), TOKENIZER.vocabulary, (stage,)))

    then, now = read(GOLD), read(["0-0", "", ""])
    changed = {name for name in then if then[name].fingerprint != now[name].fingerprint}
    assert changed == {"marked/MarkedFeed.links"} and len(then) == 3
