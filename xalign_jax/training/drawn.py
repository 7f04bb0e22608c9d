"""What the streams of a recipe draw: shares of languages as the mixture wishes them, and as batches hold them."""

from __future__ import annotations

import dataclasses

import numpy as np

from xalign_jax.data.corpus import FACTS, Corpus
from xalign_jax.data.preview.rows import Arrays, token_languages, views_of
from xalign_jax.training.stages import PlannedStage, StepFeed

ROWS = 2000  # at least so many rows are read around a step; a block of the mixture has 1,000
POINTS = 20  # steps of a stage that are looked at where the shares change


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Shares of a stream's languages at some of its steps.

    Attributes:
      unit: what is counted: "rows", or "texts" of packed rows.
      pairs: the wish is for one text of each pair, and counts are of both; so they differ.
      rows: rows that were read around each step.
      steps: (P,) steps of the run.
      wished: language -> (P,) shares, the mixture's; {} = the stream reads no mixture.
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
    shares = {step: feed.feed.rates(_row(feed, step)) for step in steps}
    return [
        f"stream {name}, step {step:,}: " + ", ".join(f"{member} {rate:.1%}" for member, rate in found.items())
        for step, found in shares.items()
        if found
    ]


def drawn(stage: PlannedStage, name: str, corpus: Corpus) -> Drawn:
    """Reads batches of a stream around some steps of its stage, or only around the first where shares are constant."""
    feed, last = stage.feeds[name], stage.last_step - 1
    changes = bool(feed.feed.rates(feed.first_row))
    steps = np.unique(np.linspace(stage.first_step, last, POINTS if changes else 1).round().astype(int)).tolist()
    # Batches before the end of the stage, so that all of them are the stage's own where it is long enough.
    batches = max(1, min(-(-ROWS // feed.count), stage.stage.steps))
    languages = feed.feed.languages
    units, tokens = np.zeros((2, len(steps), len(languages)))
    unit, pairs = "rows", False
    for point, step in enumerate(steps):
        first = min(step, max(stage.first_step, last - batches + 1))
        for number in range(first, first + batches):
            batch = feed.batch(number, slice(0, feed.count))
            units[point] += count(batch, len(languages))
            tokens[point] += count_tokens(batch, len(languages))
            unit, pairs = unit_of(batch), "count_pairs" in batch
        steps[point] = first
    wished = [_by_language(feed.feed.shares(_row(feed, step)), corpus) for step in steps]
    named = dict.fromkeys(language for shares in wished for language in shares)
    return Drawn(
        stage.stage.name,
        name,
        unit,
        pairs,
        batches * feed.count,
        steps,
        {language: [shares.get(language, 0.0) for shares in wished] for language in named},
        _shares(units, languages),
        _shares(tokens, languages),
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


def _row(feed: StepFeed, step: int) -> int:
    return feed.first_row + (step - feed.first_step) * feed.stride


def _by_language(shares: dict[str, float], corpus: Corpus) -> dict[str, float]:
    """Shares of members as shares of languages: facts are in the dictionary's first language."""
    found: dict[str, float] = {}
    for member, share in shares.items():
        language = corpus.lexicon.languages[0] if member == FACTS and corpus.lexicon is not None else member
        found[language] = found.get(language, 0.0) + share
    return found


def _shares(counts: np.ndarray, languages: tuple[str, ...]) -> dict[str, list[float]]:
    """Language -> its share (P,) of counts (P, L), for languages that occur."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {name: shares[:, i].tolist() for i, name in enumerate(languages) if shares[:, i].any()}
