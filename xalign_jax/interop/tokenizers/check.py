"""Do exported tokenizers read text as the run does? Compares every piece alone, and unusual pieces inside text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xalign_jax.data.tokens.pieces import SPECIALS
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import clone_index
from xalign_jax.interop.tokenizers import sentencepieces

_SPACE = "▁"  # how pieces spell a space
# Scripts with and without spaces, with and without case, and text that normalisation changes.
SAMPLES = [
    "The cat sleeps; 3.14 > 2, isn't it?",
    "  two  spaces\tand a tab\nand a line ",
    "Ein Mädchen läuft über die Straße – „schnell“!",
    "Привет, мир! Καλημέρα. שלום עליכם. السلام عليكم",
    "नमस्ते दुनिया สวัสดีชาวโลก 你好，世界。こんにちは 안녕하세요",
    "ﬁn ½ Ⅳ ｶﾞ e\u0301 👍🏽",
]


def unusual_ids(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Base ids of the pieces that are more than part of a word, by kind; no kind is empty.

    Kinds are SentencePiece's (user-defined, control, unknown, unused, byte). For a tokenizer.json they are its added
    tokens, and for other vocabularies the specials. Pieces with a space inside are a kind everywhere.
    """
    kinds: dict[str, list[int]] = {}
    if "spm.model" in tokenizer.files:
        for i, piece in enumerate(sentencepieces.read_proto(tokenizer.files["spm.model"]).pieces):
            if piece.type in sentencepieces.UNUSUAL:
                kinds.setdefault(sentencepieces.UNUSUAL[piece.type], []).append(i)
    elif "tokenizer.json" in tokenizer.files:
        added = json.loads(tokenizer.files["tokenizer.json"]).get("added_tokens", [])
        kinds["added"] = [token["id"] for token in added]
    else:
        kinds["special"] = sorted({i for name in SPECIALS if (i := getattr(tokenizer, name)) is not None})
    # A piece has one kind: the one that its vocabulary gives it.
    known = {i for ids in kinds.values() for i in ids}
    kinds["spaces inside"] = [
        i for i, name in enumerate(tokenizer.names) if _SPACE in name[1:] and name.strip(_SPACE) and i not in known
    ]
    return {kind: ids for kind, ids in kinds.items() if ids}


def texts_around_unusual(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Texts that contain each unusual piece, by its kind."""
    names = tokenizer.names
    return {kind: _texts_around([names[i] for i in ids]) for kind, ids in unusual_ids(tokenizer).items()}


def _texts_around(names: Sequence[str]) -> list[str]:
    """Texts of each piece alone, doubled, inside text, inside a word, and before and after the next piece."""
    # Each piece as its vocabulary spells it, and with real spaces.
    spelled = [text for name in names for text in dict.fromkeys((name, name.replace(_SPACE, " ")))]
    following = [*spelled[1:], *spelled[:1]]
    return [
        text
        for one, other in zip(spelled, following, strict=True)
        for text in (one, one + one, f"a {one} b", f"a{one}b", f"{one} a", one + other, f"{other} {one}")
    ]


def texts_of_pieces(tokenizer: Tokenizer) -> list[str]:
    """Every base piece alone."""
    return [name.replace(_SPACE, " ") for name in tokenizer.names]


def difference(folder: Path, tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> str | None:
    """The first text that an exported tokenizer and the run read as different ids, in words; None if there is none.

    Args:
      folder: the root tokenizer's folder, which holds the folders of the clones' tokenizers.
      texts: by a name for messages.
    """
    if tokenizer.vocabulary.kind == "ids":
        return None
    # Our ids once for all tokenizers: a clone's ids follow from the base ids.
    encoded = {what: tokenizer.encode(some) for what, some in texts.items()}
    # "" is the folder itself, "tokenizer_en_1" a clone's.
    for name in sorted(("", *(path.name for path in folder.glob("tokenizer_*/")))):
        k, read = clone_index(name)[1], _reader(folder / name)
        # Text by text, so that the first difference can be shown.
        for what, some in texts.items():
            for text, ids, found in zip(some, encoded[what], read(some), strict=True):
                ours = tokenizer.clone(ids, k)
                if not np.array_equal(ours, found):
                    place = name or "the root tokenizer"
                    return f"{place} reads {text[:60]!r} ({what}) as {found[:20]}, the run as {ours[:20].tolist()}"
    return None


def _reader(folder: Path) -> Callable[[Sequence[str]], list[list[int]]]:
    """The tokenizer as transformers runs it. Where transformers is missing, its own library reads the same file."""
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        from tokenizers import Tokenizer as Fast

        fast = Fast.from_file(str(folder / "tokenizer.json"))
        # transformers takes this setting from the other file; the library needs to be told.
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        fast.encode_special_tokens = settings.get("split_special_tokens", False)
        return lambda texts: [found.ids for found in fast.encode_batch(texts, add_special_tokens=False)]
    wrapped = PreTrainedTokenizerFast.from_pretrained(folder)
    return lambda texts: wrapped(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
