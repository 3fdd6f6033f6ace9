"""A sheet in training: what is lost of it does not end the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.evaluation.preview import preview
from flexidit_jax.runs.pictures import contact_sheet


def test_a_lost_sample_is_crossed_out_and_said(
    flex: fd.FlexiDiT, spoilt: Callable[..., fd.FlexiDiT], caplog: pytest.LogCaptureFixture
) -> None:
    model = spoilt(flex, 3)
    spec = fd.SampleSpec(steps=2, guidance=1.0, seed=4)
    with caplog.at_level(logging.WARNING, "flexidit_jax"):
        sheet = preview(
            SimpleNamespace(frozen={}, ema=model.params),
            model.patches,
            model=model.model.clone(latent=(1, 8, 8, 4)),
            process=model.process,
            codec=Codec(),
            modes=model.patches,
            labels=[1, 3],
            spec=spec,
        )
    (line,) = caplog.messages
    assert line.startswith("preview: 1 of 2 samples became NaN or infinite: number 1 after 1 of 2 steps;")
    latents = flex.sample([1, 3], spec=spec, decode=False, progress=False)
    wanted = contact_sheet(np.asarray(Codec().decode(latents[:, None]))[:, 0], [1])
    np.testing.assert_array_equal(sheet, np.atleast_3d(wanted))
