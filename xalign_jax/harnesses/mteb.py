"""A model as an encoder of mteb (https://github.com/embeddings-benchmark/mteb).

    import mteb
    from xalign_jax.harnesses.mteb import XalignEncoder
    mteb.evaluate(XalignEncoder("runs/a", level=8), mteb.get_task("Tatoeba", languages=["deu"]))

Vectors are those of `LoadedModel.encode`, at any level and by any pooling.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import jax
import numpy as np

from xalign_jax.api import load
from xalign_jax.errors import UserError, install
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.encode import fingerprint
from xalign_jax.evaluation.loaded import LoadedModel

try:
    from mteb.abstasks.task_metadata import TaskMetadata, TaskType
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ImportError as missing:
    raise UserError(f"mteb is not installed ({missing}): {install('eval')}") from None

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_SAMPLES = ("The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa.")


class XalignEncoder(AbsEncoder):
    """A model whose vectors mteb scores, by cosine unless the task says otherwise.

    Texts are batched by length and spread over all devices of JAX, so `encode_kwargs["batch_size"]` has no effect.

    Args:
      pretrained: a model directory, a Hugging Face folder, or what `xalign_jax.load` returned.
      level, pooling, specials: as for `LoadedModel.encode`. e5 was trained with specials=True.
      prompts: what stands before a text. Keys are "query", "document", a type of task or the name of a task. A type or a
        name may end in "-query" or "-document". For e5: {"query": "query: ", "document": "passage: "}.
      normalize: give vectors of length 1. That changes no cosine, but what classifiers learn.
      step, dtype: of a folder, as for `xalign_jax.load`.

    Attributes:
      mteb_model_meta: the model's description. mteb keeps results by its name, its revision and its settings. The
        revision holds the step and a hash of two sentences' vectors, so that other parameters get other results.

    Raises:
      UserError: there is no such model, level or pooling.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike | LoadedModel,
        level: int | None = None,
        pooling: str = "mean",
        specials: bool = False,
        prompts: Mapping[str, str] | None = None,
        normalize: bool = False,
        step: int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.loaded = pretrained if isinstance(pretrained, LoadedModel) else load(pretrained, step, dtype)
        model = self.loaded.model
        self.level = model.num_layers if level is None else level
        self.pooling, self.specials, self.normalize = pooling, specials, normalize
        Want((self.level,), (pooling,), specials=specials).check(model)
        self.model_prompts = dict(prompts or {})
        _check_prompts(self.model_prompts)
        settings = {"level": self.level, "pooling": pooling, "specials": specials, "normalize": normalize}
        vectors = self._vectors(list(_SAMPLES))
        rounded = np.rint(1e3 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"xalign/{self.loaded.path.absolute().name}",
                "revision": f"step-{self.loaded.step}-{fingerprint(rounded)}",
                "n_parameters": sum(leaf.size for leaf in jax.tree.leaves(model.shapes)),
                "embed_dim": model.width,
                "max_tokens": model.max_length,
                "framework": ["JAX"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": bool(self.model_prompts),
                "experiment_kwargs": {
                    **settings,
                    **{f"prompt {name}": text for name, text in self.model_prompts.items()},
                },
            }
        )

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """A vector for each text: (N,width) float32.

        A text without any token, such as an empty one, gets zeros, whose cosine with every text is 0. One line tells how
        many texts did.

        Raises:
          UserError: the vectors should be quantised (`precision`), or a state is not finite.
        """
        if (precision := kwargs.get("precision") or "float32") != "float32":
            raise UserError(f"encode_kwargs precision={precision}: vectors are float32; leave it out")
        prompt = self.model_prompts.get(self.get_prompt_name(task_metadata, prompt_type) or "", "")
        texts = [prompt + text for batch in inputs for text in batch["text"]]
        there = np.array([not self._is_empty(text) for text in texts], bool)
        if not there.all():
            where = f"{task_metadata.name} ({hf_subset}, {hf_split})"
            print(f"{where}: {(~there).sum()} of {len(texts)} texts are empty; their vectors are zero", file=sys.stderr)
        vectors = np.zeros((len(texts), self.loaded.model.width), np.float32)
        vectors[there] = self._vectors([text for text, kept in zip(texts, there, strict=True) if kept])
        return vectors

    def _vectors(self, texts: list[str]) -> np.ndarray:
        vectors = self.loaded.encode(texts, self.level, self.pooling, self.specials)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.normalize else vectors

    def _is_empty(self, text: str) -> bool:
        """Whether the vocabulary cuts the text into no token. A text with a letter or a digit never is."""
        return not any(map(str.isalnum, text)) and not len(self.loaded.tokenizer.encode_documents([text])[0])


def _check_prompts(prompts: Mapping[str, str]) -> None:
    """Refuse what is no prompt, and say which names are taken as names of tasks: mteb cannot know them all."""
    kinds = [each.value for each in PromptType]
    tasks = []
    for name, text in prompts.items():
        if not isinstance(text, str):
            raise UserError(f"prompts[{name!r}] is a {type(text).__name__}, not a text")
        base = next((name.removesuffix(f"-{kind}") for kind in kinds if name.endswith(f"-{kind}")), name)
        if base not in (*kinds, *get_args(TaskType)):
            tasks.append(base)
    if tasks:
        print(f"prompts: taken as names of tasks: {', '.join(tasks)}; prompts of all tasks: {kinds}", file=sys.stderr)
