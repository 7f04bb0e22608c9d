"""A language with little parallel text: Gaelic (gd) and Upper Sorbian (hsb) in docs/howto/new_language.md.

    python benchmarks/small_language.py pairs DATA gd OUTPUT            # pairs, shuffled pairs, held-out pairs
    xalign align --method=ibm1 --source=OUTPUT/align.en --target=OUTPUT/align.gd --output=OUTPUT/links \
        --dictionary=OUTPUT/en-gd.tsv
    python benchmarks/small_language.py extra DATA gd OUTPUT            # dictionary words, and other languages
    python benchmarks/small_language.py command gd OUTPUT ARM           # the options of `xalign train`
    python benchmarks/small_language.py measure DATA gd OUTPUT MODEL [START]

ARM is `pairs`, `dictionary` or `shuffled`. DATA holds the folders multiway and retrieval. Held-out pairs are of the same
kind of text as those that are trained on; no English sentence of theirs is in any training pair. With START, the average
of both models' parameters is measured.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import new_language as whole

CORPORA = {"gd": "wesnoth", "hsb": "mozilla_www"}
HELD = {"gd": 400, "hsb": 300}
OTHERS = ("de", "fr", "es", "cs", "pl", "ru")  # of wesnoth: they keep the vectors of other languages
REST = {"same": 0.06, "de": 0.05, "fr": 0.04, "es": 0.04, "cs": 0.04, "pl": 0.04, "ru": 0.03}


def texts(data: Path, language: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Id -> English, id -> the language's text, of pairs whose sides differ; and the ids that are held out."""
    english, own = (whole.read(data / "multiway" / CORPORA[language] / f"{name}.tsv") for name in ("en", language))
    both = [key for key in english if key in own and own[key] != english[key]]
    times = Counter(text.lower() for text in english.values())
    once = [key for key in whole.of_length({k: english[k] for k in both}, 3, 24) if times[english[key].lower()] == 1]
    held = sorted(once, key=lambda key: hashlib.md5(key.encode()).hexdigest())[: HELD[language]]
    return {key: english[key] for key in both}, {key: own[key] for key in both}, held


def pairs(data: Path, language: str, output: Path) -> None:
    """Write held-out pairs, all others for the aligner, and those of up to 24 words, right and shuffled."""
    output.mkdir(parents=True, exist_ok=True)
    english, own, held = texts(data, language)
    train = [key for key in english if key not in set(held)]
    for name, side in (("en", english), (language, own)):
        (output / f"held.{name}").write_text("".join(f"{side[key]}\n" for key in held), encoding="utf-8")
        (output / f"align.{name}").write_text("".join(f"{side[key]}\n" for key in train), encoding="utf-8")
    kept = [key for key in whole.of_length({k: english[k] for k in train}, 1, 24) if len(own[key]) < 170]
    right = [own[key] for key in kept]
    for name in ("pairs", "shuffled"):
        whole.write(output, name, {"en": {k: english[k] for k in kept}, language: dict(zip(kept, right, strict=True))})
        random.Random(0).shuffle(right)


def extra(data: Path, language: str, output: Path) -> None:
    """Write dictionary words and English sentences with the language's words in them; and texts of other languages."""
    english, _, held = texts(data, language)
    hidden = {english[key].lower() for key in held}
    words: dict[str, list[tuple[str, int]]] = defaultdict(list)
    short: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(whole.lines(output / f"en-{language}.tsv")):
        a, b, count, share = line.lower().split("\t")
        if float(share) >= 0.2 and a != b:
            words[a].append((b, int(count)))
            if float(share) >= 0.5 and len(a) > 2:
                short[f"d{number}"] = a, b
    draw, games = random.Random(0), whole.read(data / "multiway/wesnoth/en.tsv")
    games = {key: text for key, text in games.items() if text.lower() not in hidden}
    for source, known in (("w", games), ("b", whole.read(data / "multiway/bible_nt/en.tsv"))):
        for key in whole.of_length(known, 4, 16):
            text, replaced = whole.switched(known[key], words, draw)
            if replaced >= 0.25:
                short[source + key] = known[key], text
    sides = zip(("en", language), zip(*short.values(), strict=True), strict=True)
    whole.write(output, "extra", {name: dict(zip(short, side, strict=True)) for name, side in sides})
    kept = whole.of_length(games, 3, 24)
    anchors = {"en": {key: games[key] for key in kept}, "same": {key: games[key] for key in kept}}
    for other in OTHERS:
        found = whole.read(data / "multiway" / "wesnoth" / f"{other}.tsv")
        anchors[other] = {key: found[key] for key in kept if key in found and found[key] != games[key]}
    whole.write(output, "anchor", anchors)


def command(language: str, output: Path, arm: str) -> str:
    """The options of `xalign train` for an arm."""
    main = "shuffled" if arm == "shuffled" else "pairs"
    tasks = [f"tsv:en={output}/{main}.en.tsv,{language}={output}/{main}.{language}.tsv"]
    tasks += ["tsv:" + ",".join(f"{name}={output}/anchor.{name}.tsv" for name in ("en", "same", *OTHERS))]
    rates = {language: 0.7} | REST
    if arm == "dictionary":
        tasks += [f"tsv:en={output}/extra.en.tsv,extra={output}/extra.{language}.tsv"]
        rates |= {language: 0.5, "extra": 0.2}
    return f"--gin.PAIRS='{json.dumps(tasks)}' --gin.RATES='{json.dumps(rates)}' --gin.PREFIX='\"query: \"'"


def measure(data: Path, language: str, output: Path, model: str, start: str | None) -> None:
    """Print retrieval of the held-out pairs and of three other languages: into English, then from English."""
    vectors = whole.encoder(model, None, start)
    sides = {language: (output / f"held.{language}", output / "held.en")}
    for other in ("deu", "hin", "swh"):
        folder = data / "retrieval" / "tatoeba"
        sides[other] = folder / f"tatoeba.{other}-eng.{other}", folder / f"tatoeba.{other}-eng.eng"
    for name, files in sides.items():
        print(name, *whole.hits(*(vectors(whole.lines(file)[:400]) for file in files)), flush=True)


def main() -> None:
    """Run one of the subcommands that the top of this file lists."""
    what, *arguments = sys.argv[1:]
    if what == "command":
        print(command(arguments[0], Path(arguments[1]), arguments[2]))
        return
    data, language, output, *rest = arguments
    if what == "measure":
        measure(Path(data), language, Path(output), rest[0], rest[1] if rest[1:] else None)
    else:
        {"pairs": pairs, "extra": extra}[what](Path(data), language, Path(output))


if __name__ == "__main__":
    main()
