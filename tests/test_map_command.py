"""`xalign map` on a tiny encoder: maps are written, evaluated by `ParallelText.maps`, and used by `xalign align`."""

from __future__ import annotations

import json
import random

import hf_folders
import pytest
from commands import xalign

from xalign_jax.alignment.fitting import METHODS
from xalign_jax.api import load
from xalign_jax.cli.commands import map_languages
from xalign_jax.evaluation.activations import POOLINGS
from xalign_jax.evaluation.language_maps import LanguageMaps

TEXTS = '--texts={"en": "en.txt", "de": "de.txt"}'
HELD = "--gin.SENTENCES={'en': 'held.en.txt', 'de': 'held.de.txt'}"
MAPS = "--gin.ParallelText.maps='maps'"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An encoder of 2 blocks, width 16; parallel lines whose second side is the first one in other letters; maps."""
    folder = tmp_path_factory.mktemp("map")
    hf_folders.write_encoder_of_two_blocks(folder / "hf", folder / "run")
    chance = random.Random(0)
    other = str.maketrans("abcdefgh", "stuvwxyz")
    for name, count in (("", 60), ("held.", 40)):
        lines = ["".join(chance.choices("abcdefgh ", k=20)).strip() + "a" for _ in range(count)]
        (folder / f"{name}en.txt").write_text("\n".join(lines) + "\n")
        (folder / f"{name}de.txt").write_text("\n".join(line.translate(other) for line in lines) + "\n")
    words = ["".join(chance.choices("abcdefgh", k=4)) for _ in range(40)]
    (folder / "en-de.tsv").write_text("".join(f"{word}\t{word.translate(other)}\n" for word in words))
    done = xalign("map", "--model=hf", TEXTS, "--level=1", "--output=maps", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "procrustes at level 1 (mean), fitted on 60 lines" in done.stdout and "centred" in done.stdout
    return folder


def test_a_mapped_model_is_evaluated_beside_the_model_and_centring(place):
    done = xalign("evaluate", "--model=hf", "--output=mapped", HELD, MAPS, "--gin.PROBE_LENGTH=64", cwd=place)
    assert done.returncode == 0, done.stderr
    plain = xalign("evaluate", "--model=hf", "--output=plain", HELD, "--gin.PROBE_LENGTH=64", cwd=place)
    assert plain.returncode == 0, plain.stderr
    rows, others = (json.loads((place / name / "results.json").read_text()) for name in ("mapped", "plain"))
    key = lambda row: (row["probe"], row["language"], row["level"])  # noqa: E731
    of = {c: {key(row): row["value"] for row in rows if row["control"] == c} for c in (None, "unmapped", "centred")}
    assert of["unmapped"] == {key(row): row["value"] for row in others if row["control"] is None}
    assert of[None].keys() == of["centred"].keys() == of["unmapped"].keys()
    found = [values["retrieval", "en->de", 1] for values in of.values()]
    assert found[0] > max(found[1:]) and of[None]["mexa", "en->de", 2] != of["unmapped"]["mexa", "en->de", 2]
    below = [values["retrieval", "en->de", 0] for values in of.values()]
    assert len(set(below)) == 1
    assert {"control: unmapped", "control: centred"} <= {
        line.split("|")[1].strip() for line in (place / "mapped" / "report.md").read_text().splitlines() if "|" in line
    }
    # A model directory of the same model takes the same maps; text of the fit is told from other text.
    own = HELD.replace("held.", "")
    again = xalign("evaluate", "--model=run", own, MAPS, "--gin.PROBE_LENGTH=64", cwd=place)
    assert again.returncode == 0 and "fitted on 60 of these 60 sentences" in again.stderr


def test_words_of_a_dictionary_are_mapped_and_links_read_maps(place):
    options = ("--dictionary=en-de.tsv", "--languages=en,de", "--level=0", "--method=ridge", "--output=words")
    done = xalign("map", "--model=run", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "fitted on 40 pairs of words" in done.stdout and LanguageMaps.load(place / "words").languages == ("en", "de")
    texts = ("--source=held.en.txt", "--target=held.de.txt", "--method=argmax", "--level=0")
    links = {}
    for name, maps in (("plain", ()), ("mapped", ("--maps=words", "--languages=en,de"))):
        found = xalign("align", "--model=hf", *texts, *maps, cwd=place)
        assert found.returncode == 0, found.stderr
        links[name] = found.stdout.splitlines()
    assert len(links["mapped"]) == 40 and links["mapped"] != links["plain"]
    model = load(place / "hf").mapped(place / "words")
    lines = [(place / f"held.{name}.txt").read_text().splitlines() for name in ("en", "de")]
    again = model.align(*lines, level=0, method="argmax", languages=("en", "de"))
    assert [" ".join(f"{i}-{j}" for i, j in found.links) for found in again] == links["mapped"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([TEXTS, "--level=3"], "level 3: the model has levels 0 (embeddings) to 2"),
        ([], "name one of --texts and --dictionary"),
        ([TEXTS, "--languages=en,de"], "--languages: belongs to --dictionary"),
        (["--dictionary=en-de.tsv"], "--languages=: two languages are needed, such as en,de"),
        (["--dictionary=none.tsv", "--languages=en,de"], "none.tsv: no such file"),
        (["--texts=en.txt"], "--texts=en.txt: not JSON"),
        (['--texts={"en": "en.txt"}'], "two languages at least"),
        (['--texts={"en": "en.txt", "en": "de.txt"}'], "two files are in 'en'"),
        (['--texts={"en": "en.txt", "de": "held.de.txt"}'], "the file ends here"),
        (['--texts={"en": "few.txt", "de": "few.txt"}'], "2 pairs for 16 dimensions"),
        (['--texts={"en": "en.txt", "de": "de.txt", "hi": "en.txt"}', "--method=vecmap"], "a pair of languages alone"),
        ([TEXTS, "--method=ridge", "--strength=-1"], "strength = -1.0; it must lie in [0, inf]"),
        ([TEXTS, "--method=trained"], "no map of level 1 was trained there (maps there: none)"),
        ([TEXTS, "--method=cca", "--dimensions=40"], "dimensions = 40"),
        ([TEXTS, "--output=en.txt"], "en.txt is a file"),
        ([TEXTS, "--gin.A=1"], "xalign map reads no gin files"),
    ],
)
def test_bad_input_is_one_line(place, options, said):
    (place / "few.txt").write_text("one\ntwo\n")
    done = xalign("map", "--model=hf", "--output=new", *options, cwd=place)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not done.stdout
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gin.ParallelText.maps='none'"], "none: no maps.json there"),
        ([HELD.replace("'de'", "'hi'")], "language 'hi': the maps are of en, de"),
        (["--gin.ParallelText.maps='cca'"], "so level 2 of a mapped model cannot be read"),
        (["--model=other"], "fitted at level 1 of 2, but the model has levels 0 to 3"),
    ],
)
def test_maps_that_do_not_suit_are_refused_before_anything_is_measured(place, options, said):
    if not (place / "cca").exists():
        made = xalign("map", "--model=hf", TEXTS, "--method=cca", "--level=1", "--output=cca", cwd=place)
        assert made.returncode == 0, made.stderr
        hf_folders.write("xlm-r", place / "other")
    length = "--gin.PROBE_LENGTH=64"
    done = xalign("evaluate", "--model=hf", "--output=bad", HELD, MAPS, length, *options, cwd=place)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_the_options_name_what_the_library_offers():
    """The command line lists the names again, because it must not load JAX to print its help."""
    assert map_languages._METHODS == METHODS and map_languages._POOLINGS == POOLINGS
