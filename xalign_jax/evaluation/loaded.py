"""A model with its tokenizer, ready for texts: `xalign_jax.load` returns it."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import jax
import numpy as np
from jax.sharding import Mesh

from xalign_jax.alignment.methods import Extraction
from xalign_jax.data.text.linked import Pair, split_words
from xalign_jax.data.tokens.tokenizer import Frame, Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.evaluation import generation
from xalign_jax.evaluation.activations import Key, Part, Want, capture, pooled, token_losses
from xalign_jax.evaluation.aligning.neural import NeuralAligner, Way, default_level
from xalign_jax.evaluation.aligning.pairs import Alignment
from xalign_jax.evaluation.inputs.texts import ReadText, TextReader, check_texts, prompted
from xalign_jax.evaluation.language_maps import LanguageMaps, Mapped
from xalign_jax.models.model import Model


class TextStates(NamedTuple):
    """The states of one text of T tokens.

    Attributes:
      tokens: ids, spans and words of the tokens.
      states: {level: (T,width) float32}; a site of a block has the key (site, level).
    """

    tokens: ReadText
    states: dict[Key, np.ndarray]


class Score(NamedTuple):
    """The log-probability of one text.

    Attributes:
      total: the sum of `tokens`, in nats.
      tokens: (n,) float32 log-probability of each scored token, given those before it.
      ids: (n,) int32 the scored tokens.
    """

    total: float
    tokens: np.ndarray
    ids: np.ndarray


class LoadedModel:
    """A model that reads texts.

    Every method takes a list of texts and keeps its order. Texts are batched by length and spread over all devices.

    Attributes:
      model: the network with its parameters (`models.model.Model`).
      tokenizer: text to ids and back.
      frame: the ids that the model reads before and after a text, such as bos and eos.
      path: the folder that the model comes from.
      step: of the checkpoint; 0 for a Hugging Face folder.
      mesh: the devices that hold the parameters.
      maps: of languages, which states go through (`mapped`); None = none.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, frame: Frame, mesh: Mesh, path: Path, step: int = 0) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.frame = frame
        self.mesh = mesh
        self.path = path
        self.step = step
        self.maps: LanguageMaps | None = None
        self._reader = TextReader(tokenizer, frame, model.max_length)

    def __repr__(self) -> str:
        kind, model = type(self.model.config).__name__, self.model
        return f"<{kind} of {self.path}: levels 0 to {model.num_layers}, width {model.width}>"

    def mapped(self, maps: LanguageMaps | str | os.PathLike) -> LoadedModel:
        """The same model, whose states go through the map of each text's language. Parameters are shared.

        `encode`, `hidden`, `capture` and `align` of the result need to know the language. For example:

            model.mapped("maps/").encode(["Die Katze schläft."], level=8, language="de")

        Args:
          maps: or the folder that `xalign map` wrote.

        Raises:
          UserError: the maps were fitted on another model.
        """
        found = maps if isinstance(maps, LanguageMaps) else LanguageMaps.load(Path(maps))
        found.check(self.model)
        other = copy.copy(self)
        other.maps = found
        return other

    def encode(
        self,
        texts: Sequence[str],
        level: int | None = None,
        pooling: str = "mean",
        specials: bool = False,
        language: str | Sequence[str] | None = None,
        prefix: str = "",
        suffix: str = "",
    ) -> np.ndarray:
        """A vector for each text: (N,width) float32.

        Args:
          level: 0 = embeddings, L = after the last block and the final norm; None = L.
          pooling: "mean", "weighted", "first", "last" or "mask", as `activations.Want` describes them.
          specials: count bos and eos in the mean.
          language: of all texts, or of each; for models with maps only.
          prefix, suffix: as in `ParallelText`.

        Raises:
          UserError: no such level or pooling, an empty text, a language without a map, a state that is not finite, or a
            text without a mask token whose state is wanted.
        """
        want = Want((self.model.num_layers if level is None else level,), (pooling,), specials=specials)
        want.check(self.model)
        rows = prompted(self._reader, "encode", prefix, suffix).ids(texts)
        mapped = self._mapped(language, len(rows))
        if not rows:
            return np.zeros((0, self.model.width), np.float32)
        with self.on_devices():
            return pooled(self.model, rows, want, self._reader.around, "encode", mapped)[pooling][want.levels[0]]

    def hidden(
        self,
        texts: Sequence[str],
        levels: int | Sequence[int] | None = None,
        sites: Sequence[str] = (),
        language: str | Sequence[str] | None = None,
    ) -> list[TextStates]:
        """The states of every token of each text.

        They need 4 T width bytes for each text and level: give long lists of texts to `capture`, which holds a batch.

        Args:
          levels: one or several; None = L.
          sites: "mlp" for the feed-forward neurons of the same blocks, "attention" for the output of attention.
          language: as in `encode`.

        Raises:
          UserError: as `encode`.
        """
        levels = self.model.num_layers if levels is None else levels
        levels = (levels,) if isinstance(levels, int | np.integer) else tuple(levels)
        want = Want(levels, sites=tuple(sites), tokens=True)
        want.check(self.model)
        read = self._reader.read(texts)
        mapped = self._mapped(language, len(read))
        found: dict[int, TextStates] = {}
        with self.on_devices():
            for part in capture(self.model, [one.ids for one in read], want, self._reader.around, "hidden", mapped):
                for number, states in zip(part.numbers, part.tokens, strict=True):
                    found[int(number)] = TextStates(read[number], states)
        return [found[number] for number in range(len(read))]

    def capture(self, texts: Sequence[str], want: Want, language: str | Sequence[str] | None = None) -> Iterator[Part]:
        """One pass that captures any levels, poolings, sites and token states, in parts (`activations.capture`)."""
        rows = self._reader.ids(texts)
        with self.on_devices():
            yield from capture(self.model, rows, want, self._reader.around, mapped=self._mapped(language, len(rows)))

    def score(self, texts: Sequence[str]) -> list[Score]:
        """The log-probability of each text and of its tokens.

        The first token of a text is scored if the model reads an id before it, such as bos; otherwise nothing predicts
        it. An id after the text, such as eos, is not scored.

        Raises:
          UserError: the model is bidirectional, or a text is empty or longer than the model reads.
        """
        self._refuse_maps("score")
        if not self.model.causal:
            raise UserError(
                f"{self.path}: a bidirectional model gives no probability of a text; score with a causal model"
            )
        rows = self._reader.ids(texts, cut=False)
        with self.on_devices():
            losses = token_losses(self.model, rows, self._reader.around, "score")
        before, after = self._reader.around
        ids = [row[max(before, 1) : len(row) - after] for row in rows]
        return [Score(-float(one.sum(dtype=np.float64)), -one, own) for one, own in zip(losses, ids, strict=True)]

    def perplexity(self, texts: Sequence[str]) -> np.ndarray:
        """exp(-mean log-probability of a token) of each text: (N,) float64.

        Raises:
          UserError: as `score`, or a text has no token that anything predicts.
        """
        scores = self.score(texts)
        for number, score in enumerate(scores):
            if not len(score.tokens):
                raise UserError(f"text {number} (counted from 0) is a single token that nothing predicts; leave it out")
        return np.array([np.exp(-score.total / len(score.tokens)) for score in scores])

    @overload
    def align(  # type: ignore[overload-overlap]  # a text is also a sequence of texts
        self,
        source: str,
        target: str,
        level: int | None = ...,
        method: str = ...,
        symmetrise: str = ...,
        words: str = ...,
        languages: tuple[str, str] | None = ...,
    ) -> Alignment: ...

    @overload
    def align(
        self,
        source: Sequence[str],
        target: Sequence[str],
        level: int | None = ...,
        method: str = ...,
        symmetrise: str = ...,
        words: str = ...,
        languages: tuple[str, str] | None = ...,
    ) -> list[Alignment]: ...

    def align(
        self,
        source: str | Sequence[str],
        target: str | Sequence[str],
        level: int | None = None,
        method: str = "itermax",
        symmetrise: str = "intersection",
        words: str = "spaces",
        languages: tuple[str, str] | None = None,
    ) -> Alignment | list[Alignment]:
        """The links between the words of a sentence and its translation, or of each pair of two lists.

        `xalign align` does the same for files, with more options.

        Args:
          level: whose states are compared; None = two thirds of the way up.
          method, symmetrise: how states become links (`alignment.methods.Extraction`).
          words: "spaces", or "icu" for scripts without spaces.
          languages: (source, target), for models with maps only.

        Returns:
          an `Alignment` for two sentences, a list of them for two lists. Its `links` are pairs (source word, target
          word), counted from 0, and its `probabilities` belong to them.

        Raises:
          UserError: unequal numbers of sentences, no such level or method, or states that are not finite.
        """
        if isinstance(source, str) != isinstance(target, str):
            raise UserError("align: source and target must both be one sentence, or both be lists")
        if isinstance(source, str) and isinstance(target, str):
            (only,) = self.align([source], [target], level, method, symmetrise, words, languages)
            return only
        check_texts(source)
        check_texts(target)
        if len(source) != len(target):
            raise UserError(
                f"align: {len(source)} source and {len(target)} target sentences; each needs its translation"
            )
        if self.maps is None and languages is not None:
            raise UserError(f"languages = {languages!r}: this model has no maps; model.mapped(maps) has them")
        way = Way(default_level(self.model) if level is None else level, Extraction(method, symmetrise))
        with self.on_devices():
            aligner = NeuralAligner(
                self.model, self.tokenizer, [way], spaced=words == "spaces", maps=self.maps, languages=languages
            )
            return aligner.align(
                [
                    Pair(number, split_words(one, words), split_words(other, words))
                    for number, (one, other) in enumerate(zip(source, target, strict=True), 1)
                ]
            )

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 64,
        top_p: float = 1.0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """The continuation of each prompt, without the prompt. It ends before eos, or after `max_new_tokens`.

        Names of special tokens in a prompt are special tokens, as chat templates need them.

        Args:
          top_p, temperature, seed: `generation.Sampling` describes them; temperature 0 is greedy.

        Raises:
          UserError: the model is bidirectional, a prompt is too long, or empty where the model has no bos.
        """
        self._refuse_maps("generate")
        check_texts(prompts)
        sampling = generation.Sampling(max_new_tokens, temperature, top_p, seed)
        before = np.array(self.frame[0], np.int32)
        rows = [np.concatenate([before, ids]) for ids in self.tokenizer.encode(list(prompts))]
        for number, row in enumerate(rows):
            if not len(row):
                raise UserError(f"prompt {number} (counted from 0) is empty, and the model has no bos to begin with")
        with self.on_devices():
            made = generation.generate(self.model, rows, sampling, self.tokenizer.eos)
        return [self._continuation(row, new) for row, new in zip(rows, made, strict=True)]

    def _continuation(self, row: np.ndarray, new: np.ndarray) -> str:
        """The text of new ids after those of a prompt. Decoded alone, they would lose the space before a word."""
        whole, prompt = (self.tokenizer.decode(ids) for ids in (np.concatenate([row, new]), row))
        return whole.removeprefix(prompt) if whole.startswith(prompt) else self.tokenizer.decode(new)

    def _mapped(self, language: str | Sequence[str] | None, count: int) -> Mapped | None:
        """The maps of `count` texts. A model with maps needs to know languages, and only such a model does."""
        if self.maps is None:
            if language is not None:
                raise UserError(f"language = {language!r}: this model has no maps; model.mapped(maps) has them")
            return None
        if language is None:
            raise UserError(f"language: this model maps by language; say which of {', '.join(self.maps.languages)}")
        return self.maps.of(language, count)

    def _refuse_maps(self, what: str) -> None:
        if self.maps is not None:
            raise UserError(
                f"{what}: maps change states that are read, not what the model predicts; use it without maps"
            )

    @contextlib.contextmanager
    def on_devices(self) -> Iterator[None]:
        """The mesh of the parameters, and products of float32 arrays in full precision on every kind of device."""
        with jax.set_mesh(self.mesh), jax.default_matmul_precision("highest"):
            yield
