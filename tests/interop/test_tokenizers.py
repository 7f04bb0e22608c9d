"""The fast tokenizers of our vocabularies give our ids, on real and adversarial text, also for clones."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from xalign_jax.data.tokens.backends import Bytes, Ids
from xalign_jax.data.tokens.huggingface import HuggingFacePieces
from xalign_jax.data.tokens.sentencepieces import SentencePieces, train_sentencepiece
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import UserError
from xalign_jax.interop.tokenizers.tokenizers import renumbered, write_tokenizers

transformers = pytest.importorskip("transformers")

SHARED = Path(os.environ.get("XALIGN_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "multiway"
ADVERSARIAL = [
    "",
    " ",
    "  a  b ",
    "\ta\nb\r\n",
    "a\x00b\x1f\x7f",
    "e\u0301 A\u030a a\u0301\u0323b q\u0307\u0323",
    "👩\u200d👩\u200d👧 🇩🇪 👍🏽",
    "a\u200bb\u200d\u2060c\u00add",
    "全角\u3000スペース ｶﾞ ﾊﾟ",
    "ﬁn ﬃ ① ½ … ﷺ",
    "<mask> </s> <0x41> <unk> <s> <pad>",
    "▁a ▁▁b",
    "\ufeffx",
    "가각 \u1100\u1161\u11a8",
    "supercalifragilistic" * 30,
    "क्षि \u0958",
    "𝔘𝔫𝔦 \ud7ff\ue000",
    "\u2028x\u2029y\u0085z",
    "\x05\u200c\u032b \u200e\u0301a",
    "ΟΔΟΣ\u0308 ΣΑΣ\u0345",
    "i̇ ǅ İ",
    "שָׁלוֹם عَرَبِيّ ไทย",
]
RANGES = [(32, 127), (0xA0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F)]
RANGES += [(0x1100, 0x1200), (0x2000, 0x2070), (0x3000, 0x3100), (0xAC00, 0xD7A4), (0xFB00, 0xFE00), (0, 32)]


def fuzz(count):
    chance = random.Random(0)
    return [
        "".join(chr(chance.randrange(*chance.choice(RANGES))) for _ in range(chance.randrange(1, 30)))
        for _ in range(count)
    ]


def corpus():
    """Words of several scripts, for vocabularies that need no file."""
    words = [
        chr(start + i % 20) * (1 + i % 3) + chr(start + i % 7) for start in (97, 0x430, 0x5D0, 0x915) for i in range(60)
    ]
    chance = random.Random(1)
    return [" ".join(chance.choices(words, k=8)) + chance.choice([".", "!", " <b>", ""]) for _ in range(400)]


@pytest.fixture(scope="module", params=["unigram", "unigram, lowercase", "bpe", "bytes", "compact"])
def tokenizer(request):
    if request.param == "compact":
        model = train_sentencepiece(corpus(), 460, "unigram", False)
        return Tokenizer(SentencePieces(model), Vocabulary(clones=1, anchors=0.5, compact=True))
    if request.param == "bytes":
        return Tokenizer(Bytes(), Vocabulary("bytes", clones=1, anchors=0.1))
    model_type, _, lowercase = request.param.partition(", ")
    model = train_sentencepiece(corpus(), 460, model_type, bool(lowercase))
    return Tokenizer(SentencePieces(model), Vocabulary(clones=1, anchors=0.1))


def exported(tokenizer, folder, causal=False):
    """Loads as the model card says. For this kind of configuration AutoTokenizer would take a class of its own."""
    languages = ["en", "en_clone"][: tokenizer.clones + 1]
    write_tokenizers(tokenizer, folder, causal=causal, max_length=32, languages=languages)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": tokenizer.size}))
    names = ["", "tokenizer_en_clone"][: tokenizer.clones + 1]
    return [transformers.PreTrainedTokenizerFast.from_pretrained(folder, subfolder=name) for name in names]


def assert_equal(tokenizer, fast, texts):
    ours = tokenizer.encode(texts)
    for k, their in enumerate(fast):
        for text, ids in zip(texts, ours, strict=True):
            found = their(text, add_special_tokens=False)["input_ids"]
            assert found == tokenizer.clone(ids, k).tolist(), (k, text)


def test_ids_are_ours_on_adversarial_and_random_text(tokenizer, tmp_path):
    assert_equal(tokenizer, exported(tokenizer, tmp_path), ADVERSARIAL + fuzz(600) + corpus()[:50])


def spaced(model_type):
    """A model that keeps runs of spaces, like Llama's, on indented text."""
    chance, words = random.Random(0), ["def", "return", "value", "for", "in", "print", "while"]
    lines = [" " * (4 * chance.randrange(4)) + "  ".join(chance.choices(words, k=4)) for _ in range(2000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=300,
        model_type=model_type,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return Tokenizer(SentencePieces(model.getvalue()), Vocabulary(clones=1))


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_runs_of_spaces_are_read_as_sentencepiece_reads_them(model_type, tmp_path):
    tokenizer = spaced(model_type)
    texts = ["def value", "    return value", "for  value", "print\n        return", "  ", " value in    while   "]
    assert any("▁" in name[1:] for name in tokenizer.names)
    assert_equal(tokenizer, exported(tokenizer, tmp_path), texts)


def test_specials_lengths_and_decoding(tokenizer, tmp_path):
    encoder, clone = exported(tokenizer, tmp_path / "encoder")
    (decoder, _) = exported(tokenizer, tmp_path / "decoder", causal=True)
    assert encoder.is_fast and encoder.model_max_length == 32
    own = tokenizer.encode(["ab ab"])[0].tolist()
    assert encoder("ab ab")["input_ids"] == [tokenizer.bos, *own, tokenizer.eos]
    assert decoder("ab ab")["input_ids"] == [tokenizer.bos, *own]
    for role in ("pad", "bos", "eos", "unk", "mask"):
        assert getattr(encoder, f"{role}_token_id") == getattr(tokenizer, role) == getattr(clone, f"{role}_token_id")
    for fast in (encoder, clone):
        assert fast.decode(fast("aaa bbb.")["input_ids"], skip_special_tokens=True) == "aaa bbb."
    batch = encoder(["a", "a b a b"], padding=True)
    assert batch["attention_mask"][0][-1] == 0 and batch["input_ids"][0][-1] == tokenizer.pad


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ids_are_ours_on_every_real_file(kind, lowercase, tmp_path):
    files = sorted(SHARED.glob("*/*.gz"))
    if not files:
        pytest.skip("no shared data")
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).decode().split("\n")[:300]]
    model = train_sentencepiece(lines[::9][:6000], 4000, kind, lowercase)
    tokenizer = Tokenizer(SentencePieces(model), Vocabulary())
    (fast,) = exported(tokenizer, tmp_path)
    texts = lines + fuzz(3000)
    ours = tokenizer.encode(texts)
    differ = [
        text
        for text, ids in zip(texts, ours, strict=True)
        if fast(text, add_special_tokens=False)["input_ids"] != ids.tolist()
    ]
    assert not differ, (len(differ), len(texts), differ[:5])


def trained(kind):
    """(a small tokenizer of the `tokenizers` library, like those of published models; its specials)."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import Tokenizer as Fast

    if kind == "WordPiece":
        fast = Fast(models.WordPiece(unk_token="[UNK]"))
        fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        fast.decoder, names = decoders.WordPiece(), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names)
    elif kind == "Unigram":
        fast = Fast(models.Unigram())
        fast.normalizer, fast.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        fast.decoder, names = decoders.Metaspace(), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>")
    else:
        fast = Fast(models.BPE())
        split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
        fast.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        fast.decoder, names = decoders.ByteLevel(), ["<|begin_of_text|>", "<|end_of_text|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet)
    fast.train_from_iterator(corpus(), trainer)
    first, last = (
        (names[2], names[3]) if kind == "WordPiece" else (names[0], names[2] if kind == "Unigram" else names[1])
    )
    around = [(name, fast.token_to_id(name)) for name in (first, last)]
    fast.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=around)
    return fast


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE"])
def test_imported_tokenizers_are_the_originals_and_have_clones(kind, tmp_path):
    original = transformers.PreTrainedTokenizerFast(tokenizer_object=trained(kind))
    original.save_pretrained(tmp_path / "original")
    files = {name: (tmp_path / "original" / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    ours = Tokenizer(HuggingFacePieces(files), Vocabulary("huggingface", "x", clones=1))
    texts = ADVERSARIAL + fuzz(300) + corpus()[:30]
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        assert original(text, add_special_tokens=False)["input_ids"] == ids.tolist(), text
    root, clone = exported(ours, tmp_path / "export")
    assert_equal(ours, [root, clone], texts)
    assert clone("ab")["input_ids"][0] == original("ab")["input_ids"][0]  # specials are shared


def test_tokens_added_to_an_imported_tokenizer_have_clones(tmp_path):
    """Added tokens that are ordinary and beyond the model's vocabulary, like GPT-NeoX's runs of spaces."""
    from tokenizers import AddedToken

    for kind in ("BPE", "WordPiece", "Unigram"):
        fast = trained(kind)
        fast.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("    ", normalized=False)])
        files = {"tokenizer.json": fast.to_str().encode()}
        ours = Tokenizer(HuggingFacePieces(files), Vocabulary("huggingface", "x", clones=1))
        texts = ["aaa <tool> bbb", "aaa    bbb", "<tool>"]
        assert ours.base_size == fast.get_vocab_size() and ours.encode(["<tool>"])[0].size == 1
        assert_equal(ours, exported(ours, tmp_path / kind), texts)


def test_what_cannot_be_written_is_named(tmp_path):
    words = train_sentencepiece(corpus(), 100, "word", False)
    with pytest.raises(UserError, match="unigram and BPE models only"):
        exported(Tokenizer(SentencePieces(words), Vocabulary()), tmp_path)
    with pytest.raises(UserError, match="post-processor of type 'Odd'"):
        renumbered({"model": {"vocab": {}}, "post_processor": {"type": "Odd"}}, np.arange(3))
    ids = Ids(json.dumps({"size": 9, "specials": {}}).encode())
    write_tokenizers(
        Tokenizer(ids, Vocabulary("ids", "x")), tmp_path / "no", causal=True, max_length=8, languages=["en"]
    )
    assert not (tmp_path / "no").exists()
