"""config.json of a foreign model. Every value has the type that its reader expects, and no key goes unread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xalign_jax.data.tokens.backends import why_unreadable
from xalign_jax.errors import UserError

# Keys that do not change the computation, whatever their value. Neither do private ones, which begin with "_".
_HARMLESS = frozenset([
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "initializer_range", "model_type",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id",
    "decoder_start_token_id", "attention_dropout", "hidden_dropout", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "classifier_dropout", "embd_pdrop", "id2label", "label2id", "num_labels",
    "problem_type", "finetuning_task", "task_specific_params", "gradient_checkpointing", "return_dict",
    "output_hidden_states", "output_attentions", "output_past", "is_encoder_decoder", "directionality", "vocab_size",
    "chunk_size_feed_forward", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "auto_map", "language", "prefix", "max_window_layers", "tokenizer_class",
    "attn_implementation", "generation_config", "max_length", "do_sample", "temperature", "top_k", "top_p",
    "repetition_penalty", "max_sequence_length", "is_llama_config", "transformers.js_config", "unsloth_fixed",
    "unsloth_version", "torchscript", "use_bfloat16", "tie_encoder_decoder", "cross_attention_hidden_size",
    "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "attn_pdrop",
    "resid_pdrop", "summary_type", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id",
    "forced_eos_token_id", "min_length", "num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty",
    "length_penalty", "early_stopping", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "output_scores", "return_dict_in_generate", "remove_invalid_values",
    "tf_legacy_loss", "typical_p", "use_return_dict", "gguf_file", "license", "model_max_length",
])  # fmt: skip
MOST_LAYERS = 10_000  # more than any model has; the number comes from a foreign file
_MOST = 2**31 - 1  # of a whole number
_LARGEST = 1e30  # of a number; float32 holds it
_MISSING = object()  # the default of keys that must be there


class Settings:
    """A config.json: each of its keys must be asked for, or be known not to change the computation.

    Readers raise UserError, naming file and key, for a value of another type. So they do for a missing value without a
    default. A null is a missing value to all readers but `get`.
    """

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file, self.values, self._asked = file, values, set[str]()

    @classmethod
    def read(cls, file: Path) -> Settings:
        """The settings of a file."""
        values = read_json(file)
        if not isinstance(values, dict):
            raise UserError(f"{file}: an object of settings is expected, not {shown(values)}")
        return cls(file, values)

    def get(self, key: str, default: object = _MISSING) -> Any:
        """A value of any type, None for a null."""
        # `finish` refuses the keys that were never asked for.
        self._asked.add(key)
        value = self.values.get(key, default)
        if value is _MISSING:
            raise UserError(f"{self.file}: no {key!r}")
        return value

    def whole(self, key: str, default: object = _MISSING, least: int = 1, most: int = _MOST) -> Any:
        """A whole number, or the default."""
        # `type(...) is int`, because JSON's true would pass for the number 1.
        wanted = f"a whole number from {least} to {most}"
        return self._checked(key, default, lambda value: type(value) is int and least <= value <= most, wanted)

    def number(self, key: str, default: object = _MISSING) -> Any:
        """A finite number of at least 0, or the default."""
        return self._checked(key, default, is_number, "a number of at least 0")

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._checked(key, default, lambda value: isinstance(value, bool), "true or false")

    def text(self, key: str, default: object = _MISSING) -> Any:
        """A string, or the default."""
        return self._checked(key, default, lambda value: isinstance(value, str), "a string")

    def table(self, key: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        return self._checked(key, {}, lambda value: isinstance(value, dict), "an object")

    def _checked(self, key: str, default: object, right: Callable[[Any], bool], wanted: str) -> Any:
        """The value of a key if it is right, the default if it is missing or null."""
        value = self.get(key, default)
        if value is None and default is not _MISSING:
            return default
        # A default need not be right: None stands for "no such thing" in many configurations.
        if value is not default and not right(value):
            raise UserError(f"{self.file}: {key} = {shown(value)}, but {wanted} is expected")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """Refuse a value other than these. The first one is the default."""
        value = self.get(key, allowed[0])
        # 1, 1.0 and true are equal in Python, but only one of them was meant.
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise UserError(
                f"{self.file}: {key} = {shown(value)} is not implemented; only {' or '.join(map(repr, allowed))}"
            )

    def finish(self) -> None:
        """Refuse keys that no reader asked for. Private keys (`_name_or_path`) and empty values say nothing."""
        for key in sorted(self.values.keys() - self._asked - _HARMLESS):
            value = self.values[key]
            if not key.startswith("_") and value not in (None, False, {}, []):
                raise UserError(
                    f"{self.file}: {bare(key)} = {shown(value)} is not implemented for {self.values['model_type']}"
                )


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def shown(value: object) -> str:
    """A value of a foreign file, as a line of a message shows it."""
    # ASCII, so that no control character or right-to-left mark can change how the line looks.
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def bare(name: str) -> str:
    """A name of a foreign file, as a line of a message shows it, without quotation marks."""
    return shown(name)[1:-1]


def read_json(file: Path) -> Any:
    """The contents of a foreign JSON file.

    Raises:
      UserError: it cannot be read, is a pointer of Git LFS, or is not JSON.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: {why_unreadable(content, f'not JSON, or cut short ({error})')}") from None
