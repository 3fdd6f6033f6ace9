"""What a training step reads and writes, and how it crosses from one stage into the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from flexidit_jax.common.types import Array, Params, Patch
from flexidit_jax.models.flexify import flexify


class TrainState(flax.struct.PyTreeNode):
    """The state of a run within a stage.

    Attributes:
      step: int32, optimizer steps done in this stage.
      params: stored tree (`models.flexify`).
      ema: moving average of params, same tree.
      optimizer: optax state.
    """

    step: Array
    params: Params
    ema: Params
    optimizer: optax.OptState


def first_state(plain: Params, patches: tuple[Patch, ...], optimizer: optax.GradientTransformation) -> TrainState:
    """The state that begins a run, from plain DiT parameters (random or imported)."""
    params = flexify(plain, patches)
    return TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def next_stage(state: TrainState, patches: tuple[Patch, ...], optimizer: optax.GradientTransformation) -> TrainState:
    """Into the next stage: parameters and EMA through `flexify` (it is linear), a new optimizer."""
    params = flexify(state.params, patches)
    return TrainState(jnp.int32(0), params, flexify(state.ema, patches), optimizer.init(params))


def keep_idle_modes(patch_key: str, old: TrainState, new: TrainState) -> TrainState:
    """Takes leaves of modes not trained in this step from `old`: parameters, moments and EMA alike.

    Decision: AdamW would otherwise move them on zero gradients.
    """

    def pick(path: tuple[Any, ...], before: Array, after: Array) -> Array:
        keys = [getattr(key, "key", None) for key in path]
        idle = "modes" in keys and keys[keys.index("modes") + 1] != patch_key
        return before if idle else after

    return jax.tree_util.tree_map_with_path(pick, old, new)


def abstract(
    plain: Callable[[], Params], patches: tuple[Patch, ...], optimizer: optax.GradientTransformation
) -> TrainState:
    """Shapes and dtypes of `first_state(plain(), patches, optimizer)`, without computing it."""
    return jax.eval_shape(lambda: first_state(plain(), patches, optimizer))
