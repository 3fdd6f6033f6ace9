"""What a training step reads and writes, and how it crosses from one stage into the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Array, Params, Patch, patch_name
from flexidit_jax.models.flexify import flexify, split_frozen
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.updates import Updates


class TrainState(flax.struct.PyTreeNode):
    """The state of a run within a stage.

    Attributes:
      step: int32, optimizer steps done in this stage.
      params: what is trained of the stored tree (`models.flexify`).
      ema: moving average of params, same tree.
      optimizer: optax state.
      frozen: the rest of the stored tree; it has no average and no moments.
    """

    step: Array
    params: Params
    ema: Params
    optimizer: optax.OptState
    frozen: Params

    def parts(self) -> dict[str, Any]:
        """The trees that are saved, each by itself so that a reader takes what it needs; empty ones are left out."""
        parts = {"params": self.params, "ema": self.ema, "optimizer": self.optimizer, "frozen": self.frozen}
        return {name: tree for name, tree in parts.items() if jax.tree.leaves(tree)}


def first_state(plain: Params, stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """The state that begins a run, from plain DiT parameters (random or imported)."""
    params, frozen = split_frozen(flexify(plain, stage.patches, stage.adapters))
    return _state(params, params, frozen, optimizer)


def next_stage(state: TrainState, stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """Into the next stage: parameters and EMA through `flexify` (it is linear), a new optimizer.

    Where the stage freezes the pre-trained weights, it freezes their average: that is the model the
    run has made so far. What stands for no condition is frozen in every stage.
    """
    params, ema = (
        flexify(merge(state.frozen, tree), stage.patches, stage.adapters) for tree in (state.params, state.ema)
    )
    average, frozen = split_frozen(ema)
    trained, _ = split_frozen(params)
    if jax.tree.structure(frozen) != jax.tree.structure(state.frozen):
        trained = average  # new modes begin from the weights that this stage comes to freeze
    return _state(trained, average, frozen, optimizer)


def _state(params: Params, ema: Params, frozen: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state at step 0; all copies, since a step gives its trees away and no array can be given twice."""
    params, ema = jax.tree.map(jnp.copy, (params, ema))
    return TrainState(jnp.int32(0), params, ema, optimizer.init(params), frozen)


def updated(
    state: TrainState,
    gradients: Params,
    optimizer: optax.GradientTransformation,
    ema: Ema,
    patch: Patch,
    counts: Updates,
) -> TrainState:
    """The state after an optimizer step at one mode: parameters, moments, moving average.

    The mode's own leaves and those that all modes train were not updated equally often. The learning rate is that of
    the stage's step for both.
    """
    shared = _stepped(state, gradients, optimizer, ema, adam=state.step, age=counts.shared)
    own = _stepped(state, gradients, optimizer, ema, adam=counts.own, age=counts.age)
    return _by_leaf(patch_name(patch), state, shared, own)


def _stepped(
    state: TrainState,
    gradients: Params,
    optimizer: optax.GradientTransformation,
    ema: Ema,
    adam: Array,
    age: Array,
) -> TrainState:
    """The state after a step, as it is for leaves that were updated so often: `adam` in this stage, `age` in all."""

    def counted(part: Any) -> Any:
        return part._replace(count=jnp.int32(adam)) if isinstance(part, optax.ScaleByAdamState) else part

    told = jax.tree.map(counted, state.optimizer, is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState))
    updates, moments = optimizer.update(gradients, told, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema.rate(age)
    average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
    return TrainState(state.step + 1, params, average, moments, state.frozen)


def _by_leaf(patch_key: str, before: TrainState, shared: TrainState, own: TrainState) -> TrainState:
    """Leaves of the mode trained from `own`, of other modes from `before`, all else from `shared`.

    Decision: AdamW would otherwise move the leaves of idle modes on zero gradients.
    """

    def pick(path: tuple[Any, ...], idle: Array, all_modes: Array, mode: Array) -> Array:
        keys = [getattr(key, "key", None) for key in path]
        if "modes" not in keys:
            return all_modes
        return mode if keys[keys.index("modes") + 1] == patch_key else idle

    return jax.tree_util.tree_map_with_path(pick, before, shared, own)


def abstract(plain: Callable[[], Params], stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of `first_state(plain(), stage, optimizer)`, without computing it."""
    return jax.eval_shape(lambda: first_state(plain(), stage, optimizer))
