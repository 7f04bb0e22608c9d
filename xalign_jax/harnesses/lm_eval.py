"""A causal model as a model of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness).

    import lm_eval
    from xalign_jax.harnesses.lm_eval import XalignLM
    lm_eval.simple_evaluate(model=XalignLM("runs/a"), tasks=["xcopa_tr"])

`python -m xalign_jax.harnesses --model xalign --model_args pretrained=runs/a --tasks xcopa_tr` is the same from a shell,
with every option of the command `lm_eval`.

Scores are those that the harness computes for the exported model by transformers: texts are cut into tokens in the same
way, and too long ones lose their beginning.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import numpy as np

from xalign_jax.api import load
from xalign_jax.errors import UserError, install
from xalign_jax.evaluation import generation
from xalign_jax.evaluation.continuations import Continuation, score_continuations
from xalign_jax.evaluation.loaded import LoadedModel

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise UserError(f"lm-evaluation-harness is not installed ({missing}): {install('eval')}") from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Request = tuple[tuple[str, str] | None, list[int], list[int]]  # texts, ids of the context and of the continuation

_SAMPLING = ("do_sample", "temperature", "top_p")  # the settings of a generation that have a meaning here


@register_model("xalign")
class XalignLM(TemplateLM):
    """A causal model for the harness.

    Requests are batched by length and spread over all devices of JAX, so `batch_size` has no effect.

    Args:
      pretrained: a model directory, a Hugging Face folder, or what `xalign_jax.load` returned.
      step, dtype: of a folder, as for `xalign_jax.load`.
      max_length: most tokens that are read at once; None = as many as the model reads.
      add_bos_token: read bos before each text; None = as the model reads texts.
      prefix_token_id: the id before texts without context; None = bos, or eos if the vocabulary has no bos.
      max_gen_toks: most tokens of a continuation, for tasks that do not say.
      batch_size, max_batch_size, device: not used; the command line gives them to every model. JAX chooses the devices.

    Raises:
      UserError: the model is bidirectional, its vocabulary has neither bos nor eos, or an argument is unknown.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike | LoadedModel = "",
        step: int | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name, value in unknown.items():
            raise UserError(f"model_args {name}={value}: no such argument")
        if pretrained == "":
            raise UserError("model_args: no model; write pretrained=DIR, a model directory or a Hugging Face folder")
        self.loaded = pretrained if isinstance(pretrained, LoadedModel) else load(pretrained, step, dtype)
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        if not model.causal:
            raise UserError(
                f"{self.loaded.path}: a bidirectional model gives no probability of a text; lm-evaluation-harness needs "
                "a causal model (for an encoder: xalign_jax.harnesses.mteb)"
            )
        if max_length is not None and not 1 <= max_length <= model.max_length:
            raise UserError(f"model_args max_length={max_length}: 1 to {model.max_length}, which the model reads")
        self.max_length = model.max_length if max_length is None else max_length
        self.max_gen_toks = max_gen_toks
        self._add_bos_token = add_bos_token
        prefixes = (prefix_token_id, tokenizer.bos, tokenizer.eos)
        prefix = next((one for one in prefixes if one is not None), None)
        if prefix is None or not 0 <= prefix < tokenizer.base_size:
            why = "the vocabulary has neither bos nor eos" if prefix is None else f"0 to {tokenizer.base_size - 1}"
            raise UserError(
                f"{self.loaded.path}: prefix_token_id={prefix_token_id}: {why}; name an id of the vocabulary"
            )
        self._prefix = prefix

    @property
    def prefix_token_id(self) -> int:
        """The id before texts without context."""
        return self._prefix

    @property
    def eot_token_id(self) -> int | None:
        """The id of eos."""
        return self.loaded.tokenizer.eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, with bos before it where the model reads it so. An id after the text is never added.

        A text that already begins with the prefix token gets no second one. Imported vocabularies read the name of a
        special token in a text as that token.
        """
        (ids,) = (row.tolist() for row in self.loaded.tokenizer.encode([string]))
        if add_special_tokens is None and ids[:1] == [self._prefix]:
            return ids
        if add_special_tokens is None:
            add_special_tokens = self._add_bos_token is not False
        return [*(self._before if add_special_tokens else []), *ids]

    @property
    def _before(self) -> list[int]:
        """The ids before a text."""
        bos = self.loaded.tokenizer.bos
        if self._add_bos_token and not self.loaded.frame[0] and bos is not None:
            return [bos]
        return self.loaded.frame[0]

    def _loglikelihood_tokens(self, requests: Sequence[Request], **unused: Any) -> list[tuple[float, bool]]:
        """(log-probability, whether it is greedy) of each continuation."""
        scores = self._score([(context, continuation) for _, context, continuation in requests])
        answers = [(score.total, score.greedy) for score in scores]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Continuation]:
        # A shorter `max_length` than the model's: contexts lose their beginning here.
        cut = [(context[-max(1, self.max_length + 1 - len(rest)) :], rest) for context, rest in pairs]
        with self.loaded.on_devices():
            return score_continuations(self.loaded.model, *zip(*cut, strict=True)) if cut else []

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in nats. A text longer than the model is read in the harness's windows."""
        windows: list[tuple[list[int], list[int]]] = []
        # (N,) where the windows of each text begin.
        begins = []
        for request in requests:
            begins.append(len(windows))
            ids = self.tok_encode(request.args[0])
            cuts = get_rolling_token_windows(ids, self._prefix, self.max_length, context_len=1)
            windows.extend(make_disjoint_window(window) for window in cuts)
        totals = np.array([score.total for score in self._score(windows)])
        answers = [float(part.sum()) for part in np.split(totals, begins[1:])] if requests else []
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context, up to the first stop text of its task."""
        answers = [""] * len(requests)
        # Contexts with equal settings are continued together.
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            contexts = [requests[number].args[0] for number in numbers]
            settings = requests[numbers[0]].args[1]
            for number, text in zip(numbers, self._continue(contexts, settings), strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _continue(self, contexts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        known = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        stops, most = [text for text in known.pop("until") if text], known.pop("max_gen_toks")
        if unknown := [name for name in known if name not in _SAMPLING]:
            raise UserError(f"generation_kwargs {unknown[0]}: not supported; take until, max_gen_toks, {_SAMPLING}")
        room = self.max_length - most
        if room < 1:
            raise UserError(
                f"max_gen_toks={most}: leaves no room for a context; the model reads {self.max_length} tokens"
            )
        sampling = generation.Sampling(most)
        if known["do_sample"]:
            sampling = generation.Sampling(most, float(known.get("temperature", 0.0)), float(known.get("top_p", 1.0)))
        # Contexts that are too long lose their beginning. An empty one begins as a text without context does.
        rows = [np.array(self.tok_encode(text)[-room:] or [self._prefix], np.int32) for text in contexts]
        decode = self.loaded.tokenizer.decode
        with self.loaded.on_devices():
            made = generation.generate(
                self.loaded.model,
                rows,
                sampling,
                self.loaded.tokenizer.eos,
                ended=lambda ids: any(stop in decode(ids) for stop in stops),
            )
        return [_before_any(decode(ids), stops) for ids in made]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> NoReturn:
        """Chat templates are not read."""
        raise UserError(f"{self.loaded.path}: chat templates are not read; leave out apply_chat_template")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes about the model beside its results."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.loaded.model.shapes))
        return {"model_num_parameters": parameters, "model_path": str(self.loaded.path), "model_step": self.loaded.step}


def _before_any(text: str, stops: Sequence[str]) -> str:
    """The text up to the first occurrence of any of the stop texts."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
