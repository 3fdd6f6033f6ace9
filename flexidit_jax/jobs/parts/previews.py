"""Samples of the moving average, drawn while it is still in training."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Patch
from flexidit_jax.jobs.parts.experiment import Experiment
from flexidit_jax.jobs.parts.pictures import contact_sheet
from flexidit_jax.training.state import TrainState

#: words of `sample` that need no second mode
ANY_MODES = {"labels", "steps", "guidance_channels", "solver", "seed", "batch"}


def preview(experiment: Experiment, state: TrainState, patches: Sequence[Patch]) -> np.ndarray:
    """One sheet of the samples that the config's `sample` section asks for, uint8 [H, W, C].

    Before the stage that has all modes (`patches` are those of now), every step runs powerful and unguided.
    Training goes on to the same bits with and without previews.
    """
    here = jax.local_devices()[0]
    params = jax.device_put(merge(state.frozen, state.ema), here)
    flex = FlexiDiT(experiment.model, params, experiment.process, experiment.codec)
    words = dict(experiment.sample)
    if tuple(patches) != tuple(experiment.train.stages[-1].patches):
        words = {key: value for key, value in words.items() if key in ANY_MODES} | {"guidance": 1.0}
    return np.atleast_3d(contact_sheet(flex.sample(**words, progress=False)))
