"""Copies of weights in two real programs for an H100 (tests/golden/README.md) and in lines by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.programs.hlo import parse
from flexidit_jax.programs.weight_copies import weight_copies

GOLDEN = Path(__file__).parents[1] / "golden"
SCANNED, UNROLLED = ((GOLDEN / f"gpu_{name}.hlo").read_text() for name in ("scanned", "unrolled"))
WIDTH, DEPTH = 128, 3

#: a loop that hands its weights on, sliced and then transposed in it
LOOP = """HloModule m

%body (t: (s32[], f32[3,8,4], f32[8,4])) -> (s32[], f32[3,8,4], f32[8,4]) {
  %t = (s32[], f32[3,8,4]{2,1,0}, f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = f32[3,8,4]{2,1,0} get-tuple-element(%t), index=1
  %x = f32[8,4]{1,0} get-tuple-element(%t), index=2
  %own = f32[1,8,4]{2,1,0} dynamic-slice(%w, %i, %i, %i), dynamic_slice_sizes={1,8,4}
  %flat = f32[8,4]{1,0} bitcast(%own)
  %turned = f32[4,8]{1,0} transpose(%flat), dimensions={1,0}
  %y = f32[8,4]{1,0} add(%x, %flat)
  ROOT %next = (s32[], f32[3,8,4]{2,1,0}, f32[8,4]{1,0}) tuple(%i, %w, %y)
}

%condition (u: (s32[], f32[3,8,4], f32[8,4])) -> pred[] {
  %u = (s32[], f32[3,8,4]{2,1,0}, f32[8,4]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (weights: f32[3,8,4], x: f32[8,4]) -> f32[8,4] {
  %weights = f32[3,8,4]{2,1,0} parameter(0), metadata={op_name="weights['w']"}
  %x0 = f32[8,4]{1,0} parameter(1), metadata={op_name="x"}
  %zero = s32[] constant(0)
  %start = (s32[], f32[3,8,4]{2,1,0}, f32[8,4]{1,0}) tuple(%zero, %weights, %x0)
  %loop = (s32[], f32[3,8,4]{2,1,0}, f32[8,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %after = f32[3,8,4]{2,1,0} get-tuple-element(%loop), index=1
  ROOT %x1 = f32[8,4]{1,0} get-tuple-element(%loop), index=2
}
"""  # noqa: E501
BLOCK = 8 * 4 * 4


def alone(*lines: str) -> str:
    """A program of two weights and another argument."""
    arguments = (
        "%a = f32[8,4]{1,0} parameter(0), metadata={op_name=\"weights['a']\"}",
        "%b = f32[8,4]{1,0} parameter(1), metadata={op_name=\"weights['b']\"}",
        '%x = f32[8,4]{1,0} parameter(2), metadata={op_name="x"}',
        "%i = s32[] constant(0)",
    )
    body = "\n".join(f"  {line}" for line in (*arguments, *lines))
    called = (
        "%moved (q: f32[8,4]) -> bf16[4,8] {\n  %q = f32[8,4]{1,0} parameter(0)\n"
        "  %r = f32[4,8]{1,0} transpose(%q), dimensions={1,0}\n  ROOT %s = bf16[4,8]{1,0} convert(%r)\n}\n\n"
        "%doubled (q2: f32[8,4]) -> bf16[8,4] {\n  %q2 = f32[8,4]{1,0} parameter(0)\n"
        "  %r2 = f32[8,4]{1,0} add(%q2, %q2)\n  ROOT %s2 = bf16[8,4]{1,0} convert(%r2)\n}\n\n"
        "%inside (q3: f32[8,4]) -> f32[8,4] {\n  %q3 = f32[8,4]{1,0} parameter(0)\n"
        "  ROOT %r3 = f32[8,4]{1,0} copy(%q3)\n}\n"
    )
    return f"HloModule m\n\n{called}\nENTRY %main (a: f32[8,4], b: f32[8,4], x: f32[8,4]) -> f32[8,4] {{\n{body}\n}}\n"


def test_a_scan_over_stacked_weights_copies_them_and_blocks_of_their_own_are_not_copied() -> None:
    kernels = (3 + 4 + 4) * WIDTH * WIDTH * 2  # the bias is read by the kernel that adds it
    assert weight_copies(parse(SCANNED), ["weights["]) == DEPTH * kernels
    assert weight_copies(parse(UNROLLED), ["weights["]) == 0


def test_without_weights_there_is_nothing_to_say() -> None:
    assert weight_copies(parse(SCANNED), ["params["]) is None


def test_copies_of_copies_in_a_loop_that_hands_its_weights_on() -> None:
    assert weight_copies(parse(LOOP), ["weights["]) == 3 * 2 * BLOCK
    after = LOOP.replace("  ROOT %x1", "  %late = f32[3,8,4]{2,1,0} copy(%after)\n  ROOT %x1")
    assert weight_copies(parse(after), ["weights["]) == 3 * 2 * BLOCK + 3 * BLOCK


@pytest.mark.parametrize(
    "new",
    [
        "add(%w, %w)",
        "get-tuple-element(%t), index=3",
        "get-tuple-element(%other), index=1\n  %other = (f32[8,4]{1,0}, f32[3,8,4]{2,1,0}) tuple(%x, %more)",
    ],
)
def test_what_a_loop_replaces_is_no_weight_the_next_time(new: str) -> None:
    changed = LOOP.replace("tuple(%i, %w, %y)", "tuple(%i, %new, %y)")
    changed = changed.replace("  %y = ", f"  %new = f32[3,8,4]{{2,1,0}} {new}\n  %y = ")
    assert weight_copies(parse(changed), ["weights["]) == 0


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("%c = f32[4,8]{1,0} transpose(%a), dimensions={1,0}", BLOCK),
        ("%c = bf16[8,4]{1,0} convert(%a)", BLOCK / 2),
        ("%c = f32[1,4]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,4}", BLOCK / 8),
        ("%c = f32[16,4]{1,0} concatenate(%a, %b), dimensions={0}", 2 * BLOCK),
        ("%c = bf16[4,8]{1,0} fusion(%a), kind=kLoop, calls=%moved", BLOCK / 2),
        ("%c = f32[8,4]{1,0} call(%a), to_apply=%inside", BLOCK),
        ("%c = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]) copy-start(%a)\n  %d = f32[8,4]{1,0} copy-done(%c)", BLOCK),
        ("%c = f32[8,4]{1,0} copy(%x)", 0),
        ("%c = f32[16,4]{1,0} concatenate(%a, %x), dimensions={0}", 0),
        ("%c = f32[8,4]{1,0} call(%x), to_apply=%inside", 0),
        ("%c = f32[8,4]{1,0} add(%a, %b)", 0),
        ("%c = bf16[8,4]{1,0} fusion(%a), kind=kLoop, calls=%doubled", 0),
        ('%c = f32[8,8]{1,0} custom-call(%x, %a), custom_call_target="__cublas$gemm"', 0),
        ("%c = f32[32]{0} bitcast(%a)", 0),
    ],
)
def test_what_a_copy_is(line: str, copied: float) -> None:
    assert weight_copies(parse(alone(line)), ["weights["]) == copied
