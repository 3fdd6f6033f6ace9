"""Both guidance formulas of FlexiDiT section 3.4, and the tie between their scales."""

from __future__ import annotations

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.types import Prediction
from flexidit_jax.sampling.guidance import guided, weak_guide_scale

RNG = np.random.default_rng(0)
COND, GUIDE = (Prediction(*RNG.normal(size=(2, 3, 1, 4, 4, 4)).astype(np.float32)) for _ in range(2))


@pytest.mark.parametrize("s1", [1.5, 1.0, 2.0, 4.5, 0.5])
def test_tied_scales(s1: float) -> None:
    s2 = weak_guide_scale(s1)
    assert 1 - s1 == pytest.approx(2.5 * (1 - s2))


def test_the_published_pair() -> None:
    assert weak_guide_scale(1.5) == pytest.approx(1.2)


@pytest.mark.parametrize("scale", [1.5, 1.2, 1.0, 0.0])
def test_the_formula_and_the_variance_of_the_condition(scale: float) -> None:
    mixed = guided(COND, GUIDE, scale, None)
    # e(null) + s1 (e(c) - e(null)), and e(c; weak) + s2 (e(c; powerful) - e(c; weak)): one formula
    np.testing.assert_allclose(mixed.output, (1 - scale) * GUIDE.output + scale * COND.output, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixed.variance, COND.variance)


def test_the_ends_are_the_guide_and_the_condition() -> None:
    np.testing.assert_array_equal(guided(COND, GUIDE, 0.0, None).output, GUIDE.output)
    np.testing.assert_allclose(guided(COND, GUIDE, 1.0, None).output, COND.output, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_only_the_first_channels_are_guided(channels: int) -> None:
    mixed, full = guided(COND, GUIDE, 1.5, channels), guided(COND, GUIDE, 1.5, None)
    np.testing.assert_array_equal(mixed.output[..., :channels], full.output[..., :channels])
    np.testing.assert_array_equal(mixed.output[..., channels:], COND.output[..., channels:])
    assert np.abs(mixed.output[..., :channels] - COND.output[..., :channels]).max() > 0.1


def test_no_variance_stays_none() -> None:
    assert guided(Prediction(COND.output, None), Prediction(GUIDE.output, None), 1.5, 3).variance is None


@pytest.mark.parametrize(
    ("guide", "packing"),
    [("2:1", "separate"), ("4:1", "separate"), ("4:1", "packed"), ("4:1", "joined"), ("4:1", "padded")],
)
def test_channels_that_are_not_guided_keep_the_conditional_prediction(
    flex: fd.FlexiDiT, guide: str, packing: str
) -> None:
    """One step, in which no channel reaches another; whether the null condition guides or a weaker mode."""
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    words = {"steps": 1, "schedule": "2:1", "solver": "ddim", "noise": x, "decode": False, "progress": False}
    guiding = {"guide": guide, "guidance": 3.0, "packing": packing}
    alone = flex.sample([1, 2], guidance=1.0, **words)
    every = flex.sample([1, 2], **guiding, **words)
    three = flex.sample([1, 2], guidance_channels=3, **guiding, **words)
    tolerance = 1e-5 * np.abs(every).max()
    np.testing.assert_allclose(three[..., :3], every[..., :3], rtol=0, atol=tolerance)
    np.testing.assert_allclose(three[..., 3], alone[..., 3], rtol=0, atol=tolerance)
    for channel in range(4):
        assert np.abs(every - alone)[..., channel].max() > 1e3 * tolerance
