"""What the streams of a recipe draw: shares of languages as the mixture wishes them, and as batches hold them."""

from __future__ import annotations

import dataclasses

import numpy as np

from xalign_jax.data.corpus import FACTS, Corpus
from xalign_jax.data.preview.rows import Arrays, token_languages, views_of
from xalign_jax.training.stages import PlannedStage, StepFeed

ROWS = 2000  # rows that are read around a step; a block of the mixture has 1,000
POINTS = 20  # of a stage, where the shares change


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Shares of a stream's languages at some of its steps.

    Attributes:
      unit: what is counted: "rows", or "texts" of packed rows.
      pairs: the wish is for one text of each pair, and counts are of both; so they differ.
      rows: rows that were read around each step.
      steps: (P,) steps of the run: the first one that is read, or the middle of those that are read around a point.
      wished: language -> (P,) shares, the mixture's mean over the steps that are read; {} = the stream reads no mixture.
      drawn: language -> (P,) shares of the units that were read.
      tokens: language -> (P,) shares of the tokens that were read.
    """

    stage: str
    stream: str
    unit: str
    pairs: bool
    rows: int
    steps: list[int]
    wished: dict[str, list[float]]
    drawn: dict[str, list[float]]
    tokens: dict[str, list[float]]


def rates(name: str, feed: StepFeed, steps: list[int]) -> list[str]:
    """A line for each of these steps of the run with the shares of a stream's languages, if they change."""
    shares = {step: feed.feed.shares(feed.row(step)) for step in steps} if feed.feed.changing else {}
    return [
        f"stream {name}, step {step:,}: " + ", ".join(f"{member} {rate:.1%}" for member, rate in found.items())
        for step, found in shares.items()
    ]


def drawn(stage: PlannedStage, name: str, corpus: Corpus) -> Drawn:
    """Reads batches of a stream around some steps of its stage, or only around the first where shares are constant."""
    feed = stage.feeds[name]
    changes = feed.feed.changing
    # Enough batches for whole blocks of the mixture, but none of another stage.
    batches = max(1, min(-(-ROWS // feed.count), stage.stage.steps))
    firsts = np.linspace(stage.first_step, stage.last_step - batches, POINTS if changes else 1).round().astype(int)
    points = [range(first, first + batches) for first in np.unique(firsts).tolist()]
    units, tokens = np.zeros((2, len(points), len(feed.feed.languages)))
    for point, steps in enumerate(points):
        for step in steps:
            batch = feed.batch(step, slice(0, feed.count))
            units[point] += count(batch, units.shape[1])
            tokens[point] += count_tokens(batch, units.shape[1])
    wished = [_mean([_by_language(feed.feed.shares(feed.row(step)), corpus) for step in steps]) for steps in points]
    named = dict.fromkeys(language for shares in wished for language in shares)
    return Drawn(
        stage.stage.name,
        name,
        unit_of(batch),
        "count_pairs" in batch,
        batches * feed.count,
        [(steps[0] + steps[-1]) // 2 if changes else steps[0] for steps in points],
        {language: [shares.get(language, 0.0) for shares in wished] for language in named},
        _shares(units, feed.feed.languages),
        _shares(tokens, feed.feed.languages),
    )


def unit_of(batch: Arrays) -> str:
    """What `count` counts in a batch."""
    language = batch.get("language")
    return "rows" if language is not None and language.ndim == 1 else "texts"


def count(batch: Arrays, languages: int) -> np.ndarray:
    """(L,) rows or texts of a batch by language. A text is what stands in one language in one segment of a view."""
    if unit_of(batch) == "rows":
        return np.bincount(batch["language"], minlength=languages)
    found = np.zeros(languages, np.int64)
    for view in views_of(batch):
        language, segment = token_languages(batch, view), batch[f"{view}segment_ids"]
        row = np.broadcast_to(np.arange(len(segment))[:, None], segment.shape)
        known = language >= 0
        texts = np.unique(np.stack([row[known], segment[known], language[known]]), axis=1)
        found += np.bincount(texts[2], minlength=languages)
    return found


def count_tokens(batch: Arrays, languages: int) -> np.ndarray:
    """(L,) tokens of a batch by language, over all views."""
    found = [token_languages(batch, view) for view in views_of(batch)]
    return np.bincount(np.concatenate([each[each >= 0] for each in found]), minlength=languages)


def _by_language(shares: dict[str, float], corpus: Corpus) -> dict[str, float]:
    """Shares of members as shares of languages: facts are in the dictionary's first language."""
    found: dict[str, float] = {}
    for member, share in shares.items():
        language = corpus.lexicon.languages[0] if member == FACTS and corpus.lexicon is not None else member
        found[language] = found.get(language, 0.0) + share
    return found


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    """The mean share of each language."""
    named = dict.fromkeys(language for shares in found for language in shares)
    return {language: sum(shares.get(language, 0.0) for shares in found) / len(found) for language in named}


def _shares(counts: np.ndarray, languages: tuple[str, ...]) -> dict[str, list[float]]:
    """Language -> its share (P,) of counts (P, L), for languages that occur."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {name: shares[:, i].tolist() for i, name in enumerate(languages) if shares[:, i].any()}
