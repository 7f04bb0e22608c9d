"""Compiles the large recipes for TPU slices that are not here and writes one table: docs/scale.md.

    python benchmarks/compile_table.py --output=report/compile [--only=WORDS]

Every program is one `xalign compile` (minutes each on two cores); what is in the output folder already is not compiled
again. `--only` takes the programs whose name holds the words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

GIB = 2.0**30
PAIR = ['TEXT="x"', 'LANGUAGES=("en","de")', 'RATES={"en":0.9,"de":0.1}', 'DICTIONARY=("x",)']
XLMR = ['TASKS=("x",)', 'VOCABULARY="xlmr/"', "Vocabulary.rows=250112"]


class Recipe(NamedTuple):
    """A recipe: its file, bindings, and the fsdp axis that leaves 128 or more of its width on a chip."""

    file: str
    bindings: list[str]
    fsdp: int


def infoxlm(size: str, rows: int, fsdp: int) -> Recipe:
    """InfoXLM with that global batch: as many rows of MMLM as of TLM, a quarter of XlCo."""
    batch = [f"MLM_ROWS={rows}", f"TLM_ROWS={rows}", f"XLCO_ROWS={rows // 4}"]
    parts = [f"Runtime.accumulate={rows // 2048}"] if rows > 2048 else []
    return Recipe(f"recipes/infoxlm_{size}.gin", XLMR + batch + parts, fsdp)


RECIPES = {
    "prealign_1_3b": Recipe("recipes/prealign_1_3b.gin", PAIR, 16),
    "infoxlm_base-2048": infoxlm("base", 2048, 4),
    "infoxlm_base-16384": infoxlm("base", 16384, 4),
    "infoxlm_large-2048": infoxlm("large", 2048, 8),
    "infoxlm_large-16384": infoxlm("large", 16384, 8),
}
MACHINES = {"v5e:16x16": 1, "v5p:4x4x8": 1, "v6e:16x16": 1, "v5e:16x16 x 2": 2}
HEADER = (
    "| program | machine | mesh | memory GiB | in the layer loop, MB a chip sends | elsewhere | between slices "
    "| compute, memory, links, network ms | bound by |\n|---|---|---|---|---|---|---|---|---|"
)


def compiled(name: str, machine: str, folder: Path) -> list[dict]:
    """The report of a recipe's stages, compiled unless it is there."""
    file = folder / f"{name} {machine}.json".replace(" ", "_").replace(":", "-")
    if not file.exists():
        recipe, slices = RECIPES[name], MACHINES[machine]
        bindings = [*recipe.bindings, "Runtime.remat=True", f"Runtime.mesh=(-1,{recipe.fsdp},1)"]
        if slices > 1 and name.startswith("prealign"):  # stage 1 has 256 rows, two slices 512 chips
            bindings += [f"{stream}/Stream.rows=512" for stream in ("align_words", "align_lm")]
        command = [sys.executable, "-m", "xalign_jax.cli", "compile", f"--gin_file={recipe.file}", f"--output={file}"]
        command += [f"--topology={machine.split()[0]}", f"--num_slices={slices}"]
        subprocess.run([*command, *(f"--gin.{binding}" for binding in bindings)], check=False)
    return json.loads(file.read_text()) if file.exists() else []


def row(name: str, machine: str, found: dict) -> str:
    """A line of the table."""
    mesh = " x ".join(str(size) for size in found["mesh"].values())
    memory = f"{found['memory']['total'] / GIB:.1f} of {found['memory']['chip'] / GIB:.0f}"
    cells = [f"{name} {found['stage']}", machine, mesh, memory]
    if "collectives" in found:
        places = (("layers", "links"), ("elsewhere", "links"), (None, "network"))
        cells += ["; ".join(_sent(found, where, over)) or "none" for where, over in places]
        cells.append(", ".join(f"{1000 * found['seconds'][n]:.0f}" for n in ("compute", "memory", "links", "network")))
        cells.append(found["bound"])
    return "| " + " | ".join(cells) + " |"


def _sent(found: dict, where: str | None, over: str) -> list[str]:
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
    for machine in MACHINES:
        for name in RECIPES:
            if options.only in f"{name} {machine}":
                lines += [row(name, machine, found) for found in compiled(name, machine, options.output)]
    (options.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
