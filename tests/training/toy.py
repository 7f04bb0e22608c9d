"""A run small enough for tests: the real loop, model and checkpoints over a feed of made-up tokens.

`main` trains it in a process of its own whose arguments are MODEL_DIR [key=value ...]. The keys are recipe ("infoxlm"),
steps, bad_row, accumulate, mesh (as 2,2,2), text, coordinator, processes, process_id, lost_seconds,
checkpoint_every, init_from, and:

    ties            the token that follows token 10 in the second stage
    sleep           seconds per batch
    renew_seconds   how often the lock is renewed
    pause           a batch that waits until there is a file MODEL_DIR.go: a batch of the streams that take turns,
                    counted from 0, and not the first batch of a stage
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gin
import numpy as np

from xalign_jax.data.token_ties import TokenTies
from xalign_jax.data.tokens.backends import Ids
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.data.tokens.vocabulary import Vocabulary
from xalign_jax.errors import RunError, UserError
from xalign_jax.interfaces import Batches, Feed, Probe
from xalign_jax.models.llama import Llama
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.causal_lm import CausalLM
from xalign_jax.objectives.masked_lm import MaskedLM
from xalign_jax.objectives.parts.corruption import Corruption
from xalign_jax.objectives.parts.momentum import ConstantMomentum
from xalign_jax.objectives.word_contrast import WordContrast
from xalign_jax.objectives.xlco import XlCo
from xalign_jax.parametrizations import tied_rows
from xalign_jax.parametrizations.tied_rows import TiedRows
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream
from xalign_jax.runtime import storage
from xalign_jax.runtime.cluster import distributed, failures, lock
from xalign_jax.runtime.sharding import make_mesh
from xalign_jax.training import stages
from xalign_jax.training import train as loop
from xalign_jax.training.build import Built, build_run, prepare
from xalign_jax.training.optimizers import AdamW, WarmupCosine

VOCABULARY = 64
SLEEP = 0.0
TEXT = 0  # another number stands for another file
PAUSE = -1


def _wait(step):
    """Wait as long as a real batch would take to make."""
    time.sleep(SLEEP)
    while step == PAUSE and not Path(f"{sys.argv[1]}.go").exists():
        time.sleep(0.02)


def _hash(*numbers):
    mixed = np.zeros(np.broadcast_shapes(*(np.shape(n) for n in numbers)), np.uint64)
    for number in numbers:
        mixed = (mixed ^ np.asarray(number, np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return mixed


class MadeFeed(Feed):
    """A feed that reads no text. Its rows are made up, so any rows have the real shapes."""

    def blank(self, rows):
        return self.build(None, None, rows, 0).batch(0, slice(0, rows))


@gin.configurable(module="toy")
@dataclasses.dataclass(frozen=True)
class ToyFeed(MadeFeed):
    """Rows of hashed tokens in two languages; row `bad_row` has a weight that makes the loss infinite."""

    length: int = 16
    bad_row: int = -1

    def build(self, corpus, mixture, rows, seed):
        return ToyRows(self.length, rows, seed, self.bad_row)


@dataclasses.dataclass
class ToyRows(Batches):
    length: int
    count: int
    seed: int
    bad_row: int
    languages = ("a", "b")

    def batch(self, first_row, row_slice):
        _wait(first_row // self.count)
        row = np.arange(first_row, first_row + self.count)[row_slice][:, None]
        text = (_hash(self.seed + TEXT, row, np.arange(self.length + 1)) % VOCABULARY).astype(np.int32)
        shape = (len(row), self.length)
        return {
            "tokens": text[:, :-1],
            "targets": text[:, 1:],
            "weights": np.where(row == self.bad_row, np.inf, np.ones(shape)).astype(np.float32),
            "positions": np.broadcast_to(np.arange(self.length, dtype=np.int32), shape),
            "segment_ids": np.ones(shape, np.int32),
            "language": (row[:, 0] % 2).astype(np.int32),
        }


@gin.configurable(module="toy")
@dataclasses.dataclass(frozen=True)
class ToyWords(MadeFeed):
    """Words of two tokens, eight per row. The two words of a concept lie in different rows."""

    length: int = 16
    words_per_row: int = 8

    def build(self, corpus, mixture, rows, seed):
        return ToyWordRows(self.length, rows, seed)


@dataclasses.dataclass
class ToyWordRows(Batches):
    length: int
    count: int
    seed: int
    languages = ("a", "b")

    def batch(self, first_row, row_slice):
        words = self.length // 2
        row = np.arange(self.count)[row_slice][:, None]
        concept = (row % (self.count // 2)) * words + np.arange(words)
        language = row // (self.count // 2)
        text = _hash(self.seed, first_row, concept[..., None], language[..., None], np.arange(2)) % VOCABULARY
        shape = (len(row), self.length)
        return {
            "tokens": text.reshape(shape).astype(np.int32),
            "positions": np.broadcast_to(np.arange(self.length, dtype=np.int32) % 2, shape),
            "segment_ids": np.broadcast_to(1 + np.arange(self.length, dtype=np.int32) // 2, shape),
            "concept": concept.astype(np.int32),
            "text_hash": _hash(concept, language).astype(np.uint32),
            "language": np.broadcast_to(language, concept.shape).astype(np.int32),
        }


@gin.configurable(module="toy")
@dataclasses.dataclass(frozen=True)
class ToySentences(MadeFeed):
    """Rows of four sentences of four tokens, like those of a contrast feed. The last slot of odd rows is empty.

    The views of an item are two hashes of its number. Masked language modelling reads the queries."""

    length: int = 16
    slots: int = 4

    def build(self, corpus, mixture, rows, seed):
        return ToySentenceRows(self.length, rows, seed)


@dataclasses.dataclass
class ToySentenceRows(Batches):
    length: int
    count: int
    seed: int
    languages = ("a", "b")

    def batch(self, first_row, row_slice):
        _wait(first_row // self.count)
        row = np.arange(first_row, first_row + self.count)[row_slice][:, None]
        place = np.arange(self.length, dtype=np.int32)
        shape = (len(row), self.length)
        empty = (row % 2 == 1) & (place >= 12)
        segment_ids = np.where(empty, 0, place // 4 + 1).astype(np.int32)
        batch = {}
        for view, which in enumerate(("", "key_")):
            text = 4 + _hash(self.seed, row, place // 4, view, place % 4) % (VOCABULARY - 4)
            batch |= {
                f"{which}tokens": np.where(empty, 0, text).astype(np.int32),
                f"{which}positions": np.broadcast_to(place % 4, shape),
                f"{which}segment_ids": segment_ids,
                f"{which}token_language": np.where(empty, -1, row % 2).astype(np.int32),
            }
        slot = np.arange(4)
        group = np.where((row % 2 == 1) & (slot == 3), -1, (row * 4 + slot) % 97)[..., None]
        text = _hash(row, slot)[..., None].astype(np.uint32)
        return batch | {"group": group.astype(np.int32), "text": text, "key_text": text + np.uint32(1)}


@gin.configurable(module="toy")
@dataclasses.dataclass(frozen=True)
class ToyProbe(Probe):
    """One row with the sum of the parameters' absolute values."""

    name, title = "toy", "Toy"

    def rows(self, run):
        import jax

        total = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(run.model.params))
        return [{"probe": "toy", "metric": "sum", "value": total, "n": 1}]


def recipe(steps: int = 12, bad_row: int = -1, peak: float = 1e-2) -> Recipe:
    """Stage `align` (contrast and LM), then `pretrain`, which has two thirds of the steps."""
    model = Llama(layers=2, width=32, heads=4, kv_heads=2, mlp_width=64, max_length=32)

    def lm(name):
        return Stream(name, ToyFeed(bad_row=bad_row), CausalLM(), 8)

    words = Stream("align_words", ToyWords(), WordContrast(), 8)
    shared = {"optimizer": AdamW(), "schedule": WarmupCosine(peak), "probes": (ToyProbe(),)}
    first, second = steps // 3, steps - steps // 3
    stages = (
        Stage("align", first, (words, lm("align_lm")), **shared),
        Stage("pretrain", second, (lm("pretrain_lm"),), **shared),
    )
    return Recipe(model, Vocabulary(), stages)


def infoxlm(steps: int = 12) -> Recipe:
    """Three streams in one step: masked and translation LM, and XlCo with a momentum encoder and a queue."""
    model = XLMRoberta(layers=2, width=32, heads=4, mlp_width=64, max_length=32)
    contrast = XlCo(level=1, queue=128, momentum=ConstantMomentum(0.5))
    streams = (
        Stream("mlm", ToySentences(), MaskedLM(), 8),
        Stream("tlm", ToySentences(), MaskedLM(Corruption(exact=True)), 8),
        Stream("xlco", ToySentences(), contrast, 8),
    )
    stage = Stage("pretrain", steps, streams, AdamW(), WarmupCosine(1e-3), probes=(ToyProbe(),))
    return Recipe(model, Vocabulary(), (stage,))


def ids(**settings) -> Tokenizer:
    """Bare ids, four of them special."""
    described = {"size": VOCABULARY, "specials": {"pad": 0, "eos": 1, "unk": 2, "mask": 3}}
    return Tokenizer(
        Ids(json.dumps(described).encode()), Vocabulary("ids", "ids.json", **{"rows": VOCABULARY} | settings)
    )


def use_toy_data(tokenizer: Tokenizer | None = None) -> None:
    """Let recipes read made-up data, without text and without a vocabulary to prepare."""
    corpus = SimpleNamespace(tokenizer=tokenizer or ids(), stores={}, lexicon=None, facts=None)
    stages.prepare_data = lambda recipe: None
    stages.load_data = stages.blank_data = lambda recipe: corpus


def main() -> None:
    """Train in this process with options from the command line."""
    global SLEEP, TEXT, PAUSE
    import jax

    options = dict(argument.split("=") for argument in sys.argv[2:])
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    jax.config.update("jax_default_matmul_precision", "highest")
    use_toy_data()
    SLEEP, TEXT, PAUSE = float(options.get("sleep", 0)), int(options.get("text", 0)), int(options.get("pause", -1))
    failures.LOST_SECONDS = float(options.get("lost_seconds", failures.LOST_SECONDS))
    lock.RENEW_SECONDS = float(options.get("renew_seconds", lock.RENEW_SECONDS))
    if "coordinator" in options:
        distributed.initialize(options["coordinator"], int(options["processes"]), int(options["process_id"]))
    try:
        with failures.together():
            train(options)
    except (UserError, RunError) as error:
        sys.exit(f"xalign: {error}")


def train(options: dict[str, str]) -> None:
    """Train the toy's recipe as `xalign train` would."""
    mesh = tuple(int(size) for size in options.get("mesh", "1,-1,1").split(","))
    every, parts = int(options.get("checkpoint_every", 4)), int(options.get("accumulate", 1))
    runtime = Runtime(mesh=mesh, log_every=1, checkpoint_every=every, accumulate=parts)
    steps = int(options.get("steps", 12))
    made = infoxlm(steps) if options.get("recipe") == "infoxlm" else recipe(steps, int(options.get("bad_row", -1)))
    made = dataclasses.replace(made, init_from=options.get("init_from"))
    if "ties" in options:
        ties = TokenTies(*(np.array([i], np.int32) for i in (int(options["ties"]), 10, 1)))
        tied_rows.translation_ties = lambda corpus: ties
        first, second = made.stages
        made = dataclasses.replace(made, stages=(first, dataclasses.replace(second, parametrization=TiedRows())))
    try:
        loop.train(made, runtime, storage.model_directory(sys.argv[1]), "toy")
    except loop.Interrupted:
        sys.exit(3)


def built(recipe: Recipe, runtime: Runtime) -> Built:
    """The recipe with its data, model and stages, as training builds it."""
    return build_run(recipe, runtime, make_mesh(runtime.mesh), prepare(recipe, recipe, Path()), {})
