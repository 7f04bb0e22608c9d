"""The needs of a compiled step: as values, as a table, and as advice if they exceed a chip's memory."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from xalign_jax.recipe import Runtime
from xalign_jax.runtime.hardware import GIB
from xalign_jax.scale.collectives import Collective, collectives
from xalign_jax.scale.compile import Program
from xalign_jax.scale.hlo import Module
from xalign_jax.scale.products import product_flops
from xalign_jax.scale.topology import Machine
from xalign_jax.scale.traffic import traffic
from xalign_jax.training.stages import step_flops

_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def report(program: Program, machine: Machine, runtime: Runtime) -> dict[str, Any]:
    """Compile a step and report what it needs, as plain values in bytes and seconds.

    `memory` is per chip: arguments (the state and a batch), temporaries, program, and the total. `fits` is None if the
    chip's memory is not known. `flops` counts the model's products; `flops_run` counts the products that the program
    runs. `seconds` are lower bounds by published figures, for the products, main memory, the links between chips and
    the network between slices; None where no figure is published.
    """
    stage = program.stage
    found: dict[str, Any] = {
        "stage": stage.name,
        "steps": stage.steps,
        "topology": machine.name,
        "slices": len(machine.slices),
        "chips": machine.chips,
        "mesh": dict(program.mesh.shape),
        "remat": runtime.remat,
        "accumulate": runtime.accumulate,
        "rows": {stream.name: stream.batch_size for stream in stage.streams},
        "parameters": program.parameters,
        "flops": step_flops(stage, program.model),
    }
    try:
        # Optimising the machine code takes most of the time on CPUs, and code for simulated devices never runs.
        quick = {"xla_backend_optimization_level": 0} if machine.platform == "cpu" else None
        compiled = program.lowered.compile(compiler_options=quick)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"memory": {"total": _needed(str(error)), "chip": _chip_memory(machine), "fits": False}}
    # All figures come from the optimised program's text.
    module = Module(compiled.as_text())
    used = collectives(module, machine.devices, len(machine.slices))
    run = product_flops(module) * machine.devices
    seconds = _seconds(run, traffic(module), used, machine)
    known = {name: value for name, value in seconds.items() if value is not None}
    return found | {
        "memory": _memory(compiled.memory_analysis(), machine),
        "flops_run": run,
        "collectives": summary(used),
        "seconds": seconds,
        "bound": max(known, key=lambda name: known[name]) if known else None,
    }


def _chip_memory(machine: Machine) -> float | None:
    """Bytes of memory of a device: a chip may show as two devices."""
    return None if machine.chip is None else machine.chip.hbm * machine.chips / machine.devices


def _memory(found: Any, machine: Machine) -> dict[str, Any]:
    """The memory of a device by XLA's analysis of the program, in bytes."""
    # Results that take the place of donated arguments need no memory of their own.
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    total = arguments + temporaries + fresh + found.generated_code_size_in_bytes
    chip = _chip_memory(machine)
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "program": found.generated_code_size_in_bytes,
        "total": total,
        "chip": chip,
        "fits": None if chip is None else total <= chip,
    }


def _needed(error: str) -> float | None:
    """The bytes that XLA names when it runs out of memory."""
    # "Used 1.5G of ..." or "temporaries (1.5G ...", which depends on the compiler.
    found = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT])", error)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _seconds(flops: float, moved: float, used: Sequence[Collective], machine: Machine) -> dict[str, float | None]:
    """Lower bounds of a step's time. `flops`: of all devices; `moved`: bytes of a device's main memory."""
    if machine.chip is None:
        return dict.fromkeys(("compute", "memory", "links", "network"))
    chip, per_chip = machine.chip, machine.devices / machine.chips
    # Bytes that a device sends in a step, within and between slices.
    sent = {crosses: sum(one.times * one.sent for one in used if one.crosses == crosses) for crosses in (False, True)}
    return {
        "compute": flops / machine.chips / chip.flops,
        "memory": per_chip * moved / chip.hbm_rate,
        "links": per_chip * sent[False] / chip.link_rate,
        "network": per_chip * sent[True] / chip.network_rate,
    }


def summary(used: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives of one kind, place and reach together: how often a step runs them, bytes that a chip sends."""
    groups: dict[tuple, dict[str, Any]] = {}
    for one in used:
        # One line for each kind, place and reach.
        key = one.kind, one.windowed, one.layers, one.crosses
        group = groups.setdefault(
            key,
            {
                "kind": one.kind,
                "windowed": one.windowed,
                "where": "layers" if one.layers else "elsewhere",
                "over": "network" if one.crosses else "links",
                "count": 0,
                "bytes": 0,
                "sent": 0.0,
                "operations": {},
            },
        )
        group["count"] += one.times
        group["bytes"] += one.times * one.bytes
        group["sent"] += one.times * one.sent
        operations = group["operations"]
        operations[one.name] = operations.get(one.name, 0.0) + one.times * one.sent
    return sorted(groups.values(), key=lambda group: (group["where"] != "layers", -group["sent"]))


def table(found: dict[str, Any]) -> str:
    """A few lines for people."""
    mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items())
    slices = f"{found['slices']} x " if found["slices"] > 1 else ""
    rows = ", ".join(f"{name} {count}" for name, count in found["rows"].items())
    lines = [
        f"stage {found['stage']} on {slices}{found['topology']}: {found['chips']} chips, mesh {mesh}, rows {rows}",
        f"  parameters    {found['parameters']:,}",
        f"  FLOPs a step  {found['flops']:.3e} of the model{_run(found)}",
        f"  memory a chip {_memory_line(found['memory'])}",
    ]
    if "collectives" not in found:
        return "\n".join(lines)
    lines.append(f"  {'collectives':<21}{'where':<11}{'over':<9}{'times':>8}{'MB sent by a chip':>19}")
    for one in found["collectives"]:
        kind = one["kind"] + ("*" if one["windowed"] else "")
        lines.append(f"  {kind:<21}{one['where']:<11}{one['over']:<9}{one['count']:>8,}{one['sent'] / 1e6:>19,.1f}")
    if any(one["windowed"] for one in found["collectives"]):
        lines.append("  * cut into permutes between the parts of a matrix product, which hide it; each permute counts")
    times = [f"{name} {1000 * value:,.2f} ms" for name, value in found["seconds"].items() if value]
    bound = f"; bound by {found['bound']}" if found["bound"] else "no published figures for this device"
    lines.append(f"  roofline      {', '.join(times)}{bound}")
    return "\n".join(lines)


def estimate(found: Sequence[dict[str, Any]]) -> str | None:
    """One line with the time and chip-hours of all stages, at least; None if the time of a step is not known.

    A step takes at least as long as the largest of its four times. Compiling, probes, saves and restarts come on top.
    """
    if not all(one.get("bound") for one in found):
        return None
    hours = sum(one["steps"] * one["seconds"][one["bound"]] for one in found) / 3600
    steps = " + ".join(f"{one['steps']:,}" for one in found)
    return f"at least {hours:,.2f} hours for {steps} steps: {hours * found[0]['chips']:,.0f} chip-hours"


def _run(found: dict[str, Any]) -> str:
    return f", {found['flops_run']:.3e} run" if "flops_run" in found else ""


def _memory_line(memory: dict[str, Any]) -> str:
    parts = [
        f"{name} {memory[name] / GIB:.2f}"
        for name in ("arguments", "temporaries", "total")
        if memory.get(name) is not None
    ]
    chip = "" if memory["chip"] is None else f" of {memory['chip'] / GIB:.0f}"
    return f"{', '.join(parts)}{chip} GiB{'' if memory['fits'] is not False else ': does not fit'}"


def advice(found: dict[str, Any]) -> str:
    """One line on how to make a step fit that does not."""
    memory, chip = found["memory"], found["memory"]["chip"]
    needs = f"{memory['total'] / GIB:.1f} GiB" if memory["total"] else "more"
    says = f"stage {found['stage']} needs {needs} of the {chip / GIB:.0f} GiB a chip has"
    if memory.get("arguments", 0) > chip / 2:
        return f"{says}, most of it the state: spread it over more chips by a larger fsdp or tensor in Runtime.mesh"
    # The state fits, so the activations must shrink: recompute them, divide the batch, or have fewer rows.
    parts = found["accumulate"]
    factor = 2 ** math.ceil(math.log2(memory["total"] / chip)) if memory["total"] else 2
    rows = max(found["rows"], key=found["rows"].__getitem__)
    ways = found["mesh"]["data"] * found["mesh"]["fsdp"]
    tips = [] if found["remat"] else ["Runtime.remat = True"]
    if all(count % (ways * parts * 2) == 0 for count in found["rows"].values()):
        tips.append(f"Runtime.accumulate = {parts * factor}")
    tips += [f"fewer {rows}/Stream.batch_size", "more chips in Runtime.mesh"]
    return f"{says}: try {', '.join(tips[:-1])} or {tips[-1]}"
