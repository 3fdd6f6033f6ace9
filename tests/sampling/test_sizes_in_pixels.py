"""A size in pixels, or the ratio of the sides: drawn exactly, or refused with the nearest that would do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.codecs.sd_vae import Codec as VAE
from flexidit_jax.common.aspect_bins import BINS
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.sampling.sizes import Size, size_of

WORDS = {"steps": 2, "decode": False, "progress": False}
PROMPTS = ["a red apple", "two dogs play"]


@pytest.fixture(scope="module")
def pixels(texts: fd.FlexiDiT) -> fd.FlexiDiT:
    """Latents are pixels, 16x16 of them."""
    return dataclasses.replace(texts, codec=Codec())


def published(model: fd.FlexiDiT, side: int, patches: tuple[int, ...] = (2, 4)) -> dict[str, Any]:
    """What `size_of` is told of a PixArt for pictures of `side` pixels."""
    network = model.model.clone(latent=(1, side // 8, side // 8, 4), span=16.0)
    return {"model": network, "codec": VAE(), "patches": tuple((1, patch, patch) for patch in patches)}


def test_a_size_is_drawn_exactly(pixels: fd.FlexiDiT) -> None:
    wide = pixels.sized((1, 8, 20, 4))
    drawn = pixels.sample(PROMPTS, size=(8, 20), budget=0.6, **WORDS)
    assert drawn.shape == (2, 8, 20, 4)
    np.testing.assert_array_equal(drawn, wide.sample(PROMPTS, budget=0.6, **WORDS))
    spec = pixels.meant(size=(8, 20), budget=0.6)
    assert spec.size == (8, 20) and fd.SampleSpec.of_record(spec.recorded()) == spec
    assert pixels.sample(PROMPTS, aspect="3:2", **WORDS).shape == (2, 12, 20, 4)
    assert pixels.plan(size=(8, 20), budget=0.6) == wide.plan(budget=0.6)
    assert pixels.flops(size=(8, 20), steps=1).total == 2 * forward_flops(wide.model, (1, 2, 2))
    [*_, last] = pixels.steps(PROMPTS, size=(8, 20), steps=2)
    assert last.x.shape == (2, 1, 8, 20, 4) and pixels.decode(last.x).shape == (2, 8, 20, 4)
    assert pixels.sample(PROMPTS, size=(16, 16), **WORDS).shape == (2, 16, 16, 4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"size": 512}, "size must be (height, width) in pixels, such as (512, 768), got 512"),
        ({"size": (512,)}, "size must be (height, width) in pixels, such as (512, 768), got (512,)"),
        ({"size": (512, 0)}, "size must be (height, width) in pixels, such as (512, 768), got (512, 0)"),
        ({"size": (5.5, 8)}, "size must be (height, width) in pixels, such as (512, 768), got (5.5, 8)"),
        ({"aspect": "3/2"}, "aspect must be the width to the height, such as '3:2', got '3/2'"),
        ({"aspect": "3:0"}, "aspect must be the width to the height, such as '3:2', got '3:0'"),
        ({"aspect": 1.5}, "aspect must be the width to the height, such as '3:2', got 1.5"),
        ({"size": (8, 8), "aspect": "1:1"}, "give a size or an aspect, not both (size=(8, 8), aspect='1:1')"),
    ],
)
def test_what_is_no_size(words: dict[str, Any], says: str) -> None:
    with pytest.raises(fd.UserError) as caught:
        fd.SampleSpec(**words)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((500, 768), "a height of 480 or 512 and a width of 768"),
        ((512, 750), "a height of 512 and a width of 736 or 768"),
        ((500, 750), "a height of 480 or 512 and a width of 736 or 768"),
        ((20, 512), "a height of 32 and a width of 512"),
    ],
)
def test_nothing_is_snapped(texts: fd.FlexiDiT, size: tuple[int, int], says: str) -> None:
    with pytest.raises(fd.UserError) as caught:
        size_of([Size(size)], **published(texts, 512))
    assert str(caught.value) == (
        f"size={size!r}: sides must be multiples of 32x32 pixels, a patch of the weakest mode; the nearest are {says}"
    )
    assert size_of([Size((496, 752))], **published(texts, 512, (2,))) == (Size((496, 752), None, 1), (1, 62, 94, 4))


@pytest.mark.parametrize(
    ("side", "aspect", "size"),
    [
        (256, "1:1", (256, 256)),
        (256, "3:2", (192, 320)),
        (256, "2:3", (320, 192)),
        (256, "16:9", (192, 320)),
        (256, "5:4", (224, 288)),
        (256, "9:1", (128, 512)),
        (512, "3:2", (416, 608)),
        (512, "16:9", (384, 672)),
        (1024, "3:2", (832, 1216)),
        (1024, "16:9", (768, 1344)),
        (2048, "1:4", (4096, 1024)),
    ],
)
def test_a_ratio_picks_the_nearest_bin(texts: fd.FlexiDiT, side: int, aspect: str, size: tuple[int, int]) -> None:
    """At 256 of those alone whose sides a patch of 4 divides, multiples of 32."""
    found = size_of([Size(None, aspect)], **published(texts, side))
    assert found == (Size(size, None, 1), (1, size[0] // 8, size[1] // 8, 4))
    width, height = map(int, aspect.split(":"))
    if side == 256:
        assert size_of([Size(None, "3:2")], **published(texts, 256, (2,)))[0].size == (208, 304)
    allowed = [(h * side // 256, w * side // 256) for h, w in BINS]
    allowed = [(h, w) for h, w in allowed if h % 32 == w % 32 == 0]
    assert abs(size[0] / size[1] - height / width) <= min(abs(h / w - height / width) for h, w in allowed) + 0.01


def test_a_keyword_stands_in_place_of_what_a_spec_says(pixels: fd.FlexiDiT) -> None:
    spec = fd.SampleSpec(aspect="1:1")
    assert pixels.meant(spec=spec, size=(8, 20)).size == (8, 20)
    assert pixels.meant(spec=fd.SampleSpec(size=(8, 20)), aspect="1:1").size == (16, 16)
    assert pixels.meant(spec=fd.SampleSpec(size=(8, 20)), steps=3).size == (8, 20)


def test_who_draws_one_size_alone(pixels: fd.FlexiDiT, texts: fd.FlexiDiT, dit: fd.FlexiDiT) -> None:
    labels, dit = WORDS, dataclasses.replace(dit, codec=Codec())
    assert dit.sample([1], size=(8, 8), **labels).shape == (1, 8, 8, 4)
    for run, says in (
        (
            lambda: dit.sample([1], size=(16, 8), **labels),
            r"^size=\(16, 8\): this model draws 8x8 alone, since its positions count patches$",
        ),
        (
            lambda: dit.sample([1], aspect="3:2", **labels),
            r"^aspect='3:2': this model draws 8x8 alone, since its positions count patches$",
        ),
        (
            lambda: texts.sample(PROMPTS, size=(8, 8), **WORDS),
            r"^size=\(8, 8\): this model has no codec, which tells pixels of latents; FlexiDiT\.sized takes latents$",
        ),
        (
            lambda: pixels.sample(PROMPTS, spec=[fd.SampleSpec(size=(8, 8)), fd.SampleSpec()], **WORDS),
            r"^what is drawn in one call is of one size; call once for each size$",
        ),
        (
            lambda: pixels.sampler.plan(fd.SampleSpec(size=(8, 20))),
            r"^a sampler draws one size; take that of the model of another, of FlexiDiT\.of_size$",
        ),
        (
            lambda: size_of([Size(None, "3:2")], **published(texts, 256, (2, 128))),
            r"^aspect='3:2': no bin of pictures of 256 pixels can be drawn; give a size$",
        ),
    ):
        with pytest.raises(fd.UserError, match=says):
            run()


def test_a_size_far_from_the_trained_one_is_said(texts: fd.FlexiDiT, capsys: pytest.CaptureFixture[str]) -> None:
    size_of([Size((512, 768)), Size((512, 768))], **published(texts, 512))
    assert capsys.readouterr().err == ""
    size_of([Size((512, 512))], **published(texts, 1024))
    assert capsys.readouterr().err == (
        "note: 512x512 is far from the 1024x1024 that this model was trained at (0.25 times the pixels); its pictures"
        " may repeat or fall apart\n"
    )
    size_of([Size((192, 1280))], **published(texts, 512))
    assert "192x1280 is far from the 512x512" in capsys.readouterr().err


def test_a_saved_spec_and_a_call_speak_of_the_same_pictures(pixels: fd.FlexiDiT, tmp_path: Path) -> None:
    pixels.save(tmp_path / "model")
    again, spec = fd.load(tmp_path / "model"), pixels.meant(size=(8, 20), steps=2)
    record = spec.recorded()
    assert record["size"] == [8, 20] and record["aspect"] is None
    drawn = again.sample(PROMPTS, fd.SampleSpec.of_record(record), decode=False, progress=False)
    np.testing.assert_array_equal(drawn, pixels.sample(PROMPTS, size=(8, 20), **WORDS))
