"""`xalign compile`: reports of tiny recipes for simulated devices, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import pytest
from commands import xalign

from xalign_jax import cli, config, target
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe, Runtime
from xalign_jax.runtime import hardware, sharding
from xalign_jax.scale import compile, report, topology

GB = 1e9


@pytest.fixture(autouse=True)
def devices():
    """JAX starts with the session's devices before a test asks for others."""
    assert jax.device_count() == 8


def tiny(*bindings: str) -> tuple:
    """Recipe and runtime: one stage of words and text, two blocks."""
    cli.register()
    return tuple(config.load(["recipes/align_clone_tiny.gin"], ["Llama.layers = 2", *bindings], (Recipe, Runtime)))


def test_a_recipe_for_simulated_devices(tmp_path: Path):
    """Every stage, without a line of text."""
    output = tmp_path / "report.json"
    options = ("--gin_file=recipes/prealign_clone_tiny.gin", "--gin.Llama.layers=2", "--topology=cpu:4")
    done = xalign("compile", *options, f"--output={output}")
    assert done.returncode == 0, done.stderr
    align, pretrain = json.loads(output.read_text())
    assert (align["stage"], pretrain["stage"]) == ("align", "pretrain")
    for found in (align, pretrain):
        assert found["chips"] == 4 and found["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
        assert found["memory"]["total"] > found["memory"]["arguments"] > 12 * found["parameters"] / 4
        assert (
            found["flops"] < found["flops_run"] < 4 * found["flops"]
        )  # whole rows of attention, similarities of padding
        assert found["memory"]["fits"] is None and found["bound"] is None  # of a CPU nothing is published
        kinds = {one["kind"] for one in found["collectives"]}
        assert "all-gather" in kinds and all(one["sent"] > 0 and one["count"] > 0 for one in found["collectives"])
        assert f"stage {found['stage']} on cpu:4" in done.stdout
    assert align["flops"] > pretrain["flops"] > 6 * 32 * 64 * 0.4e6  # at least those of the blocks' weights


def test_functions_are_traced_for_another_machine_within_the_context_only():
    with target.lowering_for("tpu", 256):
        assert (target.platform(), target.device_count()) == ("tpu", 256)
    assert (target.platform(), target.device_count()) == (jax.default_backend(), jax.device_count())


def test_sizes_are_chosen_for_the_machine():
    """The step of an accelerator in bfloat16, lowered on the CPU."""
    recipe, runtime = tiny()
    machine = topology.find("cpu:1")
    here = next(compile.programs(recipe, runtime, machine))
    there = next(compile.programs(recipe, runtime, machine._replace(platform="tpu")))
    assert "bf16" in there.lowered.as_text() and "bf16" not in here.lowered.as_text()


@pytest.mark.parametrize(
    ("name", "slices", "bindings", "message"),
    [
        ("v5e:3x5", 1, (), "--topology=v5e:3x5: unknown. Known are cpu:N; gpu"),
        ("cpu:0", 1, (), "--topology=cpu:0: unknown"),
        ("cpu:8", 0, (), "--num_slices=0"),
        ("cpu:8", 1, ("Runtime.mesh = (3, 2, 1)",), "must multiply to the 8 devices"),
        ("cpu:4", 2, ("Runtime.mesh = (1, -1, 1)",), "must be a multiple of 2"),
        (
            "cpu:8",
            1,
            ("align_words/Stream.batch_size = 12",),
            "align_words/Stream.batch_size = 12 does not divide over 8 devices",
        ),
        ("cpu:8", 1, ("Vocabulary.path = 'no/spm.model'",), "no/spm.model: no such file; or bind Vocabulary.rows"),
    ],
)
def test_bad_input_is_named(name, slices, bindings, message):
    with pytest.raises(UserError) as caught:
        recipe, runtime = tiny(*bindings)
        next(compile.programs(recipe, runtime, topology.find(name, slices)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_step_that_does_not_fit_gets_advice():
    recipe, runtime = tiny()
    machine = topology.find("cpu:8")._replace(chip=hardware.Chip(1e12, 10 * 2**20, GB, GB, GB, "none"))
    found = report.report(next(compile.programs(recipe, runtime, machine)), machine, runtime)
    assert found["memory"]["fits"] is False and "does not fit" in report.table(found)
    says = report.advice(found)
    assert says.startswith("stage align needs 0.") and "Runtime.remat = True" in says and "Stream.batch_size" in says
    assert "Runtime.accumulate" not in says  # 8 rows of words do not divide further
    assert "Runtime.remat" not in report.advice(found | {"remat": True})
    state = found | {"memory": found["memory"] | {"arguments": 9 * 2**20}}
    assert "a larger fsdp or tensor in Runtime.mesh" in report.advice(state)


def test_a_stage_of_rows_runs_no_blocks():
    """The FLOPs that are counted are those that are run: products of rows, whatever the model's depth."""
    cli.register()
    (recipe,) = config.load(["recipes/held_clone_tiny.gin"], ["Llama.layers = 2"], (Recipe,))
    machine = topology.find("cpu:4")
    found = report.report(next(compile.programs(recipe, Runtime(), machine)), machine, Runtime())
    assert found["stage"] == "gather" and found["flops"] <= found["flops_run"] < 1.1 * found["flops"]


def test_shared_rows_are_part_of_the_step():
    """Their maps are made up: text is not read."""
    cli.register()
    lowered = {}
    for name in ("joint", "prealign_plus"):
        (recipe,) = config.load([f"recipes/{name}_clone_tiny.gin"], ["Llama.layers = 1"], (Recipe,))
        lowered[name] = next(compile.programs(recipe, Runtime(), topology.find("cpu:4"))).lowered.as_text()
    assert lowered["prealign_plus"].count("stablehlo.scatter") > lowered["joint"].count("stablehlo.scatter")


def test_more_devices_than_jax_has_started_with():
    with pytest.raises(UserError, match="--topology=cpu:16: JAX has started with 8 CPU devices"):
        topology.find("cpu:16")


def test_what_xla_says_of_missing_memory():
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (126.87G) exceeds"
    )
    assert report._needed(said) == 126.87 * 2**30
    assert report._needed("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50M of") == 20.5 * 2**20


def test_a_mesh_of_two_slices_has_them_along_data():
    machine = topology.find("cpu:4", 2)
    mesh = sharding.make_mesh((2, -1, 1), machine.slices)
    assert [{device.id for device in part.flat} for part in mesh.devices] == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert sharding.make_mesh(Runtime().mesh, machine.slices).devices.tolist() == mesh.devices.tolist()
    assert sharding.make_mesh(Runtime().mesh, machine.slices[:1]).devices.shape == (1, 4, 1)
    with pytest.raises(
        UserError, match=r"must be a multiple of 2; bind Runtime.mesh = \(-1, 16, 1\) or \(\), which fits"
    ):
        sharding.make_mesh((1, 8, 1), machine.slices)


def test_a_recipe_without_a_mesh_compiles_for_two_slices():
    recipe, runtime = tiny()
    assert next(compile.programs(recipe, runtime, topology.find("cpu:4", 2))).mesh.shape["data"] == 2


def test_between_slices_go_sums_of_gradients_only():
    """Whatever crosses is an all-reduce or a part of one; weights are gathered within a slice."""
    recipe, runtime = tiny("Runtime.mesh = (2, 4, 1)")
    stage = recipe.stages[0]
    text = dataclasses.replace(stage, streams=stage.streams[1:])  # a contrast's queries cross too
    recipe = dataclasses.replace(recipe, stages=(text,))
    machine = topology.find("cpu:4", 2)._replace(chip=hardware.Chip(1e12, GB, GB, GB, GB, "none"))
    found = report.report(next(compile.programs(recipe, runtime, machine)), machine, runtime)
    crossing = {one["kind"]: one for one in found["collectives"] if one["over"] == "network"}
    gathered = next(one for one in found["collectives"] if one["kind"] == "all-gather" and one["over"] == "links")
    assert crossing.keys() == {"all-reduce"} and gathered["bytes"] > 0
    assert 4 * found["parameters"] / 4 <= crossing["all-reduce"]["bytes"] < 1.1 * 4 * found["parameters"] / 4
    assert found["seconds"]["network"] > 0 and found["bound"] in found["seconds"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'"
)
def test_a_tpu_slice_that_is_not_here(tmp_path: Path):
    """In its loop over layers a sharded step gathers weights and scatters gradients, and moves no rows."""
    output = tmp_path / "report.json"
    bindings = ("--gin.Llama.width=512", "--gin.Llama.heads=8", "--gin.Llama.kv_heads=8")
    done = xalign(
        "compile", "--gin_file=recipes/joint_clone_tiny.gin", "--topology=v5e:4x4", *bindings, f"--output={output}"
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(output.read_text())
    assert found["chips"] == 16 and found["memory"]["fits"] and found["bound"] in found["seconds"]
    layers = {one["kind"] for one in found["collectives"] if one["where"] == "layers"}
    assert "all-gather" in layers and layers <= {"all-gather", "reduce-scatter", "all-reduce"}


def test_the_time_of_all_stages_is_the_sum_of_their_longest_bounds():
    stage = {"steps": 1800, "chips": 4, "bound": "memory", "seconds": {"compute": 1.0, "memory": 2.0}}
    other = {"steps": 3600, "chips": 4, "bound": "compute", "seconds": {"compute": 1.0, "memory": 0.5}}
    assert report.estimate([stage, other]) == "at least 2.00 hours for 1,800 + 3,600 steps: 8 chip-hours"
    assert report.estimate([stage, other | {"bound": None}]) is None
