"""Batches of samples: each with its own noise, drawn or given, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

import flexidit_jax as fd

WORDS = {"steps": 3, "schedule": "4:1,2:2", "guidance": 1.5, "decode": False, "progress": False}


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("given", ["drawn", "noise", "step noise"])
def test_batches_are_parts_of_one(flex: fd.FlexiDiT, given: str) -> None:
    """Five samples at once and in batches of two, the last of which is filled up."""
    rng, more = np.random.default_rng(0), {}
    if given != "drawn":
        more["noise"] = rng.normal(size=(5, 8, 8, 4)).astype(np.float32)
    if given == "step noise":
        more["step_noise"] = rng.normal(size=(3, 5, 8, 8, 4)).astype(np.float32)
    labels = [0, 1, 2, 3, None]
    whole = flex.sample(labels, **WORDS, **more)
    parts = flex.sample(labels, batch=2, **WORDS, **more)
    assert whole.shape == parts.shape == (5, 8, 8, 4)
    close(parts, whole)


def test_a_sequence_goes_on_where_it_was_left(flex: fd.FlexiDiT) -> None:
    whole = flex.sample([0, 1, 2, 3], seed=7, **WORDS)
    close(flex.sample([2, 3], seed=7, first=2, **WORDS), whole[2:])
    assert np.abs(flex.sample([2, 3], seed=7, **WORDS) - whole[2:]).max() > 0.1
