"""The engine's programs as `jax.export` artifacts: any batch size, several platforms, no weights inside.

    step(weights, rows, scale, x, x_last, x0_prev, z_last, lost, cond, guide_cond, noise)
        -> (x, x_last, x0_prev, z_last, lost)
    noise(seeds, indices, draws) -> [B, F, H, W, C]

Every sample has a row of a solver's table, a scale and a seed of its own: rows [B, columns], scale, seeds, indices and
draws [B]. Arguments are arrays and lists of them, a condition a list in the order of its sorted names: whoever calls an
artifact needs none of this package's types.
Lowering asks for no device, so programs for a TPU or a GPU are made on any machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jax import export

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array, Patch, as_patch, short_patch_name
from flexidit_jax.diffusion.steps import Carry, Steps, lost_shape
from flexidit_jax.models.conditioning.condition import shapes
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.noise import normal
from flexidit_jax.sampling.schedule import Pair, pair_text
from flexidit_jax.sampling.trajectory import Program, StepRows

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def runnable_pairs(patches: Sequence[Patch]) -> list[Pair]:
    """All that a model of these modes can run: a guide is none, the same mode or one no more powerful."""
    guided = [
        (cond, guide)
        for cond, guide in itertools.product(patches, patches)
        if guide == cond or np.prod(guide) >= np.prod(cond)
    ]
    return [*((patch, None) for patch in patches), *guided]


def parse_pairs(texts: Sequence[str | int], patches: Sequence[Patch]) -> list[Pair]:
    """Reads `("2", "2+4")`, "2" being short for "2+none".

    Raises:
      UserError: what a model of these modes cannot run.
    """
    known = {pair_text(*pair): pair for pair in runnable_pairs(patches)}
    chosen: dict[str, Pair] = {}
    for text in map(str, texts):
        cond, _, guide = text.partition("+")
        name = pair_text(as_patch(cond), None if guide in ("", "none") else as_patch(guide))
        if name not in known:
            raise UserError(f"export.pairs: this model has no pair {text!r}{nearest(name, known)}")
        chosen[name] = known[name]
    return list(chosen.values())


def step_weights(engine: Engine, pair: Pair) -> dict[str, Array]:
    """The weights that a step reads, in the order of its argument.

    Returns:
      Each under its path in the mode's tree, such as `"2/blocks/mlp/fc1/kernel"`; a guide's weights
      stand under the guide's patch.
    """
    _, weights = engine.step(Program(*pair))
    return {
        "/".join([short_patch_name(patch), *(key.key for key in path)]): leaf
        for patch, params in zip(pair, weights, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def export_step(engine: Engine, pair: Pair, channels: int | None, platforms: Sequence[str]) -> bytes:
    """The step program of a pair, serialised.

    Args:
      channels: see `sampling.guidance.guided`.
      platforms: of `PLATFORMS`.
    """
    run, weights = engine.step(Program(*pair, channels=pair[1] and channels))
    leaves, tree = jax.tree.flatten(weights)
    (batch,) = export.symbolic_shape("b")
    fields, read = jax.tree.flatten(shapes(engine.model.conditioner, batch))

    def step(
        weights: list[Array], rows: Array, scale: Array, x: Array, x_last: Array, x0_prev: Array, z_last: Array,
        lost: Array, cond: list[Array], guide_cond: list[Array], noise: Array,
    ) -> tuple[Array, ...]:  # fmt: skip
        guided = None if pair[1] is None else read.unflatten(guide_cond)
        carry = Carry(x, x_last, x0_prev, z_last, lost)
        return tuple(run(*tree.unflatten(weights), StepRows(rows, scale), carry, read.unflatten(cond), guided, noise))

    x = jax.ShapeDtypeStruct((batch, *engine.model.latent), np.float32)
    return _serialised(
        step,
        platforms,
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves],
        jax.ShapeDtypeStruct((batch, len(Steps._fields)), np.float32),
        jax.ShapeDtypeStruct((batch,), np.float32),
        *[x] * 4,
        jax.ShapeDtypeStruct(lost_shape(x.shape), np.float32),
        fields,
        fields,
        x,
    )


def export_noise(latent: tuple[int, ...], platforms: Sequence[str]) -> bytes:
    """The program that draws noise, serialised; a draw is 0 for x_T and k + 1 for the k-th executed step."""
    numbers = jax.ShapeDtypeStruct(export.symbolic_shape("b"), np.uint32)
    return _serialised(lambda *args: normal(*args, latent), platforms, numbers, numbers, numbers)


def _serialised(function: object, platforms: Sequence[str], *args: object) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=tuple(platforms))(*args).serialize())
