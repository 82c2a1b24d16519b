"""Programs written by hand, whose bytes can be counted on paper."""

import pytest

from ldm_jax.xla import hlo

PROGRAM = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%kept_slice (p: f32[16,4]) -> f32[2,4] {
  %p = f32[16,4]{1,0:T(8,128)} parameter(0)
  %whole = f32[16,4]{1,0} all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %at = s32[] constant(2)
  ROOT %slice = f32[2,4]{1,0} dynamic-slice(%whole, %at, %at), dynamic_slice_sizes={2,4}
}

%condition (c: (s32[], bf16[4,8])) -> pred[] {
  %c = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %end = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

%body (b: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %b = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %n = s32[] get-tuple-element(%b), index=0
  %value = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%b), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  %moved = bf16[4,8]{1,0} collective-permute(%value), source_target_pairs={{0,1},{1,0}}
  ROOT %out = (s32[], bf16[4,8]{1,0}) tuple(%next, %moved)
}

ENTRY %main (a: f32[16,4], w: bf16[4,8]) -> f32[2,4] {
  %a = f32[16,4]{1,0} parameter(0), sharding={replicated}
  %w = bf16[4,8]{1,0} parameter(1)
  %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%w), replica_groups=[2,4]<=[8], dimensions={0}
  %gathered = bf16[16,8]{1,0} all-gather-done(%start)
  %zero = s32[] constant(0)
  %state = (s32[], bf16[4,8]{1,0}) tuple(%zero, %w)
  %loop = (s32[], bf16[4,8]{1,0}) while(%state), condition=%condition, body=%body
  %mean = f32[16,4]{1,0} all-reduce(%a), replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, to_apply=%add
  ROOT %fusion = f32[2,4]{1,0} fusion(%mean), kind=kCustom, calls=%kept_slice
}
"""


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[16,4]{1,0:T(8,128)}", 256),
        ("bf16[4,8]{1,0:T(8,128)(2,1)S(1)}", 64),
        ("(s32[], bf16[4,8]{1,0}, /*index=2*/pred[3])", 4 + 64 + 3),
        ("f32[]", 4),
        ("s4[3]", 2),
        ("f8e4m3fn[10]", 10),
        ("f32[<=8,2]", 64),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_type(shape, size):
    assert hlo.num_bytes(shape) == size


def test_collectives_by_kind():
    found = hlo.by_kind(hlo.collectives(hlo.parse(PROGRAM)))
    assert found == {
        # 256 bytes over the 4 chips of a column: 2 * 3/4 of them are sent
        "all-reduce": dict(count=1, bytes=256, sent_bytes=384),
        # 64 bytes of each of 4 chips
        "all-gather": dict(count=1, bytes=256, sent_bytes=192),
        # an all-reduce of which a fusion keeps its own slice
        "reduce-scatter": dict(count=1, bytes=256, sent_bytes=224),
        # in a loop of 5
        "collective-permute": dict(count=5, bytes=5 * 64, sent_bytes=5 * 64),
    }


@pytest.mark.parametrize(
    "rest, size",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add", 2),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", 2),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([4,2]T(1,0)) {'a'}, dimensions={0}", 4),
        ("replica_groups={}", 8),
        ("channel_id=1", 8),
    ],
)
def test_group_sizes(rest, size):
    assert hlo.group_size(rest, 8) == size


def test_a_loop_counts_as_often_as_it_runs():
    program = hlo.parse(PROGRAM)
    assert hlo.runs(program)["body"] == 5
    loop = program.computations["main"]["loop"]
    known = loop._replace(rest=loop.rest + ', backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.trip_count(program, known) == 7
    unknown = hlo.parse(PROGRAM.replace("constant(5)", "parameter(1)"))
    assert hlo.runs(unknown)["body"] == 1


SPREAD = """\
HloModule jit_f, num_partitions=2

%begin (p: bf16[4,8]) -> bf16[8,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %gather.1 = bf16[8,8]{1,0} all-gather(%p), channel_id=4, replica_groups=[1,2]<=[2], dimensions={0}
}

%finish (q: bf16[4,8]) -> bf16[8,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %gather.2 = bf16[8,8]{1,0} all-gather(%q), channel_id=4, replica_groups=[1,2]<=[2], dimensions={0}
}

ENTRY %main (a: bf16[4,8]) -> bf16[8,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %start = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%begin
  ROOT %done = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%finish
}
"""


def test_a_collective_that_is_spread_over_fusions_counts_once():
    assert hlo.by_kind(hlo.collectives(hlo.parse(SPREAD))) == {
        "all-gather": dict(count=1, bytes=128, sent_bytes=64)
    }


def test_traffic_is_of_operands_and_results():
    program = hlo.parse(PROGRAM)
    body = (4 + 4 + 4) + (64 + 64)  # the addition, and what is passed on
    condition = 4 + 4 + 1
    entry = (64 + 64 + 256) + (256 + 256) + (256 + 32)  # all-gather, all-reduce, fusion
    full = entry + 5 * (body + condition)
    main = full - 5 * 64  # what is passed on is in S(1)
    assert hlo.traffic(program) == (entry + body + condition, full, main)


NEAR = """\
HloModule jit_f, is_scheduled=true

ENTRY %main (a: f32[8,128], b: f32[4,8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[4,8,128]{2,1,0:T(8,128)} parameter(1)
  %begun = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %near = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%begun)
  %cut = ((f32[4,8,128]{2,1,0}), f32[1,8,128]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:1]}
  %part = f32[1,8,128]{2,1,0:T(8,128)S(1)} slice-done(%cut)
  %sum = f32[8,128]{1,0:T(8,128)S(1)} add(%near, %near)
  ROOT %out = f32[8,128]{1,0:T(8,128)} fusion(%sum, %part), kind=kLoop, calls=%sums
}
"""


def test_what_lies_in_a_memory_of_the_cores_is_not_in_main_memory():
    one = 8 * 128 * 4
    full = (1 + 1) + (1 + 1) + 3 + 3  # a copy, a slice, a sum and what is made of both
    main = 1 + 1 + 0 + 1
    assert hlo.traffic(hlo.parse(NEAR)) == (full * one, full * one, main * one)


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("HloModule nothing\n")
