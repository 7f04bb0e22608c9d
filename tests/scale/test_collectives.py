"""Collectives, loops and traffic read from HLO: by hand, and of a known sharded product."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xalign_jax.runtime.hardware import chip
from xalign_jax.scale.collectives import _groups, collectives
from xalign_jax.scale.hlo import Module, shapes
from xalign_jax.scale.products import product_flops
from xalign_jax.scale.traffic import traffic

BY_HAND = """
HloModule step, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%scattered (p: f32[64,8]) -> f32[8,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %whole = f32[64,8]{1,0} all-reduce(%p), channel_id=9, replica_groups=[1,8]<=[8], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[8,8]{1,0} dynamic-slice(%whole, %zero, %zero), dynamic_slice_sizes={8,8}
}

%body (state: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %state = (s32[], f32[64,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[64,8]{1,0} get-tuple-element(%state), index=1
  %start = (f32[64,8]{1,0}, f32[512,8]{1,0}) all-gather-start(%x), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %done = f32[512,8]{1,0} all-gather-done(%start)
  %fused = f32[8,8]{1,0} fusion(%x), kind=kCustom, calls=%scattered, metadata={op_name="all-reduce-scatter"}
  ROOT %out = (s32[], f32[64,8]{1,0}) tuple(%next, %x)
}

%condition (state: (s32[], f32[64,8])) -> pred[] {
  %state.1 = (s32[], f32[64,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %most = s32[] constant(24)
  ROOT %less = pred[] compare(%i.1, %most), direction=LT
}

ENTRY %main (p0: f32[64,8]) -> f32[64,8] {
  %p0 = f32[64,8]{1,0} parameter(0)
  %zero.1 = s32[] constant(0)
  %begin = (s32[], f32[64,8]{1,0}) tuple(%zero.1, %p0)
  %loop = (s32[], f32[64,8]{1,0}) while(%begin), condition=%condition, body=%body, metadata={op_name="jit(step)/jvp(layers)/while"}
  %end = f32[64,8]{1,0} get-tuple-element(%loop), index=1
  %total = f32[64,8]{1,0} all-reduce(%end), channel_id=3, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %moved = f32[64,8]{1,0} collective-permute(%total), channel_id=4, source_target_pairs={{0,1},{1,0}}
}
"""


def test_by_hand():
    found = {one.kind: one for one in collectives(Module(BY_HAND), devices=8, slices=2)}
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce", "collective-permute"}
    gather, scatter, reduce = (found[kind] for kind in ("all-gather", "reduce-scatter", "all-reduce"))
    assert (gather.times, gather.layers, gather.bytes, gather.chips) == (12, True, 512 * 8 * 4, 8)
    assert gather.sent == 512 * 8 * 4 * 7 / 8 and gather.crosses
    assert (scatter.times, scatter.layers, scatter.bytes, scatter.sent) == (12, True, 2048, 2048 * 7 / 8)
    assert (reduce.times, reduce.layers, reduce.chips, reduce.crosses) == (1, False, 2, True)
    assert reduce.sent == 2 * 2048 / 2
    permute = found["collective-permute"]
    assert (permute.bytes, permute.sent, permute.crosses) == (2048, 2048, False)


def test_an_asynchronous_collective_spread_over_fusions_counts_once():
    fused = BY_HAND.replace(
        "%fused = ",
        '%again = f32[8,8] fusion(%x), calls=%scattered, metadata={op_name="all-reduce-scatter"}\n  %fused = ',
    )
    assert len(collectives(Module(fused), 8)) == len(collectives(Module(BY_HAND), 8))


def test_what_tpu_slices_hand_their_hosts_crosses_slices():
    send = """  %token = token[] after-all()
  %send = (f32[64,8]{1,0}, u32[], token[]) send(%total, %token), channel_id=2, is_host_transfer=true, """ + (
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
    )
    found = collectives(Module(BY_HAND.replace("  ROOT %moved", send + "  ROOT %moved")), devices=16, slices=2)
    crossing = [one for one in found if one.crosses]
    assert [(one.kind, one.bytes, one.sent, one.chips, one.times) for one in crossing] == [
        ("all-reduce", 2048, 2048.0, 2, 1)
    ]


def test_trips_follow_from_the_loop_or_from_what_xla_says():
    module = Module(BY_HAND)
    loop = module.computations["main"]["loop"]
    assert module.trips(loop, "main") == 12
    said = loop._replace(rest=loop.rest + ', backend_config={"known_trip_count":{"n":"7"}}')
    assert module.trips(said, "main") == 7
    endless = Module(BY_HAND.replace("add(%i, %two)", "copy(%i)"))
    assert endless.trips(loop, "main") is None


def test_groups_in_every_notation():
    assert _groups("replica_groups={{0,1},{2,3}}", 4) == [[0, 1], [2, 3]]
    assert _groups("replica_groups=[2,2]<=[4]", 4) == [[0, 1], [2, 3]]
    assert _groups("replica_groups=[2,2]<=[2,2]T(1,0)", 4) == [[0, 2], [1, 3]]
    assert _groups("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, dimensions={0}", 4) == [[0, 2], [1, 3]]
    assert _groups("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}", 4) == [[0, 1, 2, 3]]
    turned = "replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}"
    assert _groups(turned, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert _groups("replica_groups={}, dimensions={0}", 2) == [[0, 1]]


def test_sizes_of_types():
    assert [
        shape.size for shape in shapes("(f32[2,3]{1,0}, bf16[4]{0:T(8,128)(2,1)S(1)}, s32[], pred[3], f8e4m3fn[5])")
    ] == [
        24,
        8,
        4,
        3,
        5,
    ]
    assert [shape.main for shape in shapes("(f32[2]{0:T(256)}, f32[2]{0:T(256)S(1)})")] == [True, False]


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(8), ("fsdp",))


def test_a_product_in_a_loop_gathers_its_sharded_weights_in_every_turn(mesh):
    """8 layers of (512,512) float32, each sharded over 8 devices; rows stay where they are."""
    rows, weights = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), (None, "fsdp")))

    def run(x, stacked):
        def layer(x, w):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None

        with jax.named_scope("layers"):
            return jax.lax.scan(layer, x, stacked)[0]

    x = jax.ShapeDtypeStruct((4096, 512), jnp.float32, sharding=rows)
    stacked = jax.ShapeDtypeStruct((8, 512, 512), jnp.float32, sharding=weights)
    module = Module(jax.jit(run).lower(x, stacked).compile().as_text())
    (gather,) = collectives(module, 8)
    assert (gather.kind, gather.layers, gather.times, gather.chips) == ("all-gather", True, 8, 8)
    assert gather.bytes == 512 * 512 * 4 and gather.sent == gather.bytes * 7 / 8
    assert product_flops(module) == 8 * 2 * (4096 // 8) * 512 * 512
    least = 8 * (2 * 512 * 512 * 4 + 2 * 512 * 512 * 4)  # rows in and out, weights out and in, in each of 8 turns
    assert least <= traffic(module) < 4 * least


@pytest.mark.parametrize(
    ("line", "flops"),
    [  # (4,1024,2048) x (2048,128); a batch of 16 as a window over one axis, then as a diagonal of dilated places
        ("bf16[4,1024,128] convolution(%a, %b), dim_labels=0bf_io0->0bf, window={size=1}", (4, 1024, 2048, 128)),
        ("bf16[4,1024,16,128] convolution(%c, %d), window={size=1x16 pad=0_0x15_15 rhs_reversal=0x1}, "
         "dim_labels=0bf1_1oi0->0b1f", (4, 1024, 2048, 16, 128)),
        ("f32[4,16,1024,1024] convolution(%e, %f), window={size=4x16 stride=3x15 lhs_dilate=4x16}, "
         "dim_labels=01bf_01oi->01bf", (4, 16, 1024, 1024, 128)),
    ],
)  # fmt: skip
def test_products_of_tpus_are_convolutions(line, flops):
    operands = {
        **{"a": "bf16[4,1024,2048]", "b": "bf16[2048,128,1]", "c": "bf16[4,1024,2048,1]", "d": "bf16[16,128,2048,1]"},
        **{"e": "bf16[4,16,1024,128]", "f": "bf16[4,16,1024,128]"},
    }
    lines = [f"  %{name} = {shape} parameter({i})" for i, (name, shape) in enumerate(operands.items())]
    text = "\n".join(["ENTRY %main (a: f32[]) -> f32[] {", *lines, f"  ROOT %out = {line}", "}"])
    assert product_flops(Module(text)) == 2 * math.prod(flops)


def test_products_of_gpus_are_calls_of_a_library():
    config = '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"]}}}'
    text = f"""ENTRY %main (a: f32[]) -> f32[] {{
  %a = bf16[8,1024,512] parameter(0)
  %b = bf16[8,512,256] parameter(1)
  ROOT %out = (bf16[8,1024,256]{{2,1,0}}, s8[4194304]{{0}}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={config}
}}"""
    assert product_flops(Module(text)) == 2 * 8 * 1024 * 512 * 256


@pytest.mark.parametrize(
    ("kind", "gigabytes"),
    [
        ("NVIDIA A100-SXM4-40GB", 40),
        ("NVIDIA A100-SXM4-80GB", 80),
        ("NVIDIA GH200 480GB", 96),
        ("NVIDIA H200", 141),
        ("NVIDIA H100 80GB HBM3", 80),
        ("NVIDIA H100 PCIe", 80),
    ],
)
def test_cards_of_one_name_differ(kind, gigabytes):
    assert chip(kind).hbm == gigabytes * 1e9
    assert (chip(kind).flops < 989e12) == ("A100" in kind or "PCIe" in kind)


@pytest.mark.parametrize(("kernel", "products"), [("splash_mha_fwd_segmented", 2), ("splash_mha_dkv_segmented", 5)])
def test_fused_attention_says_how_many_keys_it_reads(kernel, products):
    name = f'metadata={{op_name="jit(step)/keys_768/vmap(splash)/{kernel}/pallas_call"}}'
    text = f"""ENTRY %main (a: f32[]) -> f32[] {{
  %mask = s8[1,2,2] parameter(0)
  %query = bf16[4,16,1024,128] parameter(1)
  %ids = s32[4,1024,128] parameter(2)
  ROOT %out = bf16[4,16,1024,128] custom-call(%mask, %query, %query, %ids), custom_call_target="tpu_custom_call", {name}
}}"""
    assert product_flops(Module(text)) == products * 2 * 4 * 16 * 1024 * 768 * 128
    assert product_flops(Module(text.replace("keys_768", "other"))) == 0


@pytest.mark.parametrize(("memory", "moved"), [("S(1)", 4096), ("", 2 * 4096)])
def test_of_what_is_fetched_ahead_in_slices_the_slices_count(memory, moved):
    """S(1) is a TPU's vector memory: what is written there costs no main memory."""
    text = f"""ENTRY %main (a: f32[]) -> f32[] {{
  %whole = s8[65536]{{0}} parameter(0)
  %start = ((s8[65536]{{0}}), s8[4096]{{0:T(1024){memory}}}, s32[]{{:S(2)}}) slice-start(%whole), slice={{[0:4096]}}
  ROOT %done = s8[4096]{{0:T(1024){memory}}} slice-done(%start)
}}"""
    assert traffic(Module(text)) == moved


def test_slices_of_stacked_weights_count_as_slices():
    """Reading one of 64 layers in each of 64 turns is reading the stack once, not 64 times."""

    def run(x, stacked):
        return jax.lax.scan(lambda x, w: (jnp.sin(x) * w, None), x, stacked)[0]

    x, stacked = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1000,), (64, 1000)))
    moved = traffic(Module(jax.jit(run).lower(x, stacked).compile().as_text()))
    assert 64 * 3 * 4000 <= moved < 64 * 8 * 4000
