"""What a traced step's time goes to: spans, shares, words, and a trace of a program that was really run."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData, StepTraceAnnotation

from xalign_jax.objectives.parts.primitives import token_cross_entropy
from xalign_jax.scale import profile
from xalign_jax.scale.timeline import Operation, Timeline, common, covered, outside, read, shares
from xalign_jax.training.tracing import DATA, STEP, Traced

PROGRAM = """HloModule jit_update, is_scheduled=true

%fused (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (q: f32[8,8]) -> f32[8,8] {
  %q = f32[8,8]{1,0} parameter(0)
  ROOT %fusion.1 = f32[8,8]{1,0} fusion(%q), kind=kLoop, calls=%fused, metadata={op_name="jit(update)/jvp(layers)/while/body/attention/attend/dot_general"}
}

%condition (c: f32[8,8]) -> pred[] {
  %c = f32[8,8]{1,0} parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[8,8]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %while.1 = f32[8,8]{1,0} while(%a), condition=%condition, body=%body, metadata={op_name="jit(update)/jvp(layers)/while"}
  %copy.1 = f32[8,8]{0,1} copy(%while.1), metadata={op_name="jit(update)/transpose(jvp(layers))/mlp/transpose"}
  ROOT %add.1 = f32[8,8]{1,0} add(%copy.1, %a), metadata={op_name="jit(update)/add"}
}
"""


def traced(folder, steps=1, program=PROGRAM):
    return Traced(folder, "pretrain", 4, steps, 0.01, 0.01, program)


def test_spans():
    spans = covered([(5, 7), (1, 3), (2, 4), (90, 120), (-5, -1)], (0, 100))
    assert spans == [(1, 4), (5, 7), (90, 100)]
    assert outside(spans, (0, 100)) == [(0, 1), (4, 5), (7, 90)]
    assert common(spans, [(3, 6), (95, 200)]) == 1 + 1 + 5
    assert outside([], (0, 1)) == [(0, 1)] and common([], spans) == 0


def test_operations_that_run_at_once_share_the_time_and_a_loop_gets_what_is_left():
    found = [Operation(name, "", None, *span) for name, span in (("while.1", (0, 10)), ("a", (2, 6)), ("b", (4, 6)))]
    assert shares(found, (0, 10), lambda one: one.name == "while.1") == [6, 3, 1]
    # Only the part within the window counts.
    assert shares(found, (3, 5), lambda one: one.name == "while.1") == [0, 1.5, 0.5]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(update)/jvp(layers)/closed_call/attention/attend/dot_general", "attend"),
        ("jit(update)/transpose(jvp(layers))/closed_call/attention/norm/mul", "norm"),
        ("jit(update)/jvp(layers)/slice", "layers"),
        ("jit(update)/jvp(cross_entropy)/while/body/dot_general", "cross_entropy"),
        ("jit(update)/counters/add", "counters"),
        ("jit(update)/mul", "optimizer"),
        ("", "optimizer"),
    ],
)
def test_the_innermost_scope_names_the_part(name, part):
    assert profile.part_of(name) == profile.PARTS[part]


def test_the_last_name_is_an_operation_and_no_scope():
    assert profile.part_of("jit(update)/jvp()/norm") == profile.REST


def test_the_table_adds_up_to_a_step():
    """Two runs of 100 ns from 0 and from 200; the host waits for a batch in between."""
    operations = []
    for run, at in enumerate((0, 200)):
        spans = {"while.1": (0, 50), "fusion.1": (10, 50), "copy.1": (60, 80), "add.1": (80, 100)}
        operations += [Operation(n, "jit_update", run, at + a, at + b) for n, (a, b) in spans.items()]
    timeline = Timeline(operations, [(0, 100), (200, 300)], {STEP: [(0, 5), (150, 155)], DATA: [(100, 140)]})
    found = profile.summary(timeline, profile.Program(PROGRAM), traced(None, 2))
    assert [
        (row["part"], row["kind"], row["direction"], round(row["seconds"] * 1e9)) for row in found["operations"]
    ] == [
        (profile.PARTS["attend"], "matrix products", "forward", 40),
        (profile.PARTS["mlp"], "copies", "backward", 20),
        (profile.PARTS["optimizer"], "element by element", "", 20),
        (profile.PARTS["layers"], "loops", "forward", 10),
    ]
    assert {row["cause"]: round(row["seconds"] * 1e9, 1) for row in found["outside"]} == {
        profile.BETWEEN: 10,
        profile.WAITING: 20,
        profile.CALLING: 2.5,
        profile.HOST: 27.5,
    }
    assert sum(row["share"] for row in found["parts"] + found["outside"]) == pytest.approx(1)
    assert all(row["times"] == 1 for row in found["operations"])
    assert "| attention: scores, softmax, weighted values | matrix products | forward |" in profile.table(found)


# A TPU names operations by their text and has a line of runs; its planes are numbered.
TPU = """
planes { name: "/host:CPU" event_metadata { key: 1 value { id: 1 name: "train" } }
  lines { name: "python" events { metadata_id: 1 offset_ps: 1000 duration_ps: 2000 } } }
planes { name: "/device:TPU:0"
  event_metadata { key: 1 value { id: 1 name: "%fusion.1 = f32[8,8]{1,0} fusion(f32[8,8]{1,0} %q), kind=kLoop" } }
  event_metadata { key: 2 value { id: 2 name: "jit_update(123)" } }
  lines { name: "XLA Modules" events { metadata_id: 2 offset_ps: 2000 duration_ps: 9000 } }
  lines { name: "XLA Ops" events { metadata_id: 1 offset_ps: 3000 duration_ps: 4000 } } }
planes { name: "/device:TPU:1"
  event_metadata { key: 1 value { id: 1 name: "%copy.1 = f32[] copy(f32[] %q)" } }
  lines { name: "XLA Ops" events { metadata_id: 1 offset_ps: 3000 duration_ps: 4000 } } }
"""


def test_a_trace_of_a_tpu(tmp_path):
    file = tmp_path / "a.xplane.pb"
    file.write_bytes(ProfileData.text_proto_to_serialized_xspace(TPU))
    found = read(file, (STEP, DATA))
    assert found == Timeline([Operation("fusion.1", "", None, 3, 7)], [(2, 11)], {STEP: [(1, 3)], DATA: []})
    shown = profile.summary(found, profile.Program(PROGRAM), traced(tmp_path))
    assert [row["part"] for row in shown["parts"]] == [profile.PARTS["attend"]]
    assert shown["device_share"] == pytest.approx(4 / 6)


def test_a_program_that_was_really_traced(tmp_path):
    """A head and its cross-entropy on one device. Nearly all operations of the trace are found in the program."""

    def update(h, weight, targets):
        loss = lambda h, weight: token_cross_entropy(h, weight, None, targets, jnp.ones(len(h)))  # noqa: E731
        return jax.grad(loss, (0, 1))(h, weight)

    h, weight = jnp.ones((64, 32)), jnp.ones((512, 32))
    step, targets = jax.jit(update), jnp.zeros(64, jnp.int32)
    jax.block_until_ready(step(h, weight, targets))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(tmp_path, profiler_options=options):
        for number in range(3):
            with StepTraceAnnotation(STEP, step_num=number):
                jax.block_until_ready(step(h, weight, targets))
    program = step.lower(h, weight, targets).compile().as_text()
    text = profile.report(traced(tmp_path, 3, program))
    assert text == (tmp_path / "profile.md").read_text().rstrip("\n")
    found = json.loads((tmp_path / "profile.json").read_text())
    (products,) = (row for row in found["operations"] if row["kind"] == "matrix products")
    # Logits, and the gradients of states and head.
    assert products["part"] == profile.PARTS["cross_entropy"] and products["times"] == 3
    assert sum(row["share"] for row in found["parts"] + found["outside"]) == pytest.approx(1, abs=0.01)
    assert profile.OTHER not in {row["part"] for row in found["parts"]}
