"""Classifier-free guidance, by the null condition or by a weaker mode (FlexiDiT section 3.4).

Both are one formula, `guide + scale (cond - guide)`:

    same patch     guide = e(null; p), scale = s1
    weaker guide   guide = e(c; weak), scale = s2

and the two scales are tied by `(1 - s1) / (1 - s2) = 2.5`, so that one number, s1, speaks for a
whole schedule: 1.5 means 1.2 where a weaker mode guides. A negative condition takes the place of the guide's own, of
null or of c.
"""

from __future__ import annotations

import jax.numpy as jnp

from flexidit_jax.common.types import Array, Prediction

#: (1 - s1) / (1 - s2)
SCALE_RATIO = 2.5


def weak_guide_scale(s1: Array | float) -> Array | float:
    """s2 for a given s1, number by number."""
    return 1 + (s1 - 1) / SCALE_RATIO


def guided(cond: Prediction, guide: Prediction, scale: Array | float, channels: int | None) -> Prediction:
    """Combines two predictions.

    Args:
      cond, guide: outputs [..., C]; the variance is the conditional one's.
      scale: s1 or s2; a number, or [B, 1, ...] for each sample its own.
      channels: guide only the first few channels (the released DiT guides 3 of 4, and its published
        FID uses that); None guides all.
    """
    output = guide.output + scale * (cond.output - guide.output)
    if channels is not None:
        output = jnp.concatenate([output[..., :channels], cond.output[..., channels:]], axis=-1)
    return Prediction(output, cond.variance)
