"""Every experiment of the study: gin files and bindings, by question. An experiment is one line of the tables."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A link that `--data` makes, so that a recipe's hash does not depend on where the data lies.
DATA = "runs/study/data"


class Experiment(NamedTuple):
    """A recipe to be run over seeds.

    Attributes:
      question: the part of the study that it belongs to.
      name: its own, of letters, digits, "." and "-".
      files: gin files; later ones override earlier ones.   bindings: "NAME=VALUE".
      probe_every: steps between probes, for curves; 0 = only at the ends of stages.
      data: whether it reads the user's texts and dictionaries under `DATA`.
    """

    question: str
    name: str
    files: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    probe_every: int = 0
    data: bool = False


# Name of an arm in tables -> the beginning of its recipe's file name.
ARMS = {
    "J": "joint",
    "JC": "joint_switch",
    "JV": "joint_vanilla",
    "P": "align",
    "PC": "prealign",
    "R": "random",
    "RC": "random_switch",
    "K": "kept",
    "K-noswitch": "kept_noswitch",
    "K-nostage1": "kept_nostage1",
    "K-neither": "kept_nostage1_noswitch",
    "HELD": "held",
    "PLUS": "prealign_plus",
    "O": "oracle",
}
MAIN = ("J", "RC", "PC", "K", "PLUS", "O")
# Half of the text in the clone, and a model of four times the size.
EVEN = 'Mixture.rates={"en": 0.48, "en_clone": 0.48, "facts": 0.04}'
LARGER = "models/llama_4m.gin"


def recipe(arm: str) -> str:
    """The gin file of an arm of the clone study."""
    return f"recipes/{ARMS[arm]}_clone_tiny.gin"


def _clone(
    arms: Iterable[str], question: str, suffix: str, files: Sequence[str] = (), *bindings: str
) -> list[Experiment]:
    """Arms of the clone study under a question, with further gin files and bindings."""
    return [Experiment(question, f"{arm}{suffix}", (recipe(arm), *files), bindings) for arm in arms]


J, HELD = recipe("J"), recipe("HELD")
NO_ANCHOR = "WordDistance.anchored=False"
SHUFFLED = "Lexicon.shuffle=True"
VECTORS = "parts/language_vectors.gin"
CLONE = [
    *_clone([*MAIN, *(arm for arm in ARMS if arm not in MAIN)], "clone", ""),
    # A vector for each language, without a dictionary; and PLUS with a dictionary that says nothing.
    Experiment("clone", "J-vectors", (J, VECTORS)),
    Experiment("clone", "PLUS-random", (recipe("PLUS"),), (SHUFFLED,)),
    *_clone(ARMS, "clone-50-50", "-50-50", (), EVEN),
    # With equal halves English is not the rich language: must its rows still stay where its own text puts them?
    Experiment("clone-50-50", "HELD-no-anchor-50-50", (HELD,), (NO_ANCHOR, EVEN), seeds=(1,)),
    *_clone(ARMS, "clone-4m", "-4m", (LARGER,)),
    *_clone(MAIN, "clone-4m-50-50", "-4m-50-50", (LARGER,), EVEN),
]

# Baselines that were tuned as carefully as the method: stage 1's schedule (two warm-ups) without its contrast; K's
# contrast where it cannot align (a random dictionary) and where nothing is left to align (tied clones); other learning
# rates, one seed each.
NO_CONTRAST = "align_words/Stream.weight=0.0"
TIED = "Vocabulary.tie_clones=True"
BASELINES = [
    Experiment("baselines", "J-restart", (recipe("P"),), (NO_CONTRAST,)),
    Experiment("baselines", "O-restart", (recipe("P"),), (NO_CONTRAST, TIED)),
    Experiment("baselines", "K-random", (recipe("K"),), (SHUFFLED,)),
    Experiment("baselines", "O-K", (recipe("K"),), (TIED,)),
]
BASELINES += [
    Experiment("baselines", f"{arm}-lr{peak}", (recipe(arm),), (f"WarmupCosine.peak={peak}",), seeds=(1,))
    for arm in ("J", "O")
    for peak in ("1e-3", "4e-3")
]

# K with one setting changed at a time.
WEIGHT = "pretrain_words/Stream.weight={}"
SEARCH = [
    Experiment("search", f"K-{name}", (recipe("K"),), bindings, seeds=(1,))
    for name, bindings in {
        "w0.03": (WEIGHT.format(0.03),),
        "w0.3": (WEIGHT.format(0.3),),
        "w1": (WEIGHT.format(1.0),),
        "ends": ("WordContrast.levels=(0,)",),
        "stage1-50": ("ALIGN_STEPS=50", "PRETRAIN_STEPS=650"),
        "stage1-200": ("ALIGN_STEPS=200", "PRETRAIN_STEPS=500"),
        "keep-optimizer": ("pretrain/Stage.keep_optimizer=True",),
        "lr4e-3": ("WarmupCosine.peak=4e-3",),
        "both-ways": ("Switch.both_ways=True",),
        "rate0.2": ("Switch.rate=0.2",),
    }.items()
]
OWN_GIN = ("late", "fading")
SEARCH += [Experiment("search", f"K-{name}", (f"study/gin/{name}.gin",), seeds=(1,)) for name in OWN_GIN]
# HELD without each of its parts, and where nothing can be aligned. WORDS_ONLY feeds words instead of pieces.
ROWS, GATHER, HOLD, TIED_ROWS = (f"parts/{name}.gin" for name in ("rows", "gather_rows", "held_rows", "tied_rows"))
SWITCHING = "parts/switching.gin"
WORDS_ONLY = tuple(f"{stage}_rows/Stream.feed=@WordFeed()" for stage in ("gather", "pretrain"))
WORDS_ONLY += ("WordFeed.length=64", "WordFeed.words_per_row=32", "WordFeed.concepts=256")
SEARCH += [
    Experiment("search", f"HELD-{name}", files, bindings, seeds=(1,))
    for name, files, bindings in (
        ("no-gather", (J, ROWS, HOLD), ()),
        ("no-hold", (J, ROWS, GATHER), ()),
        ("no-pieces", (HELD,), WORDS_ONLY),
        ("no-anchor", (HELD,), (NO_ANCHOR,)),
        ("random", (HELD,), (SHUFFLED,)),
    )
]
SEARCH += [
    Experiment("search", "PC-tied-rows", (recipe("PC"), TIED_ROWS), seeds=(1,)),
    Experiment("clone-50-50", "PC-tied-rows-50-50", (recipe("PC"), TIED_ROWS), (EVEN,), seeds=(1,)),
]

# The effect of the published initialisation, 0.02 at every width, on the baselines: words start close together, and a
# contrast of any kind parts them.
SMALL_ROWS = ("J", "RC", "PC", "K", "O", "K-random", "O-K", "J-restart", "J-lr4e-3")
INIT = [
    one._replace(question="init", name=f"{one.name}-std0.02", bindings=(*one.bindings, "Llama.table_std=0.02"))
    for one in [*CLONE, *BASELINES, *SEARCH]
    if one.name in SMALL_ROWS
]

# Dictionaries with fewer concepts, or with wrong ones. PC, K, HELD and PLUS above have all concepts and no wrong ones.
QUALITY = {f"coverage{share}": f"Lexicon.coverage={share}" for share in (0.5, 0.2, 0.05)}
QUALITY |= {f"wrong{share}": f"Lexicon.shuffle={share}" for share in (0.1, 0.3)}
QUALITY |= {f"homographs{share}": f"Lexicon.homographs={share}" for share in (0.1, 0.3)}
# 5 % of the concepts are 80, fewer than a step takes by default. PLUS takes none per step.
ALL_OF_FEW: dict[str, tuple[str, ...]] = {arm: ("align_words/WordFeed.concepts=80",) for arm in ("PC", "K")}
ALL_OF_FEW |= {"HELD": ("PieceFeed.concepts=80",), "PLUS": ()}
ONCE = ("wrong0.1", "homographs0.1")
DICTIONARY = [
    Experiment(
        "dictionary",
        f"{arm}-{name}",
        (recipe(arm),),
        (binding, *(few if name == "coverage0.05" else ())),
        (1,) if arm == "HELD" or name in ONCE else (1, 2, 3),
    )
    for (arm, few), (name, binding) in itertools.product(ALL_OF_FEW.items(), QUALITY.items())
]

# Alignment over steps, on a few probes only: they run every 50 steps, and in other experiments only at a stage's end.
WATCHED = "[@Perplexity(), @WordRetrieval(), @HiddenCosine(), @GradientCosine(), @Knowledge()]"
CURVES = [
    Experiment("curves", f"{arm}-curve", (recipe(arm),), (f"PROBES={WATCHED}",), seeds=(1,), probe_every=50)
    for arm in ("J", "JC", "P", "PC", "RC", "K", "K-nostage1", "HELD", "PLUS")
]

# Real languages: novels (one paragraph a document) with FreeDict, and Russian help pages with a small dictionary.
# Steps, rates and concepts are those of the clone study.
TEXTS = {
    "de": ("lines:en={0}/mono/eltec/en.txt.gz,de={0}/mono/eltec/de.txt.gz", "en-de.tsv.gz"),
    "fr": ("lines:en={0}/mono/eltec/en.txt.gz,fr={0}/mono/eltec/fr.txt.gz", "en-fr.tsv.gz"),
    "ru": ("tsv:en={0}/multiway/libreoffice_help/en.tsv.gz,ru={0}/multiway/libreoffice_help/ru.tsv.gz", "en-ru.tsv"),
}
JOINT, PREALIGN = "recipes/joint_pair_tiny.gin", "recipes/prealign_pair_tiny.gin"
HELD_PAIR, PLUS_PAIR = "recipes/held_pair_tiny.gin", "recipes/prealign_plus_pair_tiny.gin"
# As many concepts as in the clone study, and room for their longer words.
STAGE1 = ("align_words/WordFeed.concepts=128", "align_words/Stream.batch_size=16")
PAIR_ARMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "J": ((JOINT,), ()),
    "JC": ((JOINT, SWITCHING), ()),
    "RC": ((PREALIGN,), (*STAGE1, SHUFFLED)),
    "PC": ((PREALIGN,), STAGE1),
    "K": ((PREALIGN, "parts/kept_words.gin"), (*STAGE1, "pretrain_words/Stream.batch_size=8")),
    "HELD": ((HELD_PAIR,), ()),
    "HELD-random": ((HELD_PAIR,), (SHUFFLED,)),
    "J-vectors": ((JOINT, VECTORS), ()),
    "PC-vectors": ((PREALIGN, VECTORS), STAGE1),
    "HELD-vectors": ((HELD_PAIR, VECTORS), ()),
    "HELD-tied-rows": ((HELD_PAIR, TIED_ROWS), ()),
    "PLUS": ((PLUS_PAIR,), STAGE1),
    "PLUS-random": ((PLUS_PAIR,), (*STAGE1, SHUFFLED)),
    "J-tied-rows": ((JOINT, TIED_ROWS), ()),
    "J-tied-rows-random": ((JOINT, TIED_ROWS), (SHUFFLED,)),
    "JC-tied-rows": ((JOINT, SWITCHING, TIED_ROWS), ()),
}
SEEDS = {"HELD-tied-rows": (1,), "HELD-vectors": (1, 2)}
# The arms of the pair whose dictionary has only 150 concepts for training.
FEW_WORDS = ("J", "JC", "RC", "PC", "K", "J-vectors", "J-tied-rows", "PLUS", "PLUS-random")


def _pair(arm: str, language: str) -> Experiment:
    """An arm on English and another language."""
    files, bindings = PAIR_ARMS[arm]
    text, dictionary = TEXTS[language]
    rates = f'{{"en": 0.86, "{language}": 0.10, "facts": 0.04}}'
    options = [f'TEXT="{text.format(DATA)}"', f'LANGUAGES=("en", "{language}")', f"RATES={rates}"]
    options += [f'DICTIONARY=("{DATA}/dict/freedict/{dictionary}",)', "Lexicon.size=2000"]
    return Experiment(
        "real", f"{arm}-en-{language}", files, (*bindings, *options), SEEDS.get(arm, (1, 2, 3)), data=True
    )


REAL = [_pair(arm, language) for language in TEXTS for arm in (FEW_WORDS if language == "ru" else PAIR_ARMS)]

# Ways to read the same multi-way text, at equal tokens: 250 steps of 3 rows x 512 tokens.
MULTIWAY_LANGUAGES = ("en", "cs", "de", "es", "fr", "hu", "it", "ru")
MULTIWAY_TASKS = tuple(
    "tsv:" + ",".join(f"{language}={DATA}/multiway/{corpus}/{language}.tsv.gz" for language in MULTIWAY_LANGUAGES)
    for corpus in ("libreoffice_help", "gnome_docs", "wesnoth")
)
MULTIWAY_ARMS: dict[str, tuple[str, ...]] = {
    "windows": (),
    **{f"lines{count}": (f"LINES={count}",) for count in (2, 4, 8)},
    **{f"lines{count}-shuffled": (f"LINES={count}", "GroupFeed.shuffled=True") for count in (2, 8)},
    "interleaved": (),
    "groups": (),
    "pairs": (),
}
MULTIWAY = [
    Experiment(
        "multiway",
        f"MW-{arm}",
        (f"study/gin/multiway_{arm.partition('-')[0].rstrip('248')}.gin",),
        (f"TASKS={MULTIWAY_TASKS}", *bindings),
        data=True,
    )
    for arm, bindings in MULTIWAY_ARMS.items()
]

# Language imbalance, without dictionaries: English and clones of it at several rates, and English alone for parts of the
# steps, from which token efficiency is measured. Two sizes of model.
IMBALANCE_GIN = "study/gin/imbalance.gin"
SIZES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": ((IMBALANCE_GIN,), ()),
    "-1m": ((IMBALANCE_GIN, "models/llama_1m.gin"), ()),
}
# Per cent of the steps.
ALONE = {5: 62, 10: 125, 25: 312, 50: 625, 100: 1250}


def _rates(english: float, clones: int = 1) -> str:
    """Rates of English, and equal ones of its clones, which together have the rest."""
    names = ["en", "en_clone", *(f"en_clone{k}" for k in range(2, clones + 1))]
    shares = [english, *[round((1 - english) / clones, 6)] * clones]
    return "{" + ", ".join(f'"{name}": {share}' for name, share in zip(names, shares, strict=True)) + "}"


def _halves(first: float, second: float) -> tuple[str, ...]:
    """Bindings for one share of English in the first half of the steps and another one in the second half."""
    return ("Mixture.rates=@Piecewise()", f"Piecewise.points=((0, {_rates(first)}), (625, {_rates(second)}))")


IMBALANCED: dict[str, tuple[str, ...]] = {
    f"alone-{share}": (f"Mixture.rates={_rates(1.0)}", f"PRETRAIN_STEPS={steps}") for share, steps in ALONE.items()
}
IMBALANCED |= {
    "50-50": (f"Mixture.rates={_rates(0.5)}",),
    "90-10": (f"Mixture.rates={_rates(0.9)}",),
    "0.1-then-0.9": _halves(0.9, 0.1),
    "sequential": _halves(1.0, 0.0),
}
IMBALANCED |= {
    f"{name}-anchors{share}": (*IMBALANCED[name], f"Vocabulary.anchors={share}")
    for name in ("50-50", "90-10")
    for share in (0.1, 0.5)
}
IMBALANCED |= {
    f"10-languages-{name}": (f"Mixture.rates={_rates(english, 9)}", "Vocabulary.clones=9")
    for name, english in (("uniform", 0.1), ("half", 0.5))
}
IMBALANCE = [
    Experiment("imbalance", f"{name}{size}", files, (*bindings, *more))
    for size, (files, bindings) in SIZES.items()
    for name, more in IMBALANCED.items()
    if (name, size) != ("10-languages-half", "-1m")
]

# The loop closed: help pages with dictionaries that `python -m study dictionaries` makes of their own training text, by
# aligner and language, beside FreeDict and beside none. Other manuals are the test of sentences. A third of the usual
# steps, and few probes.
MADE = "runs/study/dictionaries"
ALIGNED = MADE + "/{0}/en-{1}.tsv"
HELP = f"tsv:en={DATA}/multiway/libreoffice_help/en.tsv.gz,{{0}}={DATA}/multiway/libreoffice_help/{{0}}.tsv.gz"
MANUALS = f"{DATA}/multiway/gnome_docs/{{0}}.tsv.gz"
LOOP_DICTIONARIES = {
    language: {**others, **{aligner: ALIGNED.format(aligner, language) for aligner in ("ibm1", "e5")}}
    for language, others in (("de", {"freedict": f"{DATA}/dict/freedict/en-de.tsv.gz"}), ("eu", {}))
}
SHORT = ("PROBES=[@Perplexity(), @WordRetrieval(), @SentenceRetrieval(), @Knowledge()]",)
SHORT_STAGES = (*SHORT, *STAGE1, "align/Stage.probes=()", "ALIGN_STEPS=50", "PRETRAIN_STEPS=200")
LOOP_ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "J": (JOINT, (*SHORT, "PRETRAIN_STEPS=250")),
    "PC": (PREALIGN, SHORT_STAGES),
    "PLUS": (PLUS_PAIR, SHORT_STAGES),
    "PLUS-random": (PLUS_PAIR, (*SHORT_STAGES, SHUFFLED)),
}
# Arms without a right dictionary, and which one of a language they read.
ONE_DICTIONARY = {"J": 0, "PLUS-random": -1}


def _loop(arm: str, dictionary: str, language: str) -> Experiment:
    """An arm on help pages with one of the dictionaries. J reads one for its facts and probes only."""
    file, bindings = LOOP_ARMS[arm]
    rates = f'{{"en": 0.86, "{language}": 0.10, "facts": 0.04}}'
    options = [f'TEXT="{HELP.format(language)}"', f'LANGUAGES=("en", "{language}")', f"RATES={rates}"]
    options += [f'DICTIONARY=("{LOOP_DICTIONARIES[language][dictionary]}",)', "Lexicon.size=2000"]
    options += [f'SENTENCES={{"en": "{MANUALS.format("en")}", "{language}": "{MANUALS.format(language)}"}}']
    name = arm if arm in ONE_DICTIONARY else f"{arm}-{dictionary}"
    return Experiment("loop", f"{name}-help-{language}", (file,), (*bindings, *options), data=True)


LOOP = [
    _loop(arm, dictionary, language)
    for language, found in LOOP_DICTIONARIES.items()
    for arm in LOOP_ARMS
    for dictionary in ([list(found)[ONE_DICTIONARY[arm]]] if arm in ONE_DICTIONARY else found)
]

EXPERIMENTS = [*CLONE, *BASELINES, *INIT, *SEARCH, *DICTIONARY, *CURVES, *REAL, *MULTIWAY, *IMBALANCE, *LOOP]


def select(words: Sequence[str]) -> list[Experiment]:
    """The experiments whose question or name matches any of the words ("K-*"); all of them without words."""
    return [
        one
        for one in EXPERIMENTS
        if not words or any(fnmatch.fnmatchcase(name, word) for word in words for name in (one.question, one.name))
    ]
