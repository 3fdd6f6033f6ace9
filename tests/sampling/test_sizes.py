"""Sizes other than a model's own: of the call are positions, noise, FLOPs, micro-conditions and programs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.noise import draws, normal

GOLDEN = Path(__file__).parents[1] / "golden"
WIDE = (1, 8, 20, 4)
P2, P4 = (1, 2, 2), (1, 4, 4)
WORDS = {"steps": 2, "schedule": "4:1,2:1", "guide": "4:2", "guidance": 2.0, "progress": False}


@pytest.fixture(scope="module")
def flex() -> fd.FlexiDiT:
    """Modes 2 and 4 of a model with micro-conditions, every leaf off zero; no text has a null of two tokens."""
    flex = fd.load(GOLDEN / "pixart_micro_tiny.safetensors")
    conditioner = flex.model.conditioner.clone(length=10, null_length=2)
    trunk = flex.params["trunk"]
    trunk = {**trunk, "conditioner": {**trunk["conditioner"], "null": np.ones((2, 24), np.float32)}}
    model, params = flex.model.clone(conditioner=conditioner), {**flex.params, "trunk": trunk}
    flex = replace(flex, model=model, params=params, codec=Codec()).flexify((2, 4))
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), flex.params)
    return replace(flex, params=moved)


@pytest.fixture(scope="module")
def wide(flex: fd.FlexiDiT) -> fd.FlexiDiT:
    return flex.sized(WIDE)


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray | None]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, 24)).astype(np.float32) if n else None for n in (10, 3, 0)]


def near(ours: Any, theirs: Any, tolerance: float = 1e-5) -> bool:
    return float(np.abs(np.asarray(ours) - theirs).max()) <= tolerance * float(np.abs(np.asarray(theirs)).max())


def test_noise_and_pictures_are_of_the_size(flex: fd.FlexiDiT, wide: fd.FlexiDiT, texts: list) -> None:
    state = wide.sampler.start(texts, fd.SampleSpec(steps=2, seed=7))
    np.testing.assert_array_equal(state.carry.x, normal(*draws(7, np.arange(3), -1), WIDE))
    pictures, latents = (wide.sample(texts, decode=decode, **WORDS) for decode in (True, False))
    assert (pictures.shape, pictures.dtype, latents.shape) == ((3, 8, 20, 4), np.uint8, (3, 8, 20, 4))
    np.testing.assert_array_equal(pictures, flex.decode(latents))
    assert flex.sample(texts, decode=False, **WORDS).shape == (3, 16, 16, 4)


@pytest.mark.parametrize("packing", ["separate", "packed", "joined", "padded"])
def test_a_sample_is_what_predictions_of_its_size_make(
    flex: fd.FlexiDiT, wide: fd.FlexiDiT, texts: list, packing: str
) -> None:
    """DDIM in one step by hand; a weaker guide, whose row in packed rows reads each image's own text."""
    noise, away = np.random.default_rng(3).normal(size=(3, 8, 20, 4)).astype(np.float32), texts[::-1]
    words = {"steps": 1, "solver": "ddim", "decode": False, "progress": False, "packing": packing, "noise": noise}
    ours = wide.sample(texts, negative=away, schedule="2:1", guide="4:1", guidance=3.0, **words)
    (t,), bar = flex.process.chain(1).t, flex.process.chain(1).alpha_bar[0]
    conditioner = wide.model.conditioner
    np.testing.assert_array_equal(conditioner.parse(texts)["resolution"], [[64, 160]] * 3)
    strong = flex.predict(noise, np.full(3, t), conditioner.parse(texts)).output
    led = [text if negative is None else negative for text, negative in zip(texts, away)]
    weak = flex.predict(noise, np.full(3, t), conditioner.parse(led), patch=4).output
    eps = np.asarray(weak) + (1 + 2 / 2.5) * (np.asarray(strong) - weak)
    assert near(ours, (noise - np.sqrt(1 - bar) * eps) / np.sqrt(bar))
    others = flex.predict(noise, np.full(3, t), flex.model.conditioner.parse(texts)).output  # of its own size's words
    assert not near(others, strong, 1e-3)


def test_flops_and_budgets_are_of_the_size(flex: fd.FlexiDiT, wide: fd.FlexiDiT) -> None:
    assert wide.flops(steps=4).total == 8 * forward_flops(wide.model, P2)
    shares = [forward_flops(model, P4) / forward_flops(model, P2) for model in (flex.model, wide.model)]
    assert shares[0] != shares[1]
    assert [one.flops(steps=4, schedule="4:4").relative for one in (flex, wide)] == pytest.approx(shares)
    assert forward_flops(wide.model, P2) / forward_flops(flex.model, P2) == pytest.approx(40 / 64, abs=0.1)


def test_weights_are_shared_and_a_size_has_programs_of_its_own(flex: fd.FlexiDiT, texts: list) -> None:
    flex = replace(flex, model=flex.model.clone(unroll=2))  # programs of no other test
    words = {**WORDS, "decode": False}
    flex.sample(texts, **words)
    before = compiled_programs()
    flex.sized(WIDE).sample(texts, **words)
    assert compiled_programs() > before
    before = compiled_programs()
    for i in range(20):
        schedule = f"4:{1 + i % 3},2:{4 - i % 3}"
        flex.sized(WIDE).sample(texts, **{**words, "steps": 5, "schedule": schedule, "guide": "4:5", "seed": i})
        flex.sample(texts, **{**words, "guidance": 1.5 + i, "solver": "ddim"})
    assert compiled_programs() == before
    ours, theirs = (
        jax.tree.leaves([weights for _, weights in one._engine._modes.values()]) for one in (flex, flex.sized(WIDE))
    )
    assert all(a is b for a, b in zip(ours, theirs, strict=True))


def test_a_size_of_a_size_is_that_of_the_first(flex: fd.FlexiDiT, wide: fd.FlexiDiT) -> None:
    again = wide.sized((1, 16, 16, 4))
    assert again.model == flex.model and hash(again.model) == hash(flex.model)
    assert flex.sized(flex.model.latent).model == flex.model


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ((1, 8, 18, 4), "patch 4 does not divide the latent 1x8x18 (frames x height x width)"),
        ((1, 8, 8, 3), "a latent must be (1, height, width, 4) for this model, got (1, 8, 8, 3)"),
        ((2, 8, 8, 4), "a latent must be (1, height, width, 4) for this model, got (2, 8, 8, 4)"),
        ((8, 8), "a latent must be (1, height, width, 4) for this model, got (8, 8)"),
        ((1, 0, 8, 4), "a latent must be (1, height, width, 4) for this model, got (1, 0, 8, 4)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(flex: fd.FlexiDiT, latent: tuple[int, ...], message: str) -> None:
    with pytest.raises(fd.UserError, match=f"^{re.escape(message)}$"):
        flex.sized(latent)


def test_what_is_asked_at_once_is_of_one_size(flex: fd.FlexiDiT, dit: fd.FlexiDiT, texts: list) -> None:
    x, t = np.zeros((3, 8, 18, 4), np.float32), np.zeros(3)
    assert flex.predict(x, t, texts).output.shape == x.shape  # of the mode in use alone
    for run, message in (
        (lambda: flex.predict(x, t, texts, patch=4), r"^patch 4 does not divide the latent 1x8x18 \(frames x height x"),
        (
            lambda: flex.predict(x[..., :3], t, texts),
            r"^x must have shape \[B, height, width, 4\], got \[3, 8, 18, 3\]$",
        ),
        (lambda: flex.predict(x[:, :0], t, texts), r"^x must have shape \[B, height, width, 4\], got \[3, 0, 18, 4\]$"),
        (lambda: dit.predict(x, t, [1, 2, 3]), r"^x must have shape \[B, 8, 8, 4\], got \[3, 8, 18, 4\]$"),
        (lambda: dit.sized((1, 16, 16, 4)), r"^a latent must be 8x8 for this model, whose positions count patches$"),
        (
            lambda: flex.sample(texts, noise=x, **WORDS),
            r"^noise must have shape \[B, 16, 16, 4\], got \[3, 8, 18, 4\]$",
        ),
    ):
        with pytest.raises(fd.UserError, match=message):
            run()


def test_texts_count_in_every_evaluation_or_once(flex: fd.FlexiDiT) -> None:
    calls = [forward_flops(flex.model, patch, text_kept=kept) for kept in (False, True) for patch in (P2, P4)]
    own = 2 * 10 * (flex.model.conditioner.features * 24 + 24**2)
    once = (calls[0] - calls[2], 2 * 2 * 10 * 24**2 * flex.model.depth + own)
    assert once[0] == once[1]
    words = {"steps": 4, "schedule": "4:2,2:2"}
    assert flex.flops(**words).total == 4 * sum(calls[:2])
    kept = flex.flops(**words, text_kept=True)
    assert kept.total == 4 * sum(calls[2:]) + 2 * once[0]  # the text's own and those of none
    assert flex.flops(**words, guidance=1.0, text_kept=True).total == 2 * sum(calls[2:]) + once[0]
    assert kept.relative == kept.total / (8 * calls[2] + 2 * once[0]) < flex.flops(**words).relative
