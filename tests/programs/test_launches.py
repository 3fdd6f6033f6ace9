"""What a GPU launches: two real programs for an H100 (tests/golden/README.md), and lines by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flexidit_jax.programs.hlo import parse
from flexidit_jax.programs.launches import ATTENTION, OTHER, PRODUCT, Counts, counted, launches
from flexidit_jax.programs.memory_traffic import moved_bytes

GOLDEN = Path(__file__).parents[1] / "golden"
SCANNED, UNROLLED = ((GOLDEN / f"gpu_{name}.hlo").read_text() for name in ("scanned", "unrolled"))
#: of both programs: blocks, images times tokens, width
DEPTH, ROWS, WIDTH = 3, 4 * 128, 128


def by_kind(text: str) -> dict[str, float]:
    kinds: Counter[str] = Counter()
    for one in launches(parse(text)):
        kinds[one.kind] += one.times
    return dict(kinds)


def alone(*lines: str, called: str = "") -> str:
    """A program of these lines."""
    body = "\n".join(f"  {line}" for line in ("%p = f32[64,64]{1,0} parameter(0)", *lines))
    return f"HloModule m\n\n{called}\nENTRY %main (p: f32[64,64]) -> f32[64,64] {{\n{body}\n}}\n"


def test_blocks_of_a_scan_count_as_often_as_they_run() -> None:
    # a block is three products and one attention, whatever else
    assert by_kind(SCANNED) == {PRODUCT: 3 * DEPTH, ATTENTION: DEPTH, OTHER: 32}
    assert counted(parse(SCANNED)).launches == 44


def test_products_of_libraries_with_what_follows_them_are_products() -> None:
    assert UNROLLED.count('"BIAS_GELU"') == DEPTH  # in one kernel with fc1
    assert by_kind(UNROLLED) == {PRODUCT: 3 * DEPTH, ATTENTION: DEPTH, OTHER: 2 * DEPTH}
    split, add = 2 * 3 * WIDTH * ROWS * 2, 3 * WIDTH * ROWS * 2
    assert counted(parse(UNROLLED)) == Counts(6 * DEPTH, 2 * DEPTH, DEPTH * (split + add))


def test_room_that_a_library_works_in_is_not_moved() -> None:
    assert UNROLLED.count("s8[4194304]{0}) custom-call") == 3 * DEPTH
    weights = WIDTH * (3 + 4 + 4) * WIDTH + 4 * WIDTH
    # widths read and written: qkv, its split, attention, the residual, fc1, fc2 with its residual
    widths = (1 + 3) + (3 + 3) + (3 + 1) + 3 + (1 + 4) + (4 + 1 + 1)
    assert moved_bytes(parse(UNROLLED)) == DEPTH * 2 * (weights + widths * WIDTH * ROWS)


def test_a_condition_is_asked_where_nobody_knows_how_often_the_loop_runs() -> None:
    known = by_kind(SCANNED)
    once = by_kind(SCANNED.replace("known_trip_count", "trips"))
    loop = {kind: (known[kind] - once[kind]) / (DEPTH - 1) for kind in (PRODUCT, ATTENTION)}
    assert loop == {PRODUCT: 3, ATTENTION: 1}
    names = {one.name for one in launches(parse(SCANNED.replace("known_trip_count", "trips")))}
    assert names - {one.name for one in launches(parse(SCANNED))} == {"loop_compare_fusion"}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('%x = f32[64,64]{1,0} custom-call(%p, %p), custom_call_target="__cublas$gemm"', PRODUCT),
        ('%x = f32[64,64]{1,0} custom-call(%p, %p), custom_call_target="__cublas$lt$matmul$f8"', PRODUCT),
        ('%x = f32[64,64]{1,0} custom-call(%p, %p), custom_call_target="__cudnn$convForward"', PRODUCT),
        ('%x = f32[64,64]{1,0} custom-call(%p, %p), custom_call_target="__cudnn$fmhaSoftmaxBackward"', ATTENTION),
        ('%x = f32[64,64]{1,0} custom-call(%p), custom_call_target="__cub$DeviceRadixSort"', OTHER),
        ("%x = f32[64,64]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}", PRODUCT),
        ("%x = f32[64,64]{1,0} fusion(%p), kind=kCustom, calls=%outer", PRODUCT),
        ("%x = f32[64,64]{1,0} copy(%p)", OTHER),
    ],
)
def test_kinds(line: str, kind: str) -> None:
    """A product inside a fusion inside another, such as one that a slice feeds, is one."""
    inner = '  ROOT %y = f32[64,64]{1,0} custom-call(%q, %q), custom_call_target="__cublas$gemm"'
    called = (
        f"%inner (q: f32[64,64]) -> f32[64,64] {{\n  %q = f32[64,64]{{1,0}} parameter(0)\n{inner}\n}}\n\n"
        "%outer (r: f32[64,64]) -> f32[64,64] {\n  %r = f32[64,64]{1,0} parameter(0)\n"
        "  ROOT %z = f32[64,64]{1,0} fusion(%r), kind=kCustom, calls=%inner\n}\n"
    )
    (one,) = launches(parse(alone(line, called=called)))
    assert (one.name, one.kind, one.times) == ("x", kind, 1)


def test_what_starts_and_is_done_later_is_one_launch_and_names_are_none() -> None:
    text = alone(
        "%flat = f32[4096]{0} bitcast(%p)",
        "%started = (f32[4096]{0}, f32[4096]{0}) all-reduce-start(%flat), to_apply=%add",
        "%done = f32[4096]{0} all-reduce-done(%started)",
        "ROOT %out = (f32[4096]{0}) tuple(%done)",
    )
    assert [one.name for one in launches(parse(text))] == ["started"]
