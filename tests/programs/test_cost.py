"""What a program of texts takes: keys and values are among its arguments, and no work of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import pytest

import flexidit_jax as fd
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.programs.cost import compile_program, table
from flexidit_jax.programs.lower import Lowering, sampling_programs
from flexidit_jax.programs.slices import devices_here
from flexidit_jax.training.losses.diffusion import Loss
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.section import Training
from flexidit_jax.training.stages import Stage

P2, P4 = (1, 2, 2), (1, 4, 4)
DEPTH, M, WIDTH = 2, 50, 16


@pytest.fixture(scope="module")
def lowerings() -> list[Lowering]:
    text = {"name": "text", "features": 8, "length": M, "null_length": 1}
    words = {"width": WIDTH, "depth": DEPTH, "num_heads": 2, "modulation": "single", "span": 4.0}
    model = build_dit((1, 8, 8, 4), text, dtype="bfloat16", **words)
    train = Training(
        batch=4, stages=(Stage((P2, P4), 5, loss=Loss()),), optimizer=AdamW(), ema=Ema(), mesh={}, log_every=1,
        checkpoint_every=1, keep=1, workers=0, accumulate=1, preview_every=None, spike=None,
    )  # fmt: skip
    spec = fd.SampleSpec(steps=3, schedule="4:1,2:2", guide="none:1,4:1,2:1", guidance=2.0)
    return list(sampling_programs(model, Process(), train, spec, 3, jax.devices()[0]))


def test_keys_and_values_are_told(lowerings: list[Lowering]) -> None:
    where = devices_here()
    one = DEPTH * 2 * M * WIDTH * 2  # bfloat16
    assert [(made.name, made.kept) for made in lowerings] == [
        ("sample, 4+none", 3 * one), ("sample, 2+4, separate", 6 * one), ("sample, 2+2", 6 * one)
    ]  # fmt: skip
    compiled = compile_program(lowerings[0], where)
    larger = compile_program(replace(lowerings[0], batch=6), where)
    assert compiled.as_json(where)["kept"] == compiled.kept == 3 * one and larger.kept == 6 * one
    grown = larger.arguments - compiled.arguments  # besides, the mask, six latents, noise and rows of three samples
    assert 3 * one < grown < 3 * one + 3 * (M + 4 * 6 * 256 + 4 * 20) + 512
    text = table([compiled], where)
    assert "| program | of the arguments, keys and values of texts, GiB |" in text
    assert f"| sample, 4+none | {3 * one / 2**30:.3g} |" in text
    assert "keys and values" not in table([replace(compiled, kept=0)], where)


def test_a_program_does_no_work_for_them(lowerings: list[Lowering]) -> None:
    model = build_dit(
        (1, 8, 8, 4), {"name": "text", "features": 8, "length": M}, width=WIDTH, depth=DEPTH, num_heads=2,
        modulation="single", span=4.0,
    )  # fmt: skip
    cost = partial(forward_flops, model, text_kept=True)
    assert [made.image_flops for made in lowerings] == [cost(P4), cost(P2) + cost(P4), 2 * cost(P2)]
