"""User-defined and other unusual pieces: the export gives every text the run's ids, or names what it refuses."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from test_tokenizers import ADVERSARIAL, fuzz
from vocabularies import CONTROL, USER, unusual

from xalign_jax.data.tokens.backends import Bytes
from xalign_jax.data.tokens.sentencepieces import SentencePieces
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.interop.tokenizers.check import SAMPLES, difference, texts_around_unusual, texts_of_pieces, unusual_ids
from xalign_jax.interop.tokenizers.tokenizers import write_tokenizers

TEXTS = [
    "click -> here", "a->b", "GNOMES and xGNOMEx", "<<sep>>", "<sep><ent>", "-->", "->->", " <unk>", "<unk><unk>",
    "日<unk>日<", "<0x41>", "->\n<ctl>", "GNOM GNOME", "- > ->", "-><s></s>",
]  # fmt: skip


def written(tokenizer, folder):
    languages = ["en", "en_clone"][: tokenizer.clones + 1]
    write_tokenizers(tokenizer, folder, causal=True, max_length=64, languages=languages)
    return folder


def mixed(count):
    """Unusual pieces, their parts, and words, in every order."""
    chance = random.Random(0)
    parts = [*USER, *CONTROL, "<unk>", "<s>", "<0x41>", "<", ">", "-", "GNOM", "E", "a", " ", "click", "s", "日", "ö"]
    return ["".join(chance.choices(parts, k=chance.randrange(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_every_text_with_unusual_pieces_has_the_ids_of_the_run(model_type, byte_fallback, tmp_path):
    tokenizer = unusual(model_type, byte_fallback)
    kinds = {kind: len(ids) for kind, ids in unusual_ids(tokenizer).items()}
    assert kinds == {"control": 4, "unknown": 1, "user-defined": 4} | ({"byte": 256} if byte_fallback else {})
    texts = {"texts": TEXTS + mixed(1500), "adversarial": ADVERSARIAL + fuzz(100), "samples": SAMPLES}
    texts |= texts_around_unusual(tokenizer) | {"pieces": texts_of_pieces(tokenizer)}
    assert difference(written(tokenizer, tmp_path), tokenizer, texts) is None


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_user_defined_piece_weighs_what_it_weighs_in_sentencepiece(length, tmp_path):
    """A longer piece wins if its score is better, and the exported scores decide as SentencePiece does."""
    word = "vwxyz"[:length]
    for score in (-12.0, -9.95, -9.65, -9.55, -8.0):
        proto = sentencepiece_model_pb2.ModelProto()
        pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), (word, 7, 4), (word + "Q", score, 1), ("Q", -10, 1)]
        for piece, value, kind in [*pieces, ("▁", -2, 1)]:
            proto.pieces.add(piece=piece, score=value, type=kind)
        proto.trainer_spec.model_type, proto.normalizer_spec.name = 1, "identity"
        tokenizer = Tokenizer(SentencePieces(proto.SerializeToString()), Vocabulary())
        folder = written(tokenizer, tmp_path / str(score))
        assert difference(folder, tokenizer, {"text": [word + "Q", word, f"Q{word}Q"]}) is None


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_what_no_fast_tokenizer_can_read_is_found(model_type, tmp_path):
    """SentencePiece does not normalise user-defined pieces. The library has no such exception."""
    tokenizer = unusual(model_type, user=("\n", "->"))
    found = difference(written(tokenizer, tmp_path), tokenizer, texts_around_unusual(tokenizer))
    assert found.startswith(r"the root tokenizer reads '\n' (user-defined) as [], the run as [")
    kept = unusual(model_type, user=("\n", "->"), normalization_rule_name="identity", remove_extra_whitespaces=False)
    folder = written(kept, tmp_path / "kept")
    assert difference(folder, kept, {"texts": ["a\n\nb -> \nc"], **texts_around_unusual(kept)}) is None


def test_other_places_of_spaces_are_refused():
    suffix = unusual("unigram", user=(), treat_whitespace_as_suffix=True)
    with pytest.raises(UserError, match="treat_whitespace_as_suffix"):
        written(suffix, None)


def test_the_check_reads_clones_and_works_without_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    tokenizer = unusual("bpe")
    folder = written(tokenizer, tmp_path)
    assert difference(folder, tokenizer, texts_around_unusual(tokenizer)) is None
    file = folder / "tokenizer_en_clone" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = None
    file.write_text(json.dumps(content))
    found = difference(folder, tokenizer, texts_around_unusual(tokenizer))
    assert found.startswith("tokenizer_en_clone reads ") and "(user-defined)" in found


def test_kinds_of_other_vocabularies():
    assert unusual_ids(Tokenizer(Bytes(), Vocabulary("bytes"))) == {"special": [0, 1, 2, 3, 4]}
    crossing = unusual("unigram", user=("the▁cat",))
    assert crossing.names[unusual_ids(crossing)["user-defined"][0]] == "the▁cat"
    assert np.isin(unusual_ids(crossing)["control"], np.flatnonzero(crossing.special)).all()
    assert sentencepiece.__version__ == "0.2.2"  # scores of user-defined pieces are this version's
