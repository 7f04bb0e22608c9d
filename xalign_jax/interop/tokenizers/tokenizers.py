"""Our vocabularies as fast tokenizers: tokenizer.json and tokenizer_config.json, one folder for each clone language.

SentencePiece and the `tokenizers` library normalise in different ways. The files written here give SentencePiece's ids:
tests/interop/test_tokenizers.py compares both on real and on adversarial text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xalign_jax.data.tokens.pieces import SPECIALS
from xalign_jax.data.tokens.segmenter import BORDER
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interop.tokenizers import sentencepieces


def write_tokenizers(
    tokenizer: Tokenizer, output: Path, *, causal: bool, max_length: int, languages: Sequence[str]
) -> None:
    """Write the root tokenizer (base ids) and `tokenizer_<language>/` for every clone; nothing for bare ids.

    They add the specials of the model's training: bos before a decoder's text, bos and eos around an encoder's.

    Args:
      languages: the base language and its clones, by number.
    Raises:
      UserError: the vocabulary cuts text at the borders of words, which no fast tokenizer finds.
    """
    if tokenizer.vocabulary.kind == "ids":
        return
    if BORDER in tokenizer.names:
        raise UserError(
            'the vocabulary was trained with Vocabulary.words = "icu": it cuts text where ICU finds words, and '
            "tokenizers of Hugging Face cannot, so it is not exported"
        )
    # A tokenizer.json goes out as it came in, with its own specials.
    if tokenizer.vocabulary.kind == "huggingface":
        content = json.loads(tokenizer.files["tokenizer.json"])
        config = json.loads(tokenizer.files.get("tokenizer_config.json", b"{}"))
    else:
        content = (
            _bytes() if tokenizer.vocabulary.kind == "bytes" else sentencepieces.convert(tokenizer.files["spm.model"])
        )
        # Other vocabularies know their specials by role. Each becomes an added token that the post-processor puts
        # around texts.
        names = _special_names(tokenizer, content)
        content["added_tokens"] = [_added(name, getattr(tokenizer, role)) for role, name in names.items()]
        content["post_processor"] = _template(names, tokenizer, causal)
        config = {f"{role}_token": name for role, name in names.items()}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        # "<mask>" in a text is text, as in training.
        config |= {"split_special_tokens": True}
    config["model_max_length"] = max_length
    _write(output, content, config)
    # A clone's tokenizer is the base tokenizer with other ids.
    for k, language in enumerate(languages[1:], 1):
        ids = tokenizer.clone(np.arange(tokenizer.base_size, dtype=np.int32), k)
        _write(output / f"tokenizer_{language}", renumbered(content, ids), config)


def _write(folder: Path, content: dict[str, Any], config: dict[str, Any]) -> None:
    """Write the two files of a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _special_names(tokenizer: Tokenizer, content: dict[str, Any]) -> dict[str, str]:
    """Role -> piece of the specials that the vocabulary has."""
    # A unigram model lists its pieces, and a BPE model maps them to ids.
    vocab = content["model"]["vocab"]
    pieces = (
        {i: piece for i, (piece, _) in enumerate(vocab)}
        if isinstance(vocab, list)
        else {i: p for p, i in vocab.items()}
    )
    ids = {role: getattr(tokenizer, role) for role in SPECIALS}
    return {role: pieces[i] for role, i in ids.items() if i is not None}


def _added(name: str, index: int) -> dict[str, Any]:
    """A special as an added token of tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": name, **flags}


def _template(names: dict[str, str], tokenizer: Tokenizer, causal: bool) -> dict[str, Any] | None:
    """The post-processor that puts specials around one text or around each of a pair; None if a special is missing."""
    around = ["bos"] if causal else ["bos", "eos"]
    if any(role not in names for role in around):
        return None

    def special(role: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": names[role], "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    # bos before a text, and eos after each text if the model reads it.
    after = [special(role) for role in around[1:]]
    single = [special("bos"), text("A"), *after]
    ids = {
        names[role]: {"id": names[role], "ids": [getattr(tokenizer, role)], "tokens": [names[role]]} for role in around
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B"), *after],
        "special_tokens": ids,
    }


def _bytes() -> dict[str, Any]:
    """A byte vocabulary: byte-level BPE without merges, behind a space."""
    # GPT-2's alphabet: printable bytes are themselves, and the others are characters from 256 on.
    # Bytes that are printable characters of Latin-1.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    character = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {f"<{role}>": i for i, role in enumerate(SPECIALS)} | {character[b]: len(SPECIALS) + b for b in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "Prepend", "prepend": " "},
        "pre_tokenizer": level,
        "decoder": {"type": "Sequence", "decoders": [level, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def renumbered(content: dict[str, Any], ids: np.ndarray) -> dict[str, Any]:
    """The same tokenizer, with ids[i] in place of id i.

    Raises:
      UserError: its model or post-processor keeps ids in a form that is unknown here.
    """
    # A deep copy.
    new = json.loads(json.dumps(content))
    model = new["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: int(ids[i]) for piece, i in model["vocab"].items()}
    elif model.get("type") == "Unigram":
        # Ids are places in the list, so unused places are filled with pieces that no text contains (U+FDD0 is no
        # character).
        filled = [[f"\ufdd0{i}", sentencepieces.NEVER] for i in range(int(ids.max()) + 1)]
        for i, entry in enumerate(model["vocab"]):
            filled[ids[i]] = entry
        model["vocab"] = filled
        model["unk_id"] = None if model.get("unk_id") is None else int(ids[model["unk_id"]])
    else:
        raise UserError(f"tokenizer.json: a model of type {model.get('type')!r} cannot be renumbered for clones")
    for token in new.get("added_tokens", []):
        token["id"] = int(ids[token["id"]])
        # Also in the model: the library numbers an added token that the model lacks itself, whatever its id here.
        if isinstance(model["vocab"], dict):
            model["vocab"][token["content"]] = token["id"]
        else:
            model["vocab"][token["id"]] = [token["content"], sentencepieces.NEVER]
    _renumber_processor(new.get("post_processor"), ids)
    return new


def _renumber_processor(processor: dict[str, Any] | None, ids: np.ndarray) -> None:
    """Renumber the ids of the specials that a post-processor adds, in place."""
    kind = (processor or {}).get("type")
    if processor is None or kind == "ByteLevel":
        return
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber_processor(part, ids)
    elif kind == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            special["ids"] = [int(ids[i]) for i in special["ids"]]
    elif kind in ("RobertaProcessing", "BertProcessing"):
        for name in ("sep", "cls"):
            processor[name] = [processor[name][0], int(ids[processor[name][1]])]
    else:
        raise UserError(f"tokenizer.json: a post-processor of type {kind!r} cannot be renumbered for clones")
