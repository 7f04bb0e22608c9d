"""A new language in an hour: the data of docs/howto/new_language.md, and retrieval before and after.

    python benchmarks/new_language.py pairs DATA OUTPUT                 # pairs of sentences, for `xalign align`
    xalign align --method=ibm1 --source=OUTPUT/align.en --target=OUTPUT/align.eu --output=OUTPUT/links \
        --dictionary=OUTPUT/en-eu.tsv
    python benchmarks/new_language.py extra DATA OUTPUT                 # short pairs and texts of other languages
    python benchmarks/new_language.py phrases DATA OUTPUT               # short phrases of the aligner's links (optional)
    python benchmarks/new_language.py command OUTPUT                    # the options of `xalign train`
    python benchmarks/new_language.py measure DATA MODEL [STEP [START]] # retrieval on Tatoeba and NTREX

With START, the model directory from which MODEL started, the average of both models' parameters is measured.

DATA holds the folders multiway, dict and retrieval. Nothing of `retrieval`, of `multiway/ntrex` or of `tasks` is trained
on. `pairs DATA OUTPUT shuffled` writes pairs whose sides do not belong together.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CORPORA = ("libreoffice_help", "gnome_docs")
OTHERS = ("de", "fr", "es", "tr", "ru", "hu", "id")  # of wesnoth: they hold the encoder where it is
# The rates of the recorded run.
RATES = {"eu": 0.5, "eu_extra": 0.2, "same": 0.06, "es": 0.04, "tr": 0.04}
RATES |= {"de": 0.03, "fr": 0.03, "ru": 0.03, "id": 0.03, "hu": 0.02, "hi": 0.02}
# Words that one word of another language rarely stands for.
GRAMMAR = (
    "the a an of to in on at by for with from as that this it its is are was were be been has have had do does did will "
    "would can could may might must should i you he she we they me him her us them my his our their no if so than then "
    "there what which who how when where select click"
)
ARTICLES = ("the", "a", "an")


def read(path: Path) -> dict[str, str]:
    """Id -> text of a file of id<TAB>text, which may be compressed as path + ".gz"."""
    return dict(line.split("\t", 1) for line in lines(path) if "\t" in line)


def lines(path: Path) -> list[str]:
    """The lines of a file, which may be compressed as path + ".gz"."""
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines()
    return gzip.open(f"{path}.gz", "rt", encoding="utf-8").read().splitlines()


def write(output: Path, name: str, sides: dict[str, dict[str, str]]) -> None:
    """OUTPUT/NAME.LANGUAGE.tsv for each side."""
    for language, texts in sides.items():
        rows = (f"{key}\t{text}\n" for key, text in texts.items())
        (output / f"{name}.{language}.tsv").write_text("".join(rows), encoding="utf-8")


def of_length(english: dict[str, str], least: int, most: int) -> list[str]:
    """The ids of the texts of `least` to `most` words."""
    return [key for key, text in english.items() if least <= len(text.split()) <= most]


def pairs(data: Path, output: Path, shuffled: bool) -> None:
    """Pairs of English and Basque sentences of up to 24 words, and all of them for the aligner."""
    output.mkdir(parents=True, exist_ok=True)
    both: list[tuple[str, str]] = []
    for corpus in CORPORA:
        english, basque = (read(data / "multiway" / corpus / f"{language}.tsv") for language in ("en", "eu"))
        shared = {key: text for key, text in english.items() if key in basque and basque[key] != text}
        both += [(text.replace("\t", " "), basque[key].replace("\t", " ")) for key, text in shared.items()]
        kept = [key for key in of_length(shared, 2, 24) if len(basque[key]) < 170]
        right = [basque[key] for key in kept]
        if shuffled:
            random.Random(0).shuffle(right)
        write(output, corpus, {"en": {key: english[key] for key in kept}, "eu": dict(zip(kept, right, strict=True))})
    for number, language in enumerate(("en", "eu")):
        (output / f"align.{language}").write_text("".join(f"{pair[number]}\n" for pair in both), encoding="utf-8")


def dictionary(output: Path, least: float) -> dict[str, list[tuple[str, int]]]:
    """English word -> its Basque words and their counts, from the aligner."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in lines(output / "en-eu.tsv"):
        english, basque, count, share = line.split("\t")
        if int(count) >= 3 and float(share) >= least and english.lower() != basque.lower():
            found[english.lower()].append((basque.lower(), int(count)))
    return found


def switched(text: str, words: dict[str, list[tuple[str, int]]], draw: random.Random) -> tuple[str, float]:
    """A sentence with Basque words in place of English ones, most articles left out, and the share that was replaced."""
    found, replaced = [], 0
    tokens = text.split()
    for token in tokens:
        whole = re.fullmatch(r"(\W*)([\w'-]+)(\W*)", token)
        before, word, after = whole.groups() if whole else ("", "", token)
        if word.lower() in ARTICLES and draw.random() < 0.7:
            found.append(after)
        elif word.lower() in words and word.lower() not in GRAMMAR.split() and draw.random() < 0.85:
            choice = draw.choices(*zip(*words[word.lower()], strict=True))[0]
            found.append(before + (choice.capitalize() if word[:1].isupper() else choice) + after)
            replaced += 1
        else:
            found.append(token)
    return " ".join(filter(None, found)), replaced / max(1, len(tokens))


def extra(data: Path, output: Path) -> None:
    """Names, dictionary words and switched everyday sentences; and texts of other languages with English."""
    names = [line.split("\t") for line in lines(data / "dict" / "cldr_names" / "en-eu.tsv")]
    short = {f"n{i}": (a, b) for i, (a, b) in enumerate(names) if "(" not in a and a != b}
    sure = [(a, b) for a, found in dictionary(output, 0.5).items() for b, _ in found if len(a) > 2]
    short |= {f"d{i}": pair for i, pair in enumerate(sure)}
    words, draw = dictionary(output, 0.2), random.Random(0)
    words |= {a.lower(): [(b, 1)] for a, b in short.values() if " " not in a + b and a[:1].isupper()}
    everyday = {"w": read(data / "multiway/wesnoth/en.tsv"), "b": read(data / "multiway/bible_nt/en.tsv")}
    for source, texts in everyday.items():
        for key in of_length(texts, 4, 16):
            text, share = switched(texts[key], words, draw)
            if share >= 0.25:
                short[source + key] = texts[key], text
    write(output, "extra", {"en": {k: a for k, (a, _) in short.items()}, "eu": {k: b for k, (_, b) in short.items()}})
    english = everyday["w"]
    kept = of_length(english, 3, 24)
    sides = {"en": {key: english[key] for key in kept}, "same": {key: english[key] for key in kept}}
    for language in OTHERS:
        texts = read(data / "multiway" / "wesnoth" / f"{language}.tsv")
        sides[language] = {key: texts[key] for key in kept if key in texts and texts[key] != english[key]}
    write(output, "anchor", sides)
    english, hindi = (read(data / "multiway" / "libreoffice_help" / f"{language}.tsv") for language in ("en", "hi"))
    kept = [key for key in of_length(english, 3, 20) if key in hindi and hindi[key] != english[key]]
    write(output, "hindi", {"en": {key: english[key] for key in kept}, "hi": {key: hindi[key] for key in kept}})


def consistent(english: list[str], basque: list[str], links: list[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Phrases of 2 to 6 words whose links stay within both (Koehn, Och and Marcu 2003), most words with a link."""
    for first in range(len(english)):
        for last in range(first + 1, min(len(english), first + 6)):
            inside = [link for link in links if first <= link[0] <= last]
            if not {first, last} <= {link[0] for link in inside}:
                continue
            low, high = min(link[1] for link in inside), max(link[1] for link in inside)
            closed = not any(low <= b <= high and not first <= a <= last for a, b in links)
            if closed and high - low < 6 and len(inside) >= 0.6 * max(last - first + 1, high - low + 1):
                yield " ".join(english[first : last + 1]), " ".join(basque[low : high + 1])


def phrases(data: Path, output: Path) -> None:
    """Phrases of everyday words: the 5,000 most frequent ones of games and the Bible."""
    known = Counter(
        word.lower().strip(",.!?;:\"'")
        for corpus in ("wesnoth", "bible_nt")
        for text in read(data / "multiway" / corpus / "en.tsv").values()
        for word in text.split()
    )
    everyday = {word for word, _ in known.most_common(5000)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for english, basque, links in zip(
        *(lines(output / name) for name in ("align.en", "align.eu", "links")), strict=True
    ):
        pairs = [(int(a), int(b)) for a, _, b in (link.partition("-") for link in links.split())]
        for a, b in consistent(english.split(), basque.split(), pairs):
            plain = all(re.fullmatch(r"[a-z'I]+", word) and word.lower() in everyday for word in a.split())
            if plain and not re.search(r"[0-9()<>=_\[\]…:;\"]", b):
                counts[a][b.strip(",.")] += 1
    best = {f"p{number}": (a, found.most_common(1)[0][0]) for number, (a, found) in enumerate(counts.items())}
    write(output, "phrases", {"en": {k: a for k, (a, _) in best.items()}, "eu": {k: b for k, (_, b) in best.items()}})


def command(output: Path) -> str:
    """The options of `xalign train` with the recorded data, and with phrases if they were written."""
    rates = dict(RATES)
    tasks = [f"tsv:en={output}/{name}.en.tsv,eu={output}/{name}.eu.tsv" for name in CORPORA]
    tasks += [f"tsv:en={output}/extra.en.tsv,eu_extra={output}/extra.eu.tsv"]
    tasks += [f"tsv:en={output}/hindi.en.tsv,hi={output}/hindi.hi.tsv"]
    tasks += ["tsv:" + ",".join(f"{name}={output}/anchor.{name}.tsv" for name in ("en", "same", *OTHERS))]
    if (output / "phrases.eu.tsv").is_file():
        tasks += [f"tsv:en={output}/phrases.en.tsv,eu_phrases={output}/phrases.eu.tsv"]
        rates |= {"eu": 0.3, "eu_phrases": 0.2}
    return f"--gin.PAIRS='{json.dumps(tasks)}' --gin.RATES='{json.dumps(rates)}' --gin.PREFIX='\"query: \"'"


def hits(one: np.ndarray, other: np.ndarray) -> list[float]:
    """The share of rows whose nearest row of the other side has the same number, in both directions."""
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (one, other)]
    cosines, own = unit[0] @ unit[1].T, np.arange(len(one))
    return [round(float(np.mean(cosines.argmax(axis) == own)), 4) for axis in (1, 0)]


def encoder(model_dir: str, step: int | None, start: str | None) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to vectors; with `start`, of the average of both models' parameters."""
    import jax

    import xalign_jax as xa

    model = xa.load(model_dir, step=step, dtype="bfloat16")
    if start is not None:
        before = xa.load(start, dtype="bfloat16").model.params
        model.model = model.model.bind(jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, before, model.model.params))

    def vectors(texts: list[str]) -> np.ndarray:
        return model.encode([f"query: {text}" for text in texts], specials=True)

    return vectors


def measure(data: Path, model_dir: str, step: int | None, start: str | None) -> None:
    """Print retrieval of Tatoeba (400 lines and all) and NTREX (400 lines): into English, then from English."""
    vectors = encoder(model_dir, step, start)
    for name in ("eus", "deu", "fra", "hin", "swh"):
        folder = data / "retrieval" / "tatoeba"
        sides = [vectors(lines(folder / f"tatoeba.{name}-eng.{side}")) for side in (name, "eng")]
        print("tatoeba", name, *hits(*(side[:400] for side in sides)), "all", *hits(*sides), flush=True)
    ntrex = data / "multiway" / "ntrex"
    english = vectors(lines(ntrex / "eng.txt")[:400])
    for name in ("eus", "deu", "fra", "hin", "swa"):
        print("ntrex", name, *hits(vectors(lines(ntrex / f"{name}.txt")[:400]), english), flush=True)


def main() -> None:
    """Run one of the subcommands that the top of this file lists."""
    what, *arguments = sys.argv[1:]
    if what == "pairs":
        pairs(Path(arguments[0]), Path(arguments[1]), "shuffled" in arguments[2:])
    elif what == "extra":
        extra(Path(arguments[0]), Path(arguments[1]))
    elif what == "phrases":
        phrases(Path(arguments[0]), Path(arguments[1]))
    elif what == "command":
        print(command(Path(arguments[0])))
    else:
        step, start = [*arguments[2:], "", ""][:2]
        measure(Path(arguments[0]), arguments[1], int(step) if step else None, start or None)


if __name__ == "__main__":
    main()
