"""Alignment of a decoder that is already trained: the table of docs/decoders.md.

    python benchmarks/decoders.py data DATA OUTPUT          # novels, parallel text, and parallel text in a wrong order
    python benchmarks/decoders.py command OUTPUT ARM        # the options of `xalign train`
    python benchmarks/decoders.py measure DATA MODEL        # MEXA by level, retrieval and bits per byte, on NTREX

ARM is `lm`, `mid_align`, `afp`, `mapping` or `shuffled`, which is `mid_align` on parallel text in a wrong order. All arms
read the same numbers of rows: 2 of novels, and 16 of help pages and game dialogue. DATA holds the folders mono and
multiway.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import new_language as whole
import numpy as np

import xalign_jax as xa
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.measures.mexa import mexa

LANGUAGES = ("en", "de")
CORPORA = ("libreoffice_help", "wesnoth")
NOVELS = 20_000  # paragraphs of each language
LINES = 400  # of NTREX
LEVELS = (0, 1, 5, 10, 15, 20, 25, 30)
LEVEL = 15  # of mid_align
# Each arm's recipe, its own bindings, and the file of its German sentences.
ARMS = {
    "lm": ("study/gin/decoder_lm.gin", ["text/Stream.batch_size=16"], "de"),
    "mid_align": ("recipes/mid_align.gin", [f"LEVEL={LEVEL}", "align/Stream.batch_size=8"], "de"),
    "afp": ("recipes/afp.gin", ["align/Stream.batch_size=8"], "de"),
    "mapping": ("recipes/cross_lingual_mapping.gin", ["mapping/Stream.batch_size=16"], "de"),
    "shuffled": ("recipes/mid_align.gin", [f"LEVEL={LEVEL}", "align/Stream.batch_size=8"], "shuffled"),
}
# The learning rate is constant.
SHARED = ["STEPS=48", "lora_lm/Stream.batch_size=2", "lora/WarmupCosine.peak=2e-3", "lora/WarmupCosine.final=1.0"]
SHARED += ["lora/WarmupCosine.warmup=0.0"]


def data(source: Path, output: Path) -> None:
    """Write OUTPUT/novels.LANGUAGE, and OUTPUT/pairs.en.tsv, pairs.de.tsv and pairs.shuffled.tsv."""
    output.mkdir(parents=True, exist_ok=True)
    both: dict[str, tuple[str, str]] = {}
    for corpus in CORPORA:
        english, german = (whole.read(source / "multiway" / corpus / f"{language}.tsv") for language in LANGUAGES)
        kept = [key for key in whole.of_length(english, 4, 30) if key in german and german[key] != english[key]]
        both |= {f"{corpus}.{key}": (english[key], german[key]) for key in kept}
    wrong = [pair[1] for pair in both.values()]
    random.Random(0).shuffle(wrong)
    sides = {name: {key: pair[number] for key, pair in both.items()} for number, name in enumerate(LANGUAGES)}
    sides["shuffled"] = dict(zip(both, wrong, strict=True))
    whole.write(output, "pairs", sides)
    for language in LANGUAGES:
        paragraphs = [line for line in whole.lines(source / "mono" / "eltec" / f"{language}.txt") if line][:NOVELS]
        (output / f"novels.{language}").write_text("\n".join(paragraphs) + "\n", encoding="utf-8")


def command(output: Path, arm: str) -> str:
    """The options of `xalign train` for an arm."""
    recipe, bindings, german = ARMS[arm]
    texts = [f'TASKS=("lines:en={output}/novels.en,de={output}/novels.de",)']
    texts += [f'PAIRS=("tsv:en={output}/pairs.en.tsv,de={output}/pairs.{german}.tsv",)']
    return " ".join([f"--gin_file={recipe}", *(f"'--gin.{one}'" for one in [*texts, *SHARED, *bindings])])


def measure(source: Path, model_dir: str) -> None:
    """Print MEXA of each level, retrieval at the level of `mid_align` in both directions, and bits per byte."""
    model = xa.load(model_dir)
    texts = [whole.lines(source / "multiway" / "ntrex" / f"{name}.txt")[:LINES] for name in ("eng", "deu")]
    poolings = ("weighted", "mean")  # MEXA's and mid_align's
    shape = (len(LEVELS), LINES, model.model.width)
    # {pooling: (levels,N,width)} of each side.
    sides = [{pooling: np.zeros(shape, np.float32) for pooling in poolings} for _ in texts]
    for side, lines in zip(sides, texts, strict=True):
        for part in model.capture(lines, Want(LEVELS, poolings)):
            for pooling, states in side.items():
                states[:, part.numbers] = [part.pooled[pooling][level] for level in LEVELS]
    english, german = sides
    for number, level in enumerate(LEVELS):
        print("mexa", level, round(mexa(english["weighted"][number], german["weighted"][number]).score, 3), flush=True)
    own = LEVELS.index(LEVEL)
    print("retrieval", LEVEL, *whole.hits(english["mean"][own], german["mean"][own]), flush=True)
    for language, lines in zip(LANGUAGES, texts, strict=True):
        nats = -sum(score.total for score in model.score(lines))
        size = sum(len(line.encode()) for line in lines)
        print("bits a byte", language, round(nats / np.log(2) / size, 4), flush=True)


def main() -> None:
    """Run one of the subcommands that the top of this file lists."""
    what, *arguments = sys.argv[1:]
    if what == "data":
        data(Path(arguments[0]), Path(arguments[1]))
    elif what == "command":
        print(command(Path(arguments[0]), arguments[1]))
    else:
        measure(Path(arguments[0]), arguments[1])


if __name__ == "__main__":
    main()
