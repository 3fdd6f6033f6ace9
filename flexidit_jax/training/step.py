"""One optimizer step at one patch size, as one jitted program per mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from flexidit_jax.common.axes import platform, using
from flexidit_jax.common.compiler_options import compiler_options
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.diffusion.process import NoiseProcess, read_by
from flexidit_jax.models.conditioning.condition import Condition, dropped
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import at
from flexidit_jax.training.accumulate import accumulated, micro_batches, quartiles
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.sharding import constrained
from flexidit_jax.training.state import TrainState, updated
from flexidit_jax.training.updates import Updates

Metrics = dict[str, Array]
Step = Callable[[TrainState, Array, Condition, Array, Patch, Updates], tuple[TrainState, Metrics]]


def make_step(
    model: DiT,
    process: NoiseProcess,
    loss: Any,
    optimizer: optax.GradientTransformation,
    ema: Ema,
    seed: int,
    times: Mapping[Patch, tuple[float, float]] | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
) -> Step:
    """The training step of a stage.

    Args:
      model, process, loss, optimizer, ema: what the config built.
      seed: of all randomness.
      times: shares of the way to noise between which a mode's t is drawn; modes not named train at all times.
      mesh: where state and batch lie (`training.sharding`); None for one device.
      accumulate: micro-batches the batch is evaluated in, one after the other; the gradient is their mean, and
        what is drawn for a record does not depend on it.

    Returns:
      step(state, x0, cond, number, patch, counts) -> (state, metrics): x0 [B, F, H, W, C] latents, of any size that the
      model can be `sized` to, cond of B samples,
      `number` the step of the whole run (all randomness comes from (seed, number)), `patch` static, `counts` from
      `training.updates`.
      Metrics are scalars (loss, its terms and grad_norm) and, by quarter of the way to noise, low noise first,
      `quartile_sums` and `quartile_counts` [4]: the sum of the losses of the records there, and their number.
      The state is donated.
    """
    place = partial(constrained, mesh=mesh)
    with using(mesh):
        options = compiler_options(platform())

    @partial(jax.jit, static_argnames="patch", donate_argnames="state", compiler_options=options)
    def step(
        state: TrainState, x0: Array, cond: Condition, number: Array, patch: Patch, counts: Updates
    ) -> tuple[TrainState, Metrics]:
        # ------------------------------------------------------------ Draw, for the whole batch
        drop_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        cond = dropped(cond, drop_key, model.conditioner.drop_rate)
        t, noise = loss.draw(process, loss_key, x0.shape, (times or {}).get(patch, (0.0, 1.0)))

        # ------------------------------------------------------------ Evaluate, part by part
        def objective(params: Params, x0: Array, cond: Condition, t: Array, noise: Array) -> tuple[Array, Metrics]:
            stored = merge(state.frozen, params)

            def network(mode: Patch, x: Array, t: Array, cond: Condition) -> Prediction:
                sized = model.sized(x.shape[1:]).at(mode)
                return read_by(process, sized.apply({"params": at(stored, mode)}, x, t, cond))

            student, teacher = partial(network, patch), partial(network, model.base_patch)
            values, terms = loss(process, student, teacher, x0, cond, t, noise)
            return values.mean(), {**terms, "loss": values, "t": t}

        with using(mesh):
            parts = micro_batches((x0, cond, t, noise), accumulate)
            gradients, records = accumulated(objective, state.params, parts, place)

        # ------------------------------------------------------------ Update
        new = updated(state, gradients, optimizer, ema, patch, counts)
        by_time = quartiles(records["loss"], process.share(records.pop("t")))
        metrics = {name: values.mean() for name, values in records.items()}
        metrics |= {"grad_norm": optax.global_norm(gradients), **by_time}
        return place(new), metrics

    return step
