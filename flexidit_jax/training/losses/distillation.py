"""Teaching a weak mode to predict what the pre-trained one predicts (FlexiDiT section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.training.losses.diffusion import Predict
from flexidit_jax.training.losses.draws import Draws


@dataclass(frozen=True)
class Loss(Draws):
    """`|output(x_t; powerful) - output(x_t; weak)|^2`, the teacher running in the same step without gradient.

    The output is eps, or a flow's velocity.

    Decision: the paper writes the loss for eps alone; where the variance is learned its raw v is
    matched too, else a weak step would add noise of an untrained size.

    Attributes:
      variance_weight: weight of the squared difference of v.
    """

    asks_teacher: ClassVar[bool] = True
    variance_weight: float = 1.0

    def __call__(
        self,
        process: NoiseProcess,
        predict: Predict,
        teacher: Predict,
        x0: Array,
        cond: Condition,
        t: Array,
        noise: Array,
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates records; arguments and result as in `losses.diffusion`."""
        xt = process.add_noise(x0, noise, t)
        wanted, got = jax.lax.stop_gradient(teacher(xt, t, cond)), predict(xt, t, cond)
        axes = tuple(range(1, x0.ndim))
        terms = {"gap": jnp.mean(jnp.square(got.output - wanted.output), axes)}
        loss = terms["gap"]
        if wanted.variance is not None:
            terms["variance_gap"] = jnp.mean(jnp.square(got.variance - wanted.variance), axes)
            loss = loss + self.variance_weight * terms["variance_gap"]
        return loss, terms
