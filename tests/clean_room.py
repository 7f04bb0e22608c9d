"""Does README.md from top to bottom where nothing is installed: `python tests/clean_room.py [--models=DIR] [--steps=N]`.

Every command and every block of Python runs in README's order and as it is printed, with HOME and the current folder
empty and no variable of this shell but those of pip. What README shows is compared with what came out. Printed at the end:
seconds, CPU seconds and exit code of each step, and the size of the environment.

    --wheel          install a wheel that is built first, in a folder that holds nothing but constraints.txt; without it,
                     work in a copy of the files that git knows, as README does
    --python=FILE    takes the place of python3.11
    --models=DIR     holds e5-small/ and smollm2-135m/; without it, steps that read them are left out
    --steps=N        train N steps a run, which takes minutes; README's figures are then not compared
    --only=N         the first N steps alone
    --room=DIR       a folder that stays afterwards; where it has an installation, go on with it

README's files of one's own (a.en, english.txt and others) are messages of Home Assistant, which the extra `demo` installs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from doc_blocks import ROOT, blocks, spelt_out

sys.path.insert(0, str(ROOT / "benchmarks"))
import children

README = ROOT / "README.md"
MODELS = {"e5-small": "e5-small", "smollm2": "smollm2-135m"}  # name in README: name in --models
TEXTS = ("english.txt", "german.txt.gz", "a.en", "a.de", "test.en", "test.de")
# Columns of README's table of `make demo`: probe, metric, what else a row of results.json has, and the largest difference.
TABLE = (
    ("perplexity", "perplexity", {"language": "en"}, 0.10),
    ("perplexity", "perplexity", {"language": "en_clone"}, 0.10),
    ("word_retrieval", "accuracy", {"level": 2, "split": "dictionary"}, 0.10),
    ("knowledge", "accuracy", {"language": "en_clone"}, 0.10),
)
MESSAGES = """
import json, pathlib, hass_frontend

def strings(value, path=()):
    for key, inside in value.items():
        yield from strings(inside, (*path, key)) if isinstance(inside, dict) else [((*path, key), inside)]

folder = pathlib.Path(hass_frontend.where(), "static", "translations")
english, german = ({}, {})
for language, found in (("en", english), ("de", german)):
    for file in sorted(folder.rglob(f"{language}-*.json")):
        found |= {(file.parent.name, *path): " ".join(text.split()) for path, text in strings(json.loads(file.read_text()))}
for key, text in english.items():
    if text and german.get(key):
        print(text, german[key], sep="\\t")
"""


class Step(NamedTuple):
    """A command or a block of Python as README prints it, and what became of it. `code` None = left out."""

    text: str
    code: int | None = None
    seconds: float = 0.0
    cpu: float = 0.0
    said: str = ""


class Room:
    """An empty folder with a home of its own, in which one shell's worth of steps runs."""

    def __init__(self, folder: Path, replace: Mapping[str, str]) -> None:
        self.folder = folder
        self.replace = dict(replace)
        self.home = folder.parent / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.environment = children.fresh_environment(self.home)

    @property
    def size(self) -> float:
        """The size of the environment, in MB."""
        return sum(file.lstat().st_size for file in (self.folder / ".venv").rglob("*")) / 1e6

    def run(self, text: str, python: bool = False) -> Step:
        """One command, or one block of Python."""
        command = text
        for old, new in self.replace.items():
            command = command.replace(old, new)
        if python:
            (self.folder / "block.py").write_text(text, encoding="utf-8")
            command = "python block.py"
        child = children.run(["bash", "-c", command], self.folder, self.environment)
        # `. .venv/bin/activate` lasts for a shell; here each command has one of its own.
        if "activate" in text:
            self.environment["PATH"] = f"{self.folder}/.venv/bin:{self.environment['PATH']}"
        return Step(text, child.code, child.wall, child.cpu, (child.printed + child.said).strip())


def steps() -> Iterator[tuple[str, bool]]:
    """(text, is it Python) of everything in README that can be run, in order."""
    text = README.read_text(encoding="utf-8")
    found = []
    for block in blocks(README):
        at = text.index(block.text)
        if block.kind == "python":
            found.append((at, block.text, True))
        found += [
            (at + number, one, False) for number, one in enumerate(c for b in block.commands for c in spelt_out(b))
        ]
    prose = re.finditer(r"(?<!`)`(xalign (?:[a-z]+ --[^`]+|list \w+))`", text)
    found += [(one.start(), one[1].replace("\n", " "), False) for one in prose]
    yield from ((one, python) for _, one, python in sorted(found, key=lambda item: item[0]))


def prepare(folder: Path, wheel: bool) -> str:
    """Fill the folder with what README expects; returns what stands for `-e '.`."""
    copy = folder.parent / "build" if wheel else folder
    if (folder / ".venv").is_dir():
        return ""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    if not wheel:
        return "-e '."
    folder.mkdir()
    shutil.copy(ROOT / "constraints.txt", folder)
    build = "import setuptools.build_meta as b; print(b.build_wheel('dist'))"
    made = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=True)
    return f"'{copy}/dist/{made.stdout.splitlines()[-1]}"


def write_texts(room: Room) -> None:
    """The files of one's own that README names."""
    pairs = [line.split("\t") for line in room.run(MESSAGES, python=True).said.splitlines() if line.count("\t") == 1]
    test, train = pairs[::10], [pair for number, pair in enumerate(pairs) if number % 10]
    for name in TEXTS:
        side = 1 if name.startswith("german") or name.endswith(".de") else 0
        chosen = test[:200] if name.startswith("test") else train[:1500] if name.startswith("a.") else train
        text = "".join(f"{pair[side]}\n" for pair in chosen)
        packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (room.folder / name).write_bytes(packed)


def differences(room: Room, done: list[Step], steps: int | None) -> Iterator[str]:
    """What README shows and the room does not."""
    expected = {
        "xalign compare": "report/table.md",
        "xalign evaluate --model=": "report/e5/report.html",
        "xalign align": "links.pharaoh",
        "xalign export": "hf/config.json",
        "xalign import": "runs/smollm2/model.gin",
        "xalign train --model_dir=runs/en_de": "runs/en_de/report.html",
    }
    for start, file in expected.items():
        ran = [step for step in done if " ".join(step.text.split()).startswith(start) and step.code == 0]
        if ran and not (room.folder / file).is_file():
            yield f"{start}: no file {file}"
    shown = float(re.search(r"The environment takes about .*? ([\d.]+) GB", README.read_text(encoding="utf-8"))[1])
    if abs(room.size / 1000 - shown) > 0.1 * shown:
        yield f"the environment has {room.size:,.0f} MB and README says {shown} GB"
    links = room.folder / "links.pharaoh"
    if links.is_file() and _lines(links) != _lines(room.folder / "a.en"):
        yield f"links.pharaoh has {_lines(links)} lines and a.en {_lines(room.folder / 'a.en')}"
    if steps is None and all(
        (room.folder / "runs" / name / "results.json").is_file() for name in ("joint", "prealign")
    ):
        yield from _table(room)


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _table(room: Room) -> Iterator[str]:
    """Figures of README's table of the demo that the runs do not repeat. The tolerance is relative above 1."""
    text = README.read_text(encoding="utf-8")
    for row, name in (("joint training", "joint"), ("PreAlign", "prealign")):
        shown = [float(cell) for cell in re.search(rf"^\| {row} \| ([\d. |]+) \|$", text, re.MULTILINE)[1].split(" | ")]
        rows = json.loads((room.folder / "runs" / name / "results.json").read_text(encoding="utf-8"))
        for figure, (probe, metric, where, tolerance) in zip(shown, TABLE, strict=True):
            want = where | {"probe": probe, "metric": metric, "stage": "pretrain", "control": None}
            (found,) = [one["value"] for one in rows if all(one.get(key) == value for key, value in want.items())]
            print(f"  {name}: {probe} {where}: README {figure:g}, here {found:.4g}")
            if abs(found - figure) > tolerance * max(1.0, figure):
                yield f"{name}: {probe} {where} is {found:.4g} and README shows {figure:g}"


def _without(text: str, models: Path | None) -> str:
    """Why a step is left out; "" = it is not."""
    if text.startswith("xalign compare runs/a "):
        return "an example of form"
    missing = [name for name in MODELS if f"{name}/" in text and models is None]
    return f"no --models, so no {missing[0]}" if missing else ""


def _fewer(text: str, steps: int | None) -> str:
    """The options that make a command train `steps` steps; "" for other commands."""
    if not steps or not text.startswith("xalign train"):
        return ""
    return f" --gin.PRETRAIN_STEPS={steps}" + (f" --gin.ALIGN_STEPS={steps}" if "prealign" in text else "")


def walk(options: argparse.Namespace, room: Room) -> list[Step]:
    """Run the steps, and say after each how it went."""
    done: list[Step] = []
    installed = (room.folder / ".venv").is_dir()
    if installed:
        room.environment["PATH"] = f"{room.folder}/.venv/bin:{room.environment['PATH']}"
    for text, python in list(steps())[2 if installed else 0 : options.only]:
        why = _without(text, options.models)
        step = Step(text, said=why) if why else room.run(text + _fewer(text, options.steps), python)
        done.append(step)
        short = " ".join(text.split())
        outcome = "left out: " + why if step.code is None else f"exit {step.code}"
        print(f"{step.seconds:7.1f} s {step.cpu:7.1f} CPU s  {outcome}  {short[:110]}", flush=True)
        if step.code:
            print("\n".join(f"    {line}" for line in step.said.splitlines()[-5:]), flush=True)
        if text.startswith("pip install") and step.code == 0:
            print(f"  the environment has {room.size:,.0f} MB", flush=True)
            write_texts(room)
            for name, folder in MODELS.items():
                if options.models:
                    (room.folder / name).symlink_to((options.models / folder).resolve())
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", type=int)
    parser.add_argument("--room", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clean-room-") as folder:
        place = (options.room or Path(folder)).resolve() / "room"
        place.parent.mkdir(parents=True, exist_ok=True)
        source = prepare(place, options.wheel)
        room = Room(
            place, {"python3.11 ": f"{options.python} ", "-e '.": source}
        )  # the first two steps alone have these
        done = walk(options, room)
        failed = [f"exit {step.code}: {' '.join(step.text.split())}" for step in done if step.code]
        wrong = [*failed, *differences(room, done, options.steps)]
    print("\n".join(wrong) or "README holds")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
