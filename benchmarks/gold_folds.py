"""Supervised word alignment by cross-validation: the table of docs/alignment.md.

    python benchmarks/gold_folds.py write GOLD SET FOLDS OUTPUT   # OUTPUT/K.train.* and OUTPUT/K.test.* for K = 0, 1, ...
    xalign train ... --gin.SOURCE='"OUTPUT/K.train.source"' ...   # a model for each fold
    xalign align ... --source=OUTPUT/K.test.source --target=OUTPUT/K.test.target --output=OUTPUT/K.links
    python benchmarks/gold_folds.py score OUTPUT                  # the error rate of all folds together

GOLD is a folder of files SET.XX.txt, SET.YY.txt and SET.gold.txt, which may end in .gz. Line n is tested in fold
n mod FOLDS, and trained on in the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from new_language import lines
from word_alignment import files, shown

from xalign_jax.alignment.scores import counts
from xalign_jax.data.text.linked import read_links

SIDES = ("source", "target", "gold")


def split(folder: Path, name: str, folds: int, output: Path) -> None:
    """Write the files of all folds."""
    output.mkdir(parents=True, exist_ok=True)
    for side, path in zip(SIDES, files(folder, name), strict=True):
        texts = lines(Path(path.removesuffix(".gz")))
        for fold in range(folds):
            for part, chosen in (("test", True), ("train", False)):
                kept = [text for number, text in enumerate(texts) if (number % folds == fold) == chosen]
                (output / f"{fold}.{part}.{side}").write_text("\n".join(kept) + "\n", encoding="utf-8")


def score(output: Path) -> None:
    """Print the error rate of all folds whose links are there."""
    found = []
    for path in sorted(output.glob("*.links")):
        gold = read_links(str(output / path.name.replace("links", "test.gold")))
        found += [counts(a.sure, g.sure, g.possible) for a, g in zip(read_links(str(path)), gold, strict=True)]
    print(f"{output}: {len(found)} sentence pairs, AER {shown(np.stack(found))}")


def main() -> None:
    """Run one of the subcommands that the top of this file lists."""
    what, *arguments = sys.argv[1:]
    if what == "write":
        split(Path(arguments[0]), arguments[1], int(arguments[2]), Path(arguments[3]))
    else:
        score(Path(arguments[0]))


if __name__ == "__main__":
    main()
