"""Where a run's clone is worse than its English: the loss by kind of target token.

    python -m study.gap runs/study/K-1 [...]

Both languages read the same held-out windows. Losses are renormalised within the language. Columns: `share` of targets,
`gap` in nats, and `part`, the kind's share of the whole gap.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np

from xalign_jax import cli, config
from xalign_jax.data.corpus import CorpusView
from xalign_jax.evaluation.encode import score
from xalign_jax.evaluation.inputs.windows import of_text, run_texts
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.reports.tables import markdown
from xalign_jax.training.evaluate import restored

KINDS = ("a dictionary word", "part of dictionary words", "a held-out word", "punctuation, digits", "other pieces")


def kinds(corpus: CorpusView) -> np.ndarray:
    """(base size,) the number of each base token's kind in `KINDS`."""
    # Later assignments overwrite earlier ones: other pieces, punctuation, held-out words, parts of words, and words.
    tokenizer, lexicon = corpus.tokenizer, corpus.lexicon
    assert lexicon is not None, "the run has no dictionary"
    found = np.full(tokenizer.base_size, len(KINDS) - 1)
    found[np.asarray(tokenizer.standalone, bool)[: tokenizer.base_size]] = 3
    for number, table, single in ((2, lexicon.heldout, True), (1, lexicon.train, False), (0, lexicon.train, True)):
        for word in np.flatnonzero(table.language == 0):
            ids = table.tokens(int(word))
            if not single or len(ids) == 1:
                found[ids] = number
    return found


def losses(directory: Path, windows: int = 256) -> tuple[CorpusView, np.ndarray, np.ndarray]:
    """(prepared data, base ids of the targets, (2, n) losses of English and the clone)."""
    recipe, runtime = config.load([str(directory / "config.gin")], [], (Recipe, Runtime))
    corpus, mesh, model, _ = restored(recipe, runtime, directory)
    found, targets = [], np.zeros(0)
    with jax.set_mesh(mesh):
        for text in run_texts(corpus, "validation"):
            rows = of_text(text, corpus.tokenizer, 64, windows)
            # (N, T) where a target counts; both languages have the same places.
            real = rows["weights"] > 0
            nll, mass = score(model, rows, corpus.tokenizer.language_rows(text.clone), 32, text.language)
            # The loss under a softmax over the language's own rows.
            found.append((nll + mass)[real])
            # Windows of a clone hold the same base tokens, so English gives the targets for both.
            targets = targets if text.clone else rows["targets"][real]
    return corpus, targets, np.stack(found)


def table(directory: Path) -> str:
    """The loss of both languages by kind of target."""
    corpus, targets, (english, clone) = losses(directory)
    kind, rows = kinds(corpus)[targets], []
    for number, name in enumerate(KINDS):
        mine = kind == number
        if mine.any():
            # Mean gap of the kind, and its share of the sum over all targets.
            gap = (clone - english)[mine]
            cells = (
                mine.mean(),
                english[mine].mean(),
                clone[mine].mean(),
                gap.mean(),
                gap.sum() / (clone - english).sum(),
            )
            rows.append([name, *(f"{value:.3f}" for value in cells)])
    rows.append(
        ["all", "1", *(f"{value:.3f}" for value in (english.mean(), clone.mean(), (clone - english).mean())), "1"]
    )
    return markdown([directory.name, "share", "English", "clone", "gap", "part"], rows)


if __name__ == "__main__":
    cli.register()
    for name in sys.argv[1:]:
        print(table(Path(name)) + "\n")
