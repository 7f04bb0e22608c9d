"""Any number of measures on parallel text, from one pass of the model over it."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gin
import numpy as np

from xalign_jax.data.corpus import CorpusView
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want, pooled
from xalign_jax.evaluation.encode import fingerprint, levels, require_length, row, with_untrained
from xalign_jax.evaluation.inputs.parallel_files import File, all_files, located_files, mappings
from xalign_jax.evaluation.inputs.parallel_text import Sentences, sentences
from xalign_jax.evaluation.inputs.texts import TextReader, probe_reader, prompted
from xalign_jax.evaluation.language_maps import LanguageMaps
from xalign_jax.evaluation.measures.statistics import interval_of_mean
from xalign_jax.evaluation.parallel.measure import Measure, Sides, Together, Value, Vectors
from xalign_jax.interfaces import ModelConfig, Probe, ProbedRun, Row, Table
from xalign_jax.models.model import Model
from xalign_jax.recipe import as_json, at_least_one, freeze, resolve, with_paths

Read = TypeVar("Read", Sides, Together)  # what a measure reads


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ParallelText(Probe):
    """Measures of parallel text: the model reads each text once, and every measure reads the same vectors.

    Rows belong to the measures: the value of `probe` is a measure's name. language = "en->de"; measures of all languages
    together have names of their own. Each value has an interval of 95 % by a bootstrap over sentences where it is a
    mean over them. A value that is not defined, for example on too few sentences, is null and has a reason.

    Sources: as `SentenceRetrieval`. `files` is {language: path} or several of them, also with patterns
    (`inputs.parallel_files`); the first language is the pivot. Without files, `pivot` is compared with each language
    that shares groups of the run's validation texts with it. Without both, each language is compared with its clones.

    Attributes:
      measures: what is computed (`evaluation.parallel`).
      levels: those that are read; () = all.
      sentences: the most sentences of each pair of languages.
      least: sentences that a pair of languages must have.
      length: the most tokens of a sentence, with bos and eos.
      controls: any of "shuffled" and "untrained" (`Measure.controls`).
      maps: a folder that `xalign map` wrote. The model's states go through the map of each text's language. The same
        measures of the model as it is (control "unmapped") and of the baseline (control "centred") stand beside.
      prefix, suffix: words that stand before and after every text, as the model was trained to read it, such as "query: "
        (e5). Their states count in means. [MASK] in them is the mask token, which the pooling "mask" reads.
    """

    name: ClassVar[str] = "parallel_text"
    title: ClassVar[str] = "Parallel text"

    measures: tuple[Measure, ...] = ()
    files: tuple = dataclasses.field(default=(), metadata=with_paths(located_files))
    pivot: str | None = None
    others: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    sentences: int = 1000
    least: int = 10
    length: int = 128
    controls: tuple[str, ...] = ("shuffled",)
    maps: str | None = dataclasses.field(default=None, metadata=with_paths(lambda path: path and resolve(path)))
    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "sentences", "least")
        if self.length < 3:
            raise UserError(f"ParallelText.length = {self.length}: at least 3, bos and eos count")
        if not self.measures:
            raise UserError("ParallelText.measures = (): name at least one, such as @Mexa()")
        for measure in self.measures:
            if not isinstance(measure, Measure):
                raise UserError(f"ParallelText.measures has {measure!r}: expected a measure such as @Mexa()")
        if unknown := [name for name in self.controls if name not in Measure.controls]:
            raise UserError(f"ParallelText.controls names {unknown[0]!r}: any of {', '.join(Measure.controls)}")

    def tables(self) -> Sequence[Table]:
        """Its measures."""
        return self.measures

    def settings(self) -> Sequence[Any]:
        """The settings of each measure, with those of what the probe reads."""
        left_out = {"measures", "class", *(name for name in ("prefix", "suffix") if not getattr(self, name))}
        shared = {key: value for key, value in as_json(self).items() if key not in left_out}
        return [{**as_json(measure), **shared} for measure in self.measures]

    def text_files(self) -> tuple[tuple[str, str], ...]:
        """The parallel files, if the probe reads any."""
        return all_files(self.files)

    def check_model(self, model: ModelConfig | Model) -> None:
        """Raise UserError for anything that the model or its configuration lacks. Needs no data."""
        require_length(model, "ParallelText", self.length)

    def check(self, run: ProbedRun) -> None:
        """Raise UserError for anything that the data lacks, before anything is trained."""
        if above := [level for level in self.levels if not 0 <= level <= run.model.num_layers]:
            raise UserError(f"ParallelText.levels names {above[0]}: the model has levels 0 to {run.model.num_layers}")
        want, around = self._want(run.model), self._reader(run).frame
        want.check(run.model)
        want.check_masks(run.model, [np.concatenate(around)], "ParallelText.prefix or ParallelText.suffix")
        for measure in self.measures:
            measure.check(run.model)
        pairs = self._sentences(run.corpus)
        if (maps := self._maps()) is not None:
            if run.model.params is None:
                raise UserError(
                    "ParallelText.maps: maps belong to a trained model; take them out of Stage.probes, and bind them "
                    "in xalign evaluate"
                )
            maps.check(run.model)
            for name in {name for pair in pairs for name in pair.languages}:
                maps.of(name, 1).check(self._want(run.model))
            _say_if_fitted(maps, pairs)

    def rows(self, run: ProbedRun) -> list[Row]:
        """Rows of every measure, language and level."""
        pairs = [_without_empty(pair) for pair in self._sentences(run.corpus)]
        maps = self._maps()
        found: list[Row] = []
        for control, own in with_untrained(run, "untrained" in self.controls):
            found += self._measured(own, pairs, control, None if control else maps)
            if maps is not None and control is None:
                quiet = run._replace(show=lambda picture: None)
                found += self._measured(quiet, pairs, "unmapped")
                found += self._measured(quiet, pairs, "centred", maps.centring())
        return found

    def _sentences(self, corpus: CorpusView) -> list[Sentences]:
        return sentences(corpus, self.files, self.sentences, self.pivot, self.least, self.others)

    def _reader(self, run: ProbedRun) -> TextReader:
        """How the model reads each text, within the prompt."""
        return prompted(probe_reader(run, self.length), "ParallelText", self.prefix, self.suffix)

    def _maps(self) -> LanguageMaps | None:
        return None if self.maps is None else LanguageMaps.load(Path(resolve(self.maps)))

    def _want(self, model: Model) -> Want:
        """What all measures read together."""
        return Want(
            self.levels or levels(model),
            tuple(dict.fromkeys(measure.pooling for measure in self.measures)),
            tuple(dict.fromkeys(site for measure in self.measures for site in measure.sites())),
        )

    def _measured(
        self, run: ProbedRun, pairs: Sequence[Sentences], control: str | None, maps: LanguageMaps | None = None
    ) -> Iterator[Row]:
        """Rows of all measures on one model, whose states go through maps if there are any."""
        want = self._want(run.model)
        shared = _shared(pairs) if any(measure.whole for measure in self.measures) else []
        # Patterns among the files are looked up once, and the settings are written out once.
        tables, files = list(zip(self.measures, self.settings(), strict=True)), mappings(self.files)
        kept: dict[str, Vectors] = {}
        pivot: Vectors = {}
        known = ""
        for number, pair in enumerate(pairs):
            # Pairs of one set of files share the pivot's sentences, which are read once.
            if known != (now := fingerprint(pair.source_hash)):
                pivot, known = self._vectors(run, pair.source, want, pair.languages[0], maps), now
            language = self._vectors(run, pair.target, want, pair.languages[1], maps)
            sides = Sides(pair.languages, pivot, language, pair.source_hash, pair.target_hash, run.seed, run.show)
            yield from self._pair_rows(sides, pair.fingerprint, control, tables, files)
            if shared:
                both = zip(pair.languages, (pivot, language), strict=True)
                kept = {name: self._kept(side, shared[number]) for name, side in both if name not in kept} | kept
        if shared:
            texts = {pairs[0].languages[0]: pairs[0].source_hash[shared[0]]}
            texts |= {p.languages[1]: p.target_hash[rows] for p, rows in zip(pairs, shared, strict=True)}
            together = Together({name: kept[name] for name in texts}, texts, run.seed, run.show)
            data = fingerprint(*texts.values())
            for measure, settings in tables:
                if measure.whole:
                    for value in _defined(measure, measure.together, together, len(shared[0])):
                        own = _of_pair(settings, files, value.language or "*")
                        yield _row(measure, value, "*", data, control, own, run.seed)

    def _pair_rows(
        self,
        sides: Sides,
        data: str,
        control: str | None,
        tables: Sequence[tuple[Measure, dict[str, Any]]],
        files: Sequence[Sequence[File]],
    ) -> Iterator[Row]:
        """Rows of a pair of languages, and of its shuffled control on a model as it is."""
        name, n = "->".join(sides.languages), len(sides.source_texts)
        ways = [(control, sides)]
        if control is None and "shuffled" in self.controls:
            ways.append(("shuffled", _shuffled(sides)))
        for measure, whole in tables:
            settings = _of_pair(whole, files, name)
            for way, own in ways:
                if way != "shuffled" or way in measure.controls:
                    for value in _defined(measure, measure.pair, own, n):
                        yield _row(measure, value, name, data, way, settings, sides.seed)

    def _vectors(
        self, run: ProbedRun, texts: Sequence[np.ndarray], want: Want, language: str, maps: LanguageMaps | None
    ) -> Vectors:
        """The vectors of sentences, in their order."""
        before, after = self._reader(run).frame
        room = self.length - len(before) - len(after)
        if long := sum(len(text) > room for text in texts):
            print(f"{language}: {long} of {len(texts)} sentences are longer than {room} tokens; cut", file=sys.stderr)
        rows = [np.concatenate([before, text[:room], after]).astype(np.int32) for text in texts]
        mapped = None if maps is None else maps.of(language, len(rows))
        # The prompt counts in means.
        return pooled(run.model, rows, want, probe_reader(run, self.length).around, language, mapped)

    def _kept(self, vectors: Vectors, rows: np.ndarray) -> Vectors:
        """The vectors of some sentences that measures of all languages together read."""
        poolings = {measure.pooling for measure in self.measures if measure.whole}
        # Sites are many times wider than levels, and are read pair by pair only.
        return {
            pooling: {key: found[rows] for key, found in vectors[pooling].items() if not isinstance(key, tuple)}
            for pooling in poolings
        }


def _of_pair(settings: dict[str, Any], files: Sequence[Sequence[File]], name: str) -> dict[str, Any]:
    """The settings of a row of a pair "en->de". It names the files of this pair only.

    Args:
      files: the mappings of all pairs (`inputs.parallel_files`).
    """
    pair = set(name.split("->"))
    own = [one for one in files if pair <= {language for language, _ in one}]
    return {**settings, "files": [[*file] for one in own for file in one if file[0] in pair]} if own else settings


def _shared(pairs: Sequence[Sentences]) -> list[np.ndarray]:
    """For each pair, the rows of the sentences that all languages have, in the same order; [] if they share none."""
    # Sentences of two pairs are the same if the pivot has the same text there. The first of equal texts counts.
    hashes = functools.reduce(np.intersect1d, [pair.source_hash for pair in pairs])
    if len(hashes) < 2 or len({pair.languages[0] for pair in pairs}) > 1:
        print("ParallelText: the languages share no sentences, so nothing compares all of them", file=sys.stderr)
        return []
    firsts = [np.unique(pair.source_hash, return_index=True) for pair in pairs]
    found = [first[np.searchsorted(known, hashes)] for known, first in firsts]
    order = np.argsort(found[0])
    return [rows[order] for rows in found]


def _say_if_fitted(maps: LanguageMaps, pairs: Sequence[Sentences]) -> None:
    """Say how many of the sentences are among those on which the maps were fitted: scores on them are too high."""
    for pair in pairs:
        if seen := int(np.isin(pair.source_hash, maps.texts).sum()):
            name = "->".join(pair.languages)
            print(f"{name}: the maps were fitted on {seen} of these {len(pair.source_hash)} sentences", file=sys.stderr)


def _without_empty(pair: Sentences) -> Sentences:
    """The pair without sentences that have no token on a side."""
    full = np.array([bool(len(a) and len(b)) for a, b in zip(pair.source, pair.target, strict=True)])
    if full.all():
        return pair
    print(f"{'->'.join(pair.languages)}: {(~full).sum()} of {len(full)} sentences are empty; left out", file=sys.stderr)
    chosen = np.flatnonzero(full)
    return dataclasses.replace(
        pair,
        source=[pair.source[i] for i in chosen],
        target=[pair.target[i] for i in chosen],
        source_hash=pair.source_hash[chosen],
        target_hash=pair.target_hash[chosen],
        texts=None,
    )


def _shuffled(sides: Sides) -> Sides:
    """The control "shuffled": each sentence with the translation of one far away, which is of another document."""
    far = len(sides.target_texts) // 2
    rolled = {
        pooling: {key: np.roll(vectors, -far, axis=0) for key, vectors in by_key.items()}
        for pooling, by_key in sides.target.items()
    }
    return sides._replace(target=rolled, target_texts=np.roll(sides.target_texts, -far), show=lambda picture: None)


def _defined(measure: Measure, compute: Callable[[Read], Iterable[Value]], read: Read, n: int) -> Iterable[Value]:
    """The values of a measure of n sentences; a value without a number where they are not defined."""
    try:
        return list(compute(read))
    except UserError as error:
        return [Value(next(iter(measure.columns)), float("nan"), n, reason=str(error))]


def _row(measure: Measure, value: Value, name: str, data: str, control: str | None, settings: Any, seed: int) -> Row:
    """A row of `results.json`."""
    units = np.asarray([] if value.units is None else value.units, np.float64)
    low, high = value.interval or interval_of_mean(units, seed=seed)
    about = {"language": value.language or name, "level": value.level, "control": control, "data": data}
    found = row(measure.name, value.metric, value.value, value.n, **about, low=low, high=high)
    return found | {"reason": value.reason, "settings": settings} | ({"value": None} if value.reason else {})
