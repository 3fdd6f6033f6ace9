"""The engine's programs as `jax.export` artifacts: any batch size, several platforms, no weights inside.

    modulations(weights, t, cond) -> (blocks [L, K, 6, d], last [K, 2, d])
    step(weights, tables, rows, scale, pick, x, x_last, x0_prev, z_last, lost, cond, guide_cond, noise)
        -> (x, x_last, x0_prev, z_last, lost)
    noise(seeds, indices, draws) -> [B, F, H, W, C]
    kept(weights, cond) -> [vector, ...]

Every sample has a row of a solver's table, a scale and a seed of its own: rows [B, columns], scale, seeds, indices and
draws [B]. Modulations are those of a mode at K times and conditions, made for many steps at once; `tables` are blocks
and last of the conditional mode, then of the guide where that is another; `pick` int32 [B, predictions] is the row of
them that each sample reads. Arguments are arrays and lists of them, a condition a list in the order of its sorted
names: whoever calls an artifact needs none of this package's types. Where blocks read conditions by themselves, `kept`
makes once what steps are handed in place of a condition; modulations are handed the first of it, or nothing where they
are not made of conditions (`modulated` in the manifest, 1 or 0).
Lowering asks for no device, so programs for a TPU or a GPU are made on any machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array, Params, Patch, as_patch, short_patch_name
from flexidit_jax.diffusion.steps import Carry, Steps, lost_shape
from flexidit_jax.models.conditioning.condition import Context, Given, shapes
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.noise import normal
from flexidit_jax.sampling.schedule import Pair, pair_text
from flexidit_jax.sampling.tables import asked_of
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


def named_weights(trees: Mapping[Patch, Params]) -> dict[str, Array]:
    """The weights of a program's modes, in the order of its argument.

    Returns:
      Each under its path in its mode's tree, such as `"2/blocks/mlp/fc1/kernel"`.
    """
    return {
        "/".join([short_patch_name(patch), *(key.key for key in path)]): leaf
        for patch, params in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def step_weights(engine: Engine, pair: Pair) -> dict[str, Array]:
    """What the step of a pair reads; a guide's weights stand under the guide's patch."""
    program = Program(*pair)
    return named_weights(dict(zip(program.modes, engine.step(program, hoisted=True)[1], strict=True)))


def modulation_weights(engine: Engine, patch: Patch) -> dict[str, Array]:
    """What the modulations of a mode are made of."""
    return named_weights({patch: engine.modulations(patch)[1]})


def kept_weights(engine: Engine, patch: Patch) -> dict[str, Array]:
    """What a mode's steps read of conditions is made of."""
    return named_weights({patch: engine.kept(patch)[1]})


def export_modulations(engine: Engine, patch: Patch, platforms: Sequence[str]) -> bytes:
    """The program of a mode's modulations, serialised."""
    run, weights = engine.modulations(patch)
    leaves, tree = jax.tree.flatten(weights)
    (count,) = export.symbolic_shape("k")
    given = _given(engine, patch, count)
    fields, read = jax.tree.flatten(Context(given.vector) if engine.keeps else given)

    def modulations(weights: list[Array], t: Array, cond: list[Array]) -> tuple[Array, ...]:
        return tuple(run(tree.unflatten(weights), t, read.unflatten(cond), None))

    return _serialised(modulations, platforms, _shapes(leaves), jax.ShapeDtypeStruct((count,), np.float32), fields)


def modulated(engine: Engine, patch: Patch) -> int:
    """How many of the arrays that `kept` makes modulations are made of too."""
    return int(_given(engine, patch, 1).vector is not None)


def export_kept(engine: Engine, patch: Patch, platforms: Sequence[str]) -> bytes:
    """The program of what a mode's steps read of conditions, serialised."""
    run, weights = engine.kept(patch)
    leaves, tree = jax.tree.flatten(weights)
    fields, read = jax.tree.flatten(shapes(engine.model.conditioner, *export.symbolic_shape("b")))

    def kept(weights: list[Array], cond: list[Array]) -> list[Array]:
        made = run(tree.unflatten(weights), read.unflatten([leaf[:, None] for leaf in cond]))
        return [leaf[:, 0] for leaf in jax.tree.leaves(made)]

    return _serialised(kept, platforms, _shapes(leaves), fields)


def export_step(engine: Engine, pair: Pair, channels: int | None, platforms: Sequence[str]) -> bytes:
    """The step program of a pair, serialised.

    Args:
      channels: see `sampling.guidance.guided`.
      platforms: of `PLATFORMS`.
    """
    program = Program(*pair, channels=pair[1] and channels)
    run, weights = engine.step(program, hoisted=True)
    leaves, tree = jax.tree.flatten(weights)
    batch, count = export.symbolic_shape("b, k")
    fields, read = jax.tree.flatten(_given(engine, pair[0], batch))

    def step(
        weights: list[Array], tables: list[Array], rows: Array, scale: Array, pick: Array, x: Array, x_last: Array,
        x0_prev: Array, z_last: Array, lost: Array, cond: list[Array], guide_cond: list[Array], noise: Array,
    ) -> tuple[Array, ...]:  # fmt: skip
        conds = cond, guide_cond
        given = [
            read.unflatten([jnp.stack(parts, 1) for parts in zip(*(conds[min(i, 1)] for i in which), strict=True)])
            for _, which in asked_of(program)
        ]
        carry = Carry(x, x_last, x0_prev, z_last, lost)
        ready = [Modulations(*tables[i : i + 2]) for i in range(0, len(tables), 2)]
        told = StepRows(rows, scale, pick)
        return tuple(run(tree.unflatten(weights), ready, told, carry, given, noise))

    x = jax.ShapeDtypeStruct((batch, *engine.model.latent), np.float32)
    return _serialised(
        step,
        platforms,
        _shapes(leaves),
        [leaf for patch in program.modes for leaf in engine.table_shapes(patch, count)],
        jax.ShapeDtypeStruct((batch, len(Steps._fields)), np.float32),
        jax.ShapeDtypeStruct((batch,), np.float32),
        jax.ShapeDtypeStruct((batch, program.predictions), np.int32),
        *[x] * 4,
        jax.ShapeDtypeStruct(lost_shape(x.shape), np.float32),
        fields,
        fields,
        x,
    )


def _given(engine: Engine, patch: Patch, batch: Any) -> Given:
    """Shapes of what a step reads of the condition of each sample."""
    given = engine.given_shapes(patch, batch, 1)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0], *leaf.shape[2:]), leaf.dtype), given)


def _shapes(leaves: Sequence[Array]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]


def export_noise(latent: tuple[int, ...], platforms: Sequence[str]) -> bytes:
    """The program that draws noise, serialised; a draw is 0 for x_T and k + 1 for the k-th executed step."""
    numbers = jax.ShapeDtypeStruct(export.symbolic_shape("b"), np.uint32)
    return _serialised(lambda *args: normal(*args, latent), platforms, numbers, numbers, numbers)


def _serialised(function: object, platforms: Sequence[str], *args: object) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=tuple(platforms))(*args).serialize())
