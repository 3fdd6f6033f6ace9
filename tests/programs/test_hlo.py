"""Compiled text by hand: how often things run, what chips say to each other, what moves to memory."""

from __future__ import annotations

import pytest

from flexidit_jax.programs.collectives import Traffic, collectives, group_size
from flexidit_jax.programs.hlo import Instruction, Piece, parse, pieces
from flexidit_jax.programs.memory_traffic import moved_bytes

#: a loop of 28 as the TPU compiler prints it (its bound in the condition), holding a loop of 3 as others do
LOOPS = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%inner.body (p.1: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = f32[4,8]{1,0} get-tuple-element(%p.1), index=1
  %there = f32[4,8]{1,0} collective-permute(%x.1), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %t.1 = (s32[], f32[4,8]{1,0}) tuple(%i.1, %there)
}

%inner.condition (p.2: (s32[], f32[4,8])) -> pred[] {
  %p.2 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

%body (p.3: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.3 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  %x.3 = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p.3), index=1
  %reduced = f32[4,8]{1,0:T(8,128)S(1)} all-reduce(%x.3), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %w = (s32[], f32[4,8]{1,0}) tuple(%i.3, %reduced)
  ROOT %inner = (s32[], f32[4,8]{1,0}) while(%w), condition=%inner.condition, body=%inner.body, backend_config={"known_trip_count":{"n":"3"}}
}

%condition (p.4: (s32[], f32[4,8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(28)
  %p.4 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.4 = s32[]{:T(128)} get-tuple-element(%p.4), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.4, %bound), direction=LT
}

ENTRY %main (x: f32[4,8]) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = ((f32[4,8]{1,0}), f32[16,8]{1,0}) all-gather-start(%x), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = f32[16,8]{1,0} all-gather-done(%start)
  %t = (s32[], f32[4,8]{1,0}) tuple(%zero, %x)
  ROOT %loop = (s32[], f32[4,8]{1,0}) while(%t), condition=%condition, body=%body
}
"""  # noqa: E501

#: what the TPU compiler makes of collectives: one spread over three fusions, one fused with the slice that is kept
FUSED = """HloModule jit_step, num_partitions=16

%async_collective_fusion (p.0: bf16[1,64]) -> (bf16[1,64], bf16[4,64]) {
  %p.0 = bf16[1,64]{1,0} parameter(0)
  %gather.0 = bf16[4,64]{1,0} all-gather(%p.0), channel_id=63, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %begin = (bf16[1,64]{1,0}, bf16[4,64]{1,0}) custom-call(%gather.0), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (p.1: bf16[1,64]) -> bf16[4,64] {
  %p.1 = bf16[1,64]{1,0} parameter(0)
  %gather.1 = bf16[4,64]{1,0} all-gather(%p.1), channel_id=63, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %end = bf16[4,64]{1,0} custom-call(%p.1, %gather.1), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.2: f32[64,256]) -> f32[16,256] {
  %p.2 = f32[64,256]{1,0} parameter(0)
  %where = s32[] constant(0)
  %whole = f32[64,256]{1,0} all-reduce(%p.2), channel_id=7, replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'c'}
  ROOT %kept = f32[16,256]{1,0} dynamic-slice(%whole, %where, %where), dynamic_slice_sizes={16,256}
}

ENTRY %main (a: bf16[1,64], b: f32[64,256]) -> f32[16,256] {
  %a = bf16[1,64]{1,0} parameter(0)
  %b = f32[64,256]{1,0} parameter(1)
  %first = (bf16[1,64]{1,0}, bf16[4,64]{1,0}) fusion(%a), kind=kCustom, calls=%async_collective_fusion
  %last = bf16[4,64]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.1
  ROOT %out = f32[16,256]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter
}
"""  # noqa: E501

#: a block's weights sliced out of the stack by a fusion inside another, a product that stays on the chip, and a block
#: of a stack written in place
MEMORY = """HloModule jit_step

%pick (w: bf16[28,64,32], i: s32[]) -> bf16[64,32] {
  %w = bf16[28,64,32]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %renamed = bf16[28,64,32]{2,1,0} bitcast(%w)
  %slice = bf16[1,64,32]{2,1,0} dynamic-slice(%renamed, %i, %i, %i), dynamic_slice_sizes={1,64,32}
  ROOT %flat = bf16[64,32]{1,0} bitcast(%slice)
}

%deep (w.1: bf16[28,64,32], i.1: s32[]) -> bf16[64,32] {
  %w.1 = bf16[28,64,32]{2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  ROOT %nested = bf16[64,32]{1,0} fusion(%w.1, %i.1), kind=kLoop, calls=%pick
}

%put (s: f32[28,16,32], y: f32[1,16,32], j: s32[]) -> f32[28,16,32] {
  %s = f32[28,16,32]{2,1,0} parameter(0)
  %y = f32[1,16,32]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %new = f32[28,16,32]{2,1,0} dynamic-update-slice(%s, %y, %j, %j, %j)
}

ENTRY %main (weights: bf16[28,64,32], stack: f32[28,16,32], x: bf16[16,64], k: s32[]) -> f32[28,16,32] {
  %weights = bf16[28,64,32]{2,1,0} parameter(0)
  %stack = f32[28,16,32]{2,1,0} parameter(1)
  %x = bf16[16,64]{1,0} parameter(2)
  %k = s32[]{:S(2)} parameter(3)
  %kernel = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} fusion(%weights, %k), kind=kOutput, calls=%deep
  %product = f32[16,32]{1,0:T(8,128)S(1)} dot(%x, %kernel), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %block = f32[1,16,32]{2,1,0:T(8,128)S(1)} bitcast(%product)
  ROOT %out = f32[28,16,32]{2,1,0} fusion(%stack, %block, %k), kind=kLoop, calls=%put
}
"""


def test_loops_are_multiplied_out() -> None:
    program = parse(LOOPS)
    runs, unknown = program.runs()
    assert program.entry == "main" and program.partitions == 8
    assert runs == {"main": 1, "body": 28, "condition": 28, "inner.body": 84, "inner.condition": 84}
    assert unknown == []


def test_a_loop_of_unknown_length_is_counted_once_and_named() -> None:
    runs, unknown = parse(LOOPS.replace("constant(28)", "parameter(1)")).runs()
    assert runs["body"] == 1 and runs["inner.body"] == 3
    assert unknown == ["loop"]


def test_what_a_kernel_says_of_itself_over_several_lines_ends_no_computation() -> None:
    """As Pallas kernels of TPUs are printed."""
    call = """  %kernel = f32[4,8]{1,0} custom-call(%x.1), frontend_attributes={metadata={
"block_q": 256
}}, metadata={op_name="jit(f)"}
"""
    before = "  %there = f32[4,8]"
    program = parse(LOOPS.replace(before, call + before))
    inner = program.computations["inner.body"].instructions
    assert list(inner) == ["p.1", "i.1", "x.1", "kernel", "there", "t.1"]
    assert program.runs() == parse(LOOPS).runs()


def test_collectives_by_kind() -> None:
    x = 4 * 8 * 4
    assert collectives(parse(LOOPS)) == {
        "all-gather": Traffic(1, 4 * x, 3 * x),
        "all-reduce": Traffic(28, 28 * x, 28 * x * 2 * 3 / 4),
        "collective-permute": Traffic(84, 84 * x, 84 * x),
    }


def test_what_the_tpu_compiler_fuses_is_counted_once_and_by_what_it_is() -> None:
    shard, whole = 64 * 2, 64 * 256 * 4
    assert collectives(parse(FUSED)) == {
        "all-gather": Traffic(1, 4 * shard, 3 * shard),
        "reduce-scatter": Traffic(1, whole, whole * 3 / 4),
    }


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("[8]<=[8]", 8),
        ("{{0,3,5},{1,2,4}}", 3),
        ("{}", 16),
        ("mesh['axis_0'=4,'axis_1'=2,'axis_2'=3] {'axis_0','axis_2'}", 12),
        ("mesh['a'=1,'b'=4], device_ids=([4,4]T(1,0)) {'b'}", 4),
    ],
)
def test_replica_groups_in_all_their_spellings(groups: str, size: int) -> None:
    line = Instruction("x", "all-reduce", (), (), f", channel_id=1, replica_groups={groups}, to_apply=%add", False)
    assert group_size(line, partitions=16) == size


def test_shapes_of_tuples_with_layouts() -> None:
    text = "(f32[2,3]{1,0:T(8,128)S(1)}, (bf16[4]{0:T(512)(128)(2,1)}), /*index=2*/pred[], u32[]{:S(2)}, token[])"
    assert list(pieces(text)) == [
        Piece(24, 1, "f32[2,3]"), Piece(8, 0, "bf16[4]"), Piece(1, 0, "pred[]"), Piece(4, 2, "u32[]"),
        Piece(0, 0, "token[]"),
    ]  # fmt: skip


def test_which_array_of_a_tuple() -> None:
    def line(opcode: str) -> Instruction:
        return Instruction("x", opcode, (), ("t",), ", index=12, metadata={}", False)

    assert (line("get-tuple-element").element, line("copy").element) == (12, None)


def test_memory_moved_is_slices_and_updates_not_stacks_and_nothing_on_the_chip() -> None:
    kernel, block, x = 64 * 32 * 2, 16 * 32 * 4, 16 * 64 * 2
    assert moved_bytes(parse(MEMORY)) == kernel + x + block
