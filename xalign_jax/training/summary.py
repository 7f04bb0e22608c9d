"""What a run says about itself on stderr: a few lines before its first step, and one more when its speed is known."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator

import jax
from etils import epath
from tqdm import tqdm

from xalign_jax.data import statistics
from xalign_jax.data.corpus import Corpus
from xalign_jax.interfaces import Tree
from xalign_jax.runtime.cluster import distributed
from xalign_jax.training.build import Built, dtype_of
from xalign_jax.training.stages import PlannedStage, step_flops

_LANGUAGES = 6  # that are named, the largest first
_SETTLED = 3  # steps before the first that is timed: compiling, and steps that overlap with it
_TIMED = 2.0  # seconds that timed steps take together, or
_ENOUGH = 20  # as many steps


def start(run: Built, name: str, model_dir: epath.Path, done: int) -> list[str]:
    """Lines about a run before it goes on after step `done`: stages, model, text, dictionary, devices, output."""
    recipe, model = run.recipe, run.model
    shape = (
        f"{type(recipe.model).__name__} of {model.num_layers} block{'s' * (model.num_layers > 1)}, width {model.width}"
    )
    table = math.prod(model.shapes["embedding"].shape)
    stages = [f"{one.stage.name} {one.stage.steps:,} steps" for one in run.stages]
    goes_on = "; all steps are taken" if done == run.stages[-1].last_step else f"; goes on after step {done:,}"
    return [
        f"recipe: {name}, seed {recipe.seed}: {', then '.join(stages)}; {_read(run)} tokens are read{goes_on if done else ''}",
        f"model: {shape}: {_count(model.shapes):,} parameters, {table:,} of them in the embedding table",
        *_texts(run.corpus),
        *_dictionary(run.corpus),
        f"devices: {_devices(run)}",
        f"output: {model_dir}; curves: tensorboard --logdir={model_dir}",
    ]


class Forecast:
    """Prints one line about the speed of a stage, once some of its steps are timed.

    The first steps do not count, because they wait for the compiler. A process other than the first prints nothing.
    """

    def __init__(self, run: Built, planned: PlannedStage, done: int) -> None:
        # What remains, in steps of this stage: FLOPs say how many of them a step of a later stage is worth.
        later = [one for one in run.stages if one.first_step >= planned.last_step]
        own = step_flops(planned.stage, run.model)
        self._left = planned.last_step + sum(one.stage.steps * step_flops(one.stage, run.model) / own for one in later)
        self._first, self._since = done + _SETTLED, 0.0
        self._told = not distributed.is_main()

    def add(self, step: int) -> None:
        """Note that a step has been taken, and print the line when it is time."""
        if self._told or step < self._first:
            return
        now = time.monotonic()
        if step == self._first:
            self._since = now
        elif now - self._since >= _TIMED or step - self._first >= _ENOUGH:
            self._told = True
            seconds = (now - self._since) / (step - self._first)
            left = seconds * (self._left - step)
            line = f"speed: {seconds:.2g} s a step; about {_duration(left)} to the end, without probes; {_memory()}"
            tqdm.write(line, file=sys.stderr)


def _read(run: Built) -> str:
    """The tokens that all stages read, padding included."""
    # Every stream of a stage reads a batch in each step.
    read = [
        planned.stage.steps * sum(feed.count * feed.feed.length for feed in planned.feeds.values())
        for planned in run.stages
    ]
    return f"{sum(read):,}"


def _count(shapes: Tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _texts(corpus: Corpus) -> Iterator[str]:
    """A line with the tokens of each language; none if the run reads no text."""
    train, validation = (_tokens(corpus, split) for split in ("train", "validation"))
    if not train:
        return
    told = []
    for language, count in train.most_common(_LANGUAGES):
        held = f" (validation {validation[language]:,})" if validation[language] else ""
        told.append(f"{language} {count:,}{held}")
    more = f" and {len(train) - _LANGUAGES} more languages, {train.total():,} in all" if len(train) > _LANGUAGES else ""
    clones = corpus.tokenizer.clones
    copies = f"; each also as {clones} clone{'s' * (clones > 1)}" if clones else ""
    yield f"text: tokens of {', '.join(told)}{more}{copies}"


def _tokens(corpus: Corpus, split: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for splits in corpus.stores.values():
        for language, store in splits.get(split, {}).items():
            found[language] += len(store.tokens)
    return found


def _dictionary(corpus: Corpus) -> list[str]:
    """Lines about the dictionary: its entries, its coverage, and notes about its files."""
    if corpus.lexicon is None:
        return []
    first, *notes = corpus.lexicon.summary
    share = statistics.coverage(corpus)
    language = corpus.lexicon.languages[0]
    return [first if share is None else f"{first}; {share:.1%} of the running words of {language} are in it", *notes]


def _devices(run: Built) -> str:
    """Kinds and numbers of devices, dtype, and the memory that the state takes on each."""
    devices = jax.devices()
    mesh = " x ".join(f"{name} {size}" for name, size in run.mesh.shape.items() if size > 1)
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    largest = max(_state_bytes(run, planned) for planned in run.stages)
    return (
        f"{len(devices)} x {devices[0].device_kind}{hosts}{f' (mesh {mesh})' if mesh else ''}, {dtype_of(run.runtime)}; "
        f"parameters and optimiser take {_size(largest)}{' on each' if len(devices) > 1 else ''}, activations come on top"
    )


def _state_bytes(run: Built, planned: PlannedStage) -> int:
    """Bytes of a stage's state on one device."""
    known = run.layout(planned.stage)
    pairs = zip(jax.tree.leaves(known.abstract), jax.tree.leaves(known.where), strict=True)
    return sum(math.prod(where.shard_shape(own.shape)) * own.dtype.itemsize for own, where in pairs)


def _memory() -> str:
    """The most memory that was used so far: of the fullest device, or of this process where devices do not say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = [(own["peak_bytes_in_use"], own.get("bytes_limit")) for own in stats if "peak_bytes_in_use" in own]
    if not used:
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return f"memory so far: {_size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}"
    most, limit = max(used)
    return f"memory of the fullest device so far: {_size(most)}" + (f" of {_size(limit)}" if limit else "")


def _size(count: float) -> str:
    """Bytes in words: "23 MB", "1.4 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _duration(seconds: float) -> str:
    """A time in words, with two units at most: "40 s", "6 min", "3 h 10 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
