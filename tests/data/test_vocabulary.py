import dataclasses
import json

import numpy as np
import pytest

from xalign_jax.data.tokens.backends import Bytes, Ids, load_pieces
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary, clone_index, clone_name
from xalign_jax.errors import UserError

SENTENCE = "she walked home the tree stands alone near a quiet river and nobody said Don't stop"
LINES = [" ".join(SENTENCE.split()[(i * j) % 16] for j in range(1, 9)) + "." for i in range(1, 60)]


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(LINES, 290, "unigram", True)


def tokenizer(model, **settings):
    return Tokenizer(SentencePieces(model), Vocabulary(size=290, lowercase=True, **settings))


def test_special_ids_and_size(model):
    t = tokenizer(model, clones=1)
    assert (t.pad, t.eos, t.unk, t.bos, t.mask) == (0, 1, 2, 3, 4)
    assert t.base_size == 290
    assert t.size == 640


def test_training_is_deterministic(model):
    assert train_sentencepiece(LINES, 290, "unigram", True) == model


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_round_trip_with_byte_fallback(kind):
    t = Tokenizer(SentencePieces(train_sentencepiece(LINES, 290, kind, False)), Vocabulary())
    for text in ("she walked home.", "日本 é <mask> </s>"):
        ids = t.encode([text])[0]
        assert t.decode(ids) == text
        assert not np.isin(ids, [t.pad, t.eos, t.unk, t.bos, t.mask]).any()


def test_too_small_text_is_a_user_error():
    with pytest.raises(UserError, match=r"Vocabulary.size = 90000: .* set it to \d+ or fewer"):
        train_sentencepiece(LINES, 90000, "unigram", False)


def test_word_starts(model):
    t = tokenizer(model)
    text = "She walked home, alone."
    ids = t.encode([text])[0]
    pieces = [t.decode([i]) for i in ids]
    words = np.split(ids, np.flatnonzero(t.word_start[ids])[1:])
    assert ["".join(t.decode([i]) for i in w) for w in words] == ["she", "walked", "home", ",", "alone", "."]
    assert [p for p, i in zip(pieces, ids, strict=True) if t.standalone[i]] == [",", "."]
    assert t.standalone[:5].all()
    assert t.word_start[t.standalone].all()


def test_words_have_a_leading_space(model):
    t = tokenizer(model)
    sentence = t.encode(["near home"])[0]
    assert np.concatenate(t.encode_words(["near", "home"])).tolist() == sentence.tolist()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_words_of_scripts_without_spaces_stand_after_another_character(kind):
    rng = np.random.default_rng(0)
    lines = ["。".join(rng.choice(["東京", "大学", "行く", "猫"], 12)) for _ in range(300)]
    t = Tokenizer(SentencePieces(train_sentencepiece([*LINES, *lines], 300, kind, False)), Vocabulary())
    inside = t.encode(["猫。東京。猫"])[0].tolist()
    (word,), (spaced,) = t.encode_words(["東京"]), t.encode_words(["東京"], spaced=True)
    assert any(inside[at : at + len(word)] == word.tolist() for at in range(len(inside)))
    assert spaced.tolist() == t.encode(["東京"])[0].tolist() and spaced.tolist() != word.tolist()
    mixed = t.encode_words(["home", "東京", "near"])
    assert [ids.tolist() for ids in mixed] == [t.encode_words([w])[0].tolist() for w in ("home", "東京", "near")]


@pytest.mark.parametrize("clone_specials", [False, True])
@pytest.mark.parametrize("anchors", [0.0, 0.25])
def test_clones_invert(model, clone_specials, anchors):
    t = tokenizer(model, clones=2, clone_specials=clone_specials, anchors=anchors)
    ids = np.arange(t.base_size)
    for k in range(3):
        assert (t.unclone(t.clone(ids, k)) == ids).all()
    assert (t.clone(ids, 0) == ids).all()
    moved = t.clone(ids, 2) != ids
    assert (t.clone(ids, 2)[moved] == ids[moved] + 2 * 290).all()
    assert moved[0] == False  # noqa: E712
    assert moved[1:5].all() if clone_specials else not moved[:5].any()
    assert (~moved[5:]).sum() == round(anchors * 285)


@pytest.mark.parametrize("clone_specials", [False, True])
@pytest.mark.parametrize("clones", [1, 9])
def test_compact_clones_have_no_rows_that_no_text_uses(model, clone_specials, clones, tmp_path):
    settings = {"clones": clones, "clone_specials": clone_specials, "anchors": 0.5}
    t, wide = tokenizer(model, compact=True, **settings), tokenizer(model, **settings)
    assert (t.shared == wide.shared).all()
    ids, shared = np.arange(290), int(t.shared.sum())
    # Every id is written by some language, and a clone's own pieces by that clone alone.
    assert np.unique(t.clone_table).tolist() == list(range(t.ids))
    assert t.ids == 290 + clones * (290 - shared) < wide.ids == 290 * (clones + 1)
    assert t.size == -(-t.ids // 128) * 128 < wide.size
    for k in range(clones + 1):
        assert (t.unclone(t.clone(ids, k)) == ids).all()
        assert (t.clone(ids, k)[t.shared] == ids[t.shared]).all()
        assert (t.language_rows(k) & t.language_rows(0)).sum() == (290 if k == 0 else shared)
    assert (t.clone(ids[None], np.arange(clones + 1)[:, None]) == t.clone_table).all()
    text = t.encode(["she walked home."])[0]
    assert t.decode(t.clone(text, clones)) == "she walked home." and t.decode([t.size - 1]) == ""
    # It is another vocabulary to a run, and it comes back from its files.
    assert t.fingerprint != wide.fingerprint and t.base_fingerprint == wide.base_fingerprint
    t.save(tmp_path)
    assert (Tokenizer.load(tmp_path).clone_table == t.clone_table).all()
    tied = tokenizer(model, compact=True, tie_clones=True, **settings)
    assert (tied.row_map[t.clone_table] == ids).all()


def test_both_published_conventions_of_clones(model):
    """PreAlign shares the specials; the imbalance study shares pad alone, and i + k * V holds for every other id."""
    ids = np.arange(1, 290)
    imbalance, prealign = (tokenizer(model, clones=3, clone_specials=cloned) for cloned in (True, False))
    for k in range(1, 4):
        assert imbalance.clone(np.int32(0), k) == prealign.clone(np.int32(0), k) == 0
        assert (imbalance.clone(ids, k) == ids + 290 * k).all()
        assert (prealign.clone(ids, k) == np.where(ids < 5, ids, ids + 290 * k)).all()


def test_more_anchors_include_fewer_and_another_seed_gives_others(model):
    few, many, other = (
        tokenizer(model, clones=1, anchors=share, anchor_seed=seed) for share, seed in ((0.1, 0), (0.5, 0), (0.1, 7))
    )
    assert (many.shared | few.shared == many.shared).all() and few.shared.sum() == other.shared.sum()
    assert (few.shared != other.shared).any() and few.fingerprint != other.fingerprint
    # A seed that selects nothing is no other vocabulary.
    assert tokenizer(model, clones=1, anchor_seed=3).fingerprint == tokenizer(model, clones=1).fingerprint


def test_clone_broadcasts(model):
    t = tokenizer(model, clones=1)
    ids = np.array([[1, 7, 9], [1, 7, 9]])
    assert t.clone(ids, np.array([[0], [1]])).tolist() == [[1, 7, 9], [1, 297, 299]]


def test_decode_reads_clones_as_base_text(model):
    t = tokenizer(model, clones=1)
    ids = t.encode(["she walked home."])[0]
    assert t.decode(t.clone(np.append(ids, t.eos), 1)) == "she walked home."
    assert t.decode([t.size - 1]) == ""


def test_language_rows_cover_what_a_clone_emits(model):
    t = tokenizer(model, clones=2)
    base, second = t.language_rows(0), t.language_rows(2)
    assert np.flatnonzero(base).tolist() == list(range(290))
    assert np.flatnonzero(base & second).tolist() == [0, 1, 2, 3, 4]
    assert second[t.clone(np.arange(290), 2)].all()
    assert not second[870:].any()


def test_row_map_ties_clones(model):
    assert tokenizer(model, clones=1).row_map is None
    t = tokenizer(model, clones=1, tie_clones=True)
    ids = np.arange(290)
    assert t.row_map.shape == (t.size,)
    assert (t.row_map[t.clone(ids, 1)] == ids).all()
    assert t.row_map[291] == 291  # the clone of eos, which nobody uses


def test_fingerprint_follows_ids(model):
    prints = [tokenizer(model, **s).fingerprint for s in ({}, {"clones": 1}, {"clones": 1, "clone_specials": True})]
    assert len(set(prints)) == 3
    assert tokenizer(model, clones=1, tie_clones=True).fingerprint == prints[1]


def test_save_and_load(model, tmp_path):
    t = tokenizer(model, clones=1)
    t.save(tmp_path / "vocabulary")
    again = Tokenizer.load(tmp_path / "vocabulary")
    assert again.fingerprint == t.fingerprint
    assert again.encode(["she walked"])[0].tolist() == t.encode(["she walked"])[0].tolist()
    with pytest.raises(UserError, match=r"vocabulary\.json"):
        Tokenizer.load(tmp_path)


def test_foreign_model_keeps_its_ids(tmp_path):
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=out, vocab_size=35, unk_id=0, bos_id=1, eos_id=2, pad_id=-1
    )
    (tmp_path / "theirs.model").write_bytes(out.getvalue())
    pieces = load_pieces("sentencepiece", tmp_path / "theirs.model")
    t = Tokenizer(pieces, Vocabulary(path=str(tmp_path / "theirs.model"), clones=1))
    assert (t.pad, t.eos, t.unk, t.bos, t.mask) == (None, 2, 0, 1, None)
    assert t.clone(np.arange(3), 1).tolist() == [0, 1, 2]


def test_bytes():
    t = Tokenizer(Bytes(), Vocabulary(kind="bytes", clones=1))
    assert t.base_size == 261
    assert t.size == 640
    for text in ("héllo, world", " two  spaces ", ""):
        assert t.decode(t.encode([text])[0]) == text
    ids = t.encode(["ab, cd"])[0]
    assert t.word_start[ids].tolist() == [True, False, False, True, True, False, False]
    assert np.concatenate([*t.encode_words(["ab"]), ids[3:]]).tolist() == ids.tolist()


def test_paths_that_are_no_models(tmp_path):
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.model"):
        load_pieces("sentencepiece", tmp_path / "bad.model")
    with pytest.raises(UserError, match=r"none\.model.*Vocabulary\.path"):
        load_pieces("sentencepiece", tmp_path / "none.model")


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b'{"model"', b"[]", bytes(99)]
)
@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface", "ids"])
def test_files_that_hold_no_vocabulary_are_named(tmp_path, kind, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/file: (no {kind} vocabulary|a pointer of Git LFS)[^\n]*Vocabulary.path[^\n]*$"
    ):
        load_pieces(kind, tmp_path / "file")


@pytest.mark.parametrize(
    "settings",
    [{"kind": "x"}, {"model_type": "char"}, {"kind": "huggingface"}, {"clones": -1}, {"anchors": 2.0}],
)
def test_bad_settings(settings):
    with pytest.raises(UserError, match=r"Vocabulary\."):
        Vocabulary(**settings)


def test_clone_names():
    for name in ("en", "en_clone", "en_clone2", "pt-BR_clone3"):
        language, k = clone_index(name)
        assert clone_name(language, k) == name
    assert clone_index("en_clone2") == ("en", 2)


BYTE_LEVEL = {
    "model": {
        "type": "BPE",
        "vocab": {c: i for i, c in enumerate(["<|endoftext|>", "Ġ", "a", "b", "Ġa", "Ġb", ",", "âĢĶ", "ab", "Ġab"])},
        "merges": ["Ġ a", "Ġ b", "a b", "Ġa b"],
    },
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
}
WORD_PIECE = {
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {c: i for i, c in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "b", ","])},
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
}


def hugging_face(tmp_path, content, special):
    added = [
        {"id": content["model"]["vocab"][piece], "content": piece, "special": True}
        | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for piece in special
    ]
    whole = {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, **content}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    return Tokenizer(load_pieces("huggingface", tmp_path), Vocabulary(kind="huggingface", path=str(tmp_path)))


def test_byte_level_bpe(tmp_path):
    t = hugging_face(tmp_path, BYTE_LEVEL, ["<|endoftext|>"])
    assert (t.pad, t.eos, t.unk, t.bos, t.mask) == (None, 0, None, None, None)
    assert np.flatnonzero(t.word_start).tolist() == [0, 1, 4, 5, 6, 7, 9]
    assert np.flatnonzero(t.standalone).tolist() == [0, 6, 7]
    assert t.encode_words(["ab"])[0].tolist() == [9]
    assert t.decode(t.encode(["ab ab,a"])[0]) == "ab ab,a"


def test_word_piece(tmp_path):
    t = hugging_face(tmp_path, WORD_PIECE, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    assert (t.pad, t.eos, t.unk, t.bos, t.mask) == (0, 3, 1, 2, 4)
    assert np.flatnonzero(~t.word_start).tolist() == [6]
    assert t.encode_words(["ab"])[0].tolist() == [5, 6]
    assert 3 in t.encode(["a [SEP] b"])[0] and 3 not in t.encode_documents(["a [SEP] b"])[0]
    t.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == t.fingerprint


def test_texts_are_neither_cut_nor_filled_up(tmp_path):
    """Whatever the file's owner had set for batches of his own."""
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    t = hugging_face(tmp_path, WORD_PIECE | {"truncation": cut, "padding": fill}, ["[PAD]", "[UNK]"])
    assert [ids.tolist() for ids in t.encode(["a b a b a", "a"])] == [[5, 7, 5, 7, 5], [5]]


def test_settings_are_plain_values():
    assert dataclasses.asdict(Vocabulary(clones=1))["clones"] == 1


@pytest.mark.parametrize("name", ["ids.json", "vocabulary.json"])
@pytest.mark.parametrize("contents", [b"", b"\xff", b"[]", None])
def test_a_saved_vocabulary_that_was_damaged_is_refused(tmp_path, name, contents):
    settings = json.dumps({"size": 64, "specials": {"pad": 0, "eos": 1, "unk": 2, "mask": 3}}).encode()
    Tokenizer(Ids(settings), Vocabulary("ids", "ids.json", rows=64)).save(tmp_path)
    assert Tokenizer.load(tmp_path).base_size == 64
    file = tmp_path / name
    file.write_bytes(
        file.read_bytes().replace(b"64", b"65").replace(b'"clones": 0', b'"clones": 1')
        if contents is None
        else contents
    )
    with pytest.raises(UserError, match=r"no saved vocabulary|not the vocabulary that was saved") as refused:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
