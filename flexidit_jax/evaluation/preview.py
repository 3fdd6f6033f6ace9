"""Samples of the moving average, drawn while it is still in training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Patch
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.models.dit import DiT
from flexidit_jax.runs.pictures import contact_sheet
from flexidit_jax.sampling.snapshot import NotFinite
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.training.state import TrainState

logger = logging.getLogger(__name__)


def preview(
    state: TrainState,
    patches: Sequence[Patch],
    *,
    model: DiT,
    process: NoiseProcess,
    codec: Any,
    modes: Sequence[Patch],
    labels: Any,
    spec: SampleSpec,
    **where: Any,
) -> np.ndarray:
    """One sheet of the samples that a config's `sample` section asks for, uint8 [H, W, C].

    Training goes on to the same bits with and without previews. Samples that became NaN are crossed out, and said.

    Args:
      state, patches: of now, and its modes.
      model, process, codec: see `FlexiDiT`.
      modes: of the last stage; as long as some are missing, every step runs powerful and unguided.
      labels, spec, where: what `FlexiDiT.sample` is told.
    """
    here = jax.local_devices()[0]
    params = jax.device_put(merge(state.frozen, state.ema), here)
    flex = FlexiDiT(model, params, process, codec)
    if tuple(patches) != tuple(modes):
        spec = SampleSpec(
            steps=spec.steps, guidance=1.0, guidance_channels=spec.guidance_channels, solver=spec.solver, seed=spec.seed
        )
    failed: Sequence[int] = ()
    try:
        images = flex.sample(labels, spec=spec, **where, progress=False)
    except NotFinite as error:  # of the average; whether to go on is for the loss to say
        logger.warning("preview: %s", error)
        images, failed = error.images, error.failed
    return np.atleast_3d(contact_sheet(images, failed))
