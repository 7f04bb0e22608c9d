"""Static vectors: the mean over occurrences of words, and the file that `xalign vectors` writes."""

from __future__ import annotations

import re

import hf_folders
import numpy as np
import pytest
from commands import xalign

from xalign_jax.api import load
from xalign_jax.data.lexicon.vectors import read_vectors
from xalign_jax.errors import UserError
from xalign_jax.evaluation.static_vectors import static_vectors

LINES = ["ab cd, ab!", "cd ab efgh", "efgh ... ab", "hh"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "run")
    (folder / "en.txt").write_text("\n".join([*LINES, ""]) + "\n")
    return folder


def test_a_vector_is_the_mean_over_occurrences_of_the_mean_over_tokens(place):
    model = load(place / "hf")
    found = static_vectors(model, LINES, level=1, least_count=2)
    assert (found.words, found.counts.tolist()) == (["ab", "cd", "efgh"], [4, 2, 2])
    expected = {word: [] for word in found.words}
    for line, text in zip(LINES, model.hidden(LINES, levels=1), strict=True):
        for match in re.finditer(r"\w+", line):
            begin, end = match.span()
            # A space before a word is a token of the word, and stands at its first letter.
            own = [(b >= begin and e <= end) for b, e in text.tokens.spans] & text.tokens.own
            if match[0] in expected:
                expected[match[0]].append(text.states[1][own].mean(0))
    assert [len(expected[word]) for word in found.words] == [4, 2, 2]
    for word, vector in zip(found.words, found.vectors, strict=True):
        np.testing.assert_allclose(vector, np.mean(expected[word], axis=0), rtol=1e-4, atol=1e-5)
    assert static_vectors(model, LINES, level=1, least_count=1, most=2).words == ["ab", "cd"]
    with pytest.raises(UserError, match="no word is read 9 times or more"):
        static_vectors(model, LINES, level=1, least_count=9)


def test_the_command_writes_a_file_for_each_language(place):
    texts = ('--texts={"en": "en.txt"}', "--level=1", "--least_count=2")
    done = xalign("vectors", "--model=run", *texts, "--output=made", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "made/en.vec: 3 words of level 1, from 8 occurrences\n"
    found, expected = read_vectors(str(place / "made" / "en.vec")), static_vectors(load(place / "run"), LINES, 1, 2)
    assert found.words == expected.words
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (['--texts={"en": "none.txt"}'], "none.txt: no such file"),
        (["--texts=en.txt"], "--texts=en.txt: not JSON"),
        (["--texts={}"], "expected"),
        (['--texts={"en": "en.txt"}', "--level=3"], "level 3: the model has levels 0 (embeddings) to 2"),
        (['--texts={"en": "en.txt"}', "--gin.A=1"], "reads no gin files"),
    ],
)
def test_bad_input_is_one_line(place, options, said):
    done = xalign("vectors", "--model=run", "--output=bad", *options, cwd=place)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
