"""Compile the large recipes for TPU slices that are not here, and write one table: docs/scale.md.

    python benchmarks/compile_table.py --output=report/compile [--only=WORDS]

Every program is one `xalign compile`, which takes minutes on two cores. Programs that the output folder has already are
not compiled again. `--only` takes the programs whose names contain the words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

GIB = 2.0**30
# Recipes that read the user's text get names of files here. Nothing is read, because a step's shapes do not depend on
# text.
PAIR = ['TEXT="x"', 'LANGUAGES=("en","de")', 'RATES={"en":0.9,"de":0.1}', 'DICTIONARY=("x",)']
XLMR = ['TASKS=("x",)', 'VOCABULARY="xlmr/"', "Vocabulary.rows=250112"]


class Recipe(NamedTuple):
    """A recipe's file and bindings."""

    file: str
    bindings: list[str]


class Machine(NamedTuple):
    """A machine by the name that `xalign compile` has for it, and the runtime preset for it."""

    topology: str
    slices: int
    preset: str


def prealign(rows: int) -> Recipe:
    """PreAlign 1.3 B with this global batch in stage 2, and a quarter of it in stage 1."""
    stage_1 = [f"{stream}/Stream.batch_size={rows // 4}" for stream in ("align_words", "align_lm")]
    return Recipe("recipes/prealign_1_3b.gin", [*PAIR, *stage_1, f"ROWS={rows}", "Runtime.mesh=(-1,16,1)"])


def infoxlm(size: str, rows: int) -> Recipe:
    """InfoXLM with this many rows of MMLM and of TLM, and a quarter for XlCo. A chip has 128 of the width."""
    batch = [f"MLM_ROWS={rows}", f"TLM_ROWS={rows}", f"XLCO_ROWS={rows // 4}"]
    mesh = f"Runtime.mesh=(-1,{ {'base': 4, 'large': 8}[size] },1)"
    return Recipe(f"recipes/infoxlm_{size}.gin", [*XLMR, *batch, mesh])


def programs(slices: int) -> dict[str, Recipe]:
    """The recipes for one pod or for two, by name."""
    found = {f"prealign_1_3b-{1024 * slices}": prealign(1024 * slices)}
    return found | {f"infoxlm_{s}-{rows}": infoxlm(s, rows) for s in ("base", "large") for rows in (2048, 16384)}


PODS = {
    "v5e:16x16": Machine("v5e:16x16", 1, "v5e_256"),
    "v5p:4x4x8": Machine("v5p:4x4x8", 1, "v5p_128"),
    "v6e:16x16": Machine("v6e:16x16", 1, "v6e_256"),
    "v5e:16x16 x 2": Machine("v5e:16x16", 2, "v5e_256x2"),
}
PROGRAMS = [(name, recipe, machine) for machine, pod in PODS.items() for name, recipe in programs(pod.slices).items()]
# Weak scaling, 16 to 512 chips of v5e: together with PreAlign on the pods above, the same number of rows per chip.
PARTS = {f"v5e:{side}x{side}": Machine(f"v5e:{side}x{side}", 1, "v5e_256") for side in (4, 8)}
for machine, chips in {"v5e:4x4": 16, "v5e:8x8": 64}.items():
    PROGRAMS.append((f"prealign_1_3b-{4 * chips}", prealign(4 * chips), machine))
HEADER = (
    "| program | machine | mesh | memory GiB | in the layer loop, MB a chip sends | elsewhere | between slices "
    "| compute, memory, links, network ms | bound by |\n|---|---|---|---|---|---|---|---|---|"
)


def compiled(name: str, recipe: Recipe, machine: str, folder: Path) -> list[dict]:
    """The report of a recipe's stages, compiled unless it exists."""
    file = folder / f"{name} {machine}.json".replace(" ", "_").replace(":", "-")
    if not file.exists():
        topology, slices, preset = (PODS | PARTS)[machine]
        files = [f"--gin_file={one}" for one in (recipe.file, f"runtimes/{preset}.gin")]
        command = [sys.executable, "-m", "xalign_jax.cli", "compile", *files, f"--output={file}"]
        command += [f"--topology={topology}", f"--num_slices={slices}"]
        subprocess.run([*command, *(f"--gin.{binding}" for binding in recipe.bindings)], check=False)
    return json.loads(file.read_text()) if file.exists() else []


def row(name: str, machine: str, found: dict) -> str:
    """A line of the table."""
    mesh = " x ".join(str(size) for size in found["mesh"].values())
    memory = f"{found['memory']['total'] / GIB:.1f} of {found['memory']['chip'] / GIB:.0f}"
    cells = [f"{name} {found['stage']}", machine, mesh, memory]
    if "collectives" in found:
        # Columns: inside the layer loop, elsewhere, and between slices.
        places = (("layers", "links"), ("elsewhere", "links"), (None, "network"))
        cells += ["; ".join(_sent(found, where, over)) or "none" for where, over in places]
        cells.append(", ".join(f"{1000 * found['seconds'][n]:.0f}" for n in ("compute", "memory", "links", "network")))
        cells.append(found["bound"])
    return "| " + " | ".join(cells) + " |"


def _sent(found: dict, where: str | None, over: str) -> list[str]:
    """Each kind of collective with the megabytes that a chip sends."""
    sums: dict[str, float] = {}
    for one in found["collectives"]:
        if one["over"] == over and where in (None, one["where"]):
            sums[one["kind"]] = sums.get(one["kind"], 0) + one["sent"] / 1e6
    return [f"{kind} {sent:,.0f}" for kind, sent in sums.items() if sent >= 0.5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for name, recipe, machine in PROGRAMS:
        if options.only in f"{name} {machine}":
            lines += [row(name, machine, found) for found in compiled(name, recipe, machine, options.output)]
    (options.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
