"""The sampling engine: one XLA program per (conditional patch, guiding patch) pair and its packing.

    noise x_T ──▶ step 0 ──▶ step 1 ──▶ ... ──▶ step n-1 ──▶ x_0
                  │ weak program │   ...   │ powerful program │
                  └─ every sample's own row of a solver's table, scale, condition are *traced* ─┘

A program is one evaluation of the network and one row of a solver's table for every sample of a batch. Rows and
guidance scales are arguments, [B], so any budget, number of steps, scale and solver reuses the programs already
compiled for a batch shape, and samples at different steps of different chains share a call. One call per row costs
the same as a loop inside the program (dispatch is asynchronous), and makes progress bars and Ctrl-C free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from flexidit_jax.common.axes import platform
from flexidit_jax.common.compiler_options import compiler_options
from flexidit_jax.common.data_parallel import AXIS, copied, even, local_mesh, on_each
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.diffusion.steps import Carry, Steps, advance
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.conditioning.condition import Condition, join, shapes, take
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.guidance import guided
from flexidit_jax.sampling.packing import predict_pair
from flexidit_jax.sampling.trajectory import Program, StepRows
from flexidit_jax.sampling.weights import Weights, maker

#: platforms whose steps read every block's weights from arrays of its own; a TPU's compiler reads slices in place
APART = ("cpu", "gpu")


def _predicted(
    cond_model: DiT,
    guide_model: DiT | None,
    packing: str,
    channels: int | None,
    params: Sequence[Params],
    tables: Sequence[Modulations] | None,
    rows: StepRows,
    x: Array,
    t: Array,
    cond: Condition,
    guide_cond: Condition | None,
) -> Prediction:
    """The guided prediction at x; t is [B], `params` and `tables` are those of the modes, one where there is one."""

    def modulations(model: DiT, params: Params, t: Array, cond: Condition, *picks: int) -> Modulations:
        if tables is None:
            return model.apply({"params": params}, t, cond, method="modulations")
        blocks, last = tables[picks[0] if len(tables) > 1 else 0]
        pick = jnp.concatenate([rows.pick[:, i] for i in picks])
        return Modulations(blocks[:, pick], last[pick])

    first, last = params[0], params[-1]
    if guide_model is None:
        return cond_model.apply({"params": first}, x, t, cond, modulations(cond_model, first, t, cond, 0))
    scale = rows.scale.reshape(-1, *[1] * (x.ndim - 1))  # [B, 1, 1, 1, 1]
    if guide_model != cond_model:
        made = modulations(cond_model, first, t, cond, 0), modulations(guide_model, last, t, guide_cond, 1)
        pair = predict_pair(packing, (cond_model, guide_model), (first, last), x, t, (cond, guide_cond), made)
        return guided(*pair, scale, channels)
    batch = x.shape[0]  # one call on [conditional, guiding]
    twice = jnp.concatenate([x, x]), jnp.concatenate([t, t]), join(cond, guide_cond)
    out = cond_model.apply({"params": first}, *twice, modulations(cond_model, first, *twice[1:], 0, 1))
    ours, guides = (jax.tree.map(lambda a, i=i: a[i * batch : (i + 1) * batch], out) for i in (0, 1))
    return guided(ours, guides, scale, channels)


def _step(
    cond_model: DiT,
    guide_model: DiT | None,
    packing: str,
    channels: int | None,
    mesh: Mesh | None,
    params: Sequence[Params],
    tables: Sequence[Modulations] | None,
    rows: StepRows,
    carry: Carry,
    cond: Condition,
    guide_cond: Condition | None,
    noise: Array,
) -> Carry:
    """One row of a solver's table for every sample; noise is shaped like x."""

    def one(
        params: Sequence[Params],
        tables: Sequence[Modulations] | None,
        rows: StepRows,
        carry: Carry,
        cond: Condition,
        guide_cond: Condition | None,
        noise: Array,
    ) -> Carry:
        def per_sample(numbers: Array) -> Array:
            return numbers.reshape(-1, *[1] * (noise.ndim - 1))  # [B, 1, 1, 1, 1]

        numbers = Steps(*rows.numbers.T)
        prediction = _predicted(
            cond_model, guide_model, packing, channels, params, tables, rows, carry.x, numbers.t, cond, guide_cond
        )
        return advance(Steps(*map(per_sample, numbers)), carry, prediction, noise)

    return on_each(one, mesh, 2)(params, tables, rows, carry, cond, guide_cond, noise)


def _steps() -> Callable[..., Carry]:
    """The function above, compiled for where it runs."""
    return _compiled(platform())


@cache
def _compiled(platform: str) -> Callable[..., Carry]:
    return jax.jit(_step, static_argnums=range(5), compiler_options=compiler_options(platform))


@partial(jax.jit, static_argnames="model")
def _modulations(model: DiT, params: Params, t: Array, cond: Condition, rows: Array | None) -> Modulations:
    """A table: times [K], and for each the row of the conditions; without `rows` a condition each."""
    return model.apply({"params": params}, t, cond if rows is None else take(cond, rows), method="modulations")


def compiled_programs() -> int:
    """How many programs, of steps and of tables, this process has compiled so far."""
    return _steps()._cache_size() + _modulations._cache_size()


class Engine:
    """A model ready to sample: every mode's plain parameters, made once, factors of products in `model.dtype`.

    Args:
      model: the network; its patch is ignored.
      params: a stored tree (see `models.flexify`).
      patches: its modes.
      merge: add adapters into their kernels: no cost per step, a copy of the adapted layers per mode.
      devices: how many of this process's a batch is split over (see `common.data_parallel`).
      apart: whether blocks have weights of their own (see `sampling.weights`); by default where that is faster.

    Attributes:
      model, patches, devices: as given.
      kind: what else than the model decides how long a step takes: "shared" weights or how adapters run.
    """

    def __init__(
        self,
        model: DiT,
        params: Params,
        patches: Sequence[Patch],
        merge: bool = True,
        devices: int = 1,
        apart: bool | None = None,
    ) -> None:
        rank = adapter_rank(params)
        self.model, self.patches = model, tuple(patches)
        self.kind = "shared" if rank is None else "merged" if merge else f"rank {rank}"
        self._params, self._merge, self.devices, self._mesh = params, merge, devices, local_mesh(devices)
        self._apart = platform() in APART if apart is None else apart
        if self._mesh is not None:
            self.kind += f", over {devices} devices"

    @cached_property
    def _modes(self) -> dict[Patch, tuple[DiT, Weights]]:
        """Made when they are first asked for: a plan wants none."""
        made = maker(self.model, self._apart, self._mesh)

        def weights(patch: Patch) -> Weights:
            return made(merged(at(self._params, patch)) if self._merge else at(self._params, patch))

        # not jitted: a leaf that a mode does not change stays the array it is, shared by all modes
        return {patch: (self.model.at(patch), weights(patch)) for patch in self.patches}

    @cached_property
    def _joined(self) -> dict[Patch, Params]:
        """All that a mode's steps read where they make modulations themselves."""
        return {patch: merge(*weights) for patch, (_, weights) in self._modes.items()}

    def even(self, batch: int) -> int:
        """The least batch, of `batch` samples or more, that the devices share evenly."""
        return even(batch, self.devices)

    def weight_bytes(self) -> int:
        """Bytes of the distinct arrays of all modes."""
        leaves = {id(leaf): leaf.nbytes for _, weights in self._modes.values() for leaf in jax.tree.leaves(weights)}
        return sum(leaves.values())

    def step(self, program: Program, hoisted: bool) -> tuple[Callable[..., Carry], Sequence[Params]]:
        """A step, to be compiled by who asks, and the weights it reads.

        Args:
          hoisted: whether it is handed tables, one a mode, and reads no weights of modulations.

        Returns:
          `run(weights, tables, rows, carry, cond, guide_cond, noise)`, and `weights`.
        """
        fixed, weights = self._program(program, hoisted)
        return partial(_step, *fixed), weights

    def _program(self, program: Program, hoisted: bool) -> tuple[tuple[Any, ...], Sequence[Params]]:
        """The arguments of a step that are the same in every call: those that tell programs apart, and the weights."""
        guide_model = None if program.guide_patch is None else self._modes[program.guide_patch][0]
        fixed = (self._modes[program.cond_patch][0], guide_model, program.packing, program.channels, self._mesh)
        read = {patch: weights.network for patch, (_, weights) in self._modes.items()} if hoisted else self._joined
        return fixed, [read[patch] for patch in program.modes]

    def modulations(self, patch: Patch) -> tuple[Callable[..., Modulations], Params]:
        """A mode's program of tables and the weights it reads: `run(weights, t, cond, rows)`."""
        model, weights = self._modes[patch]
        return partial(_modulations, model), weights.modulation

    def table(self, patch: Patch, t: Array, cond: Condition, rows: Array) -> Modulations:
        """Modulations of a mode at times [K], of the conditions `rows` [K]; conditions lie where `whole` puts them."""
        run, weights = self.modulations(patch)
        return run(weights, *self.whole((t, cond, rows)))

    def table_shapes(self, patch: Patch, count: int) -> Modulations:
        """Shapes and dtypes of a table of so many rows."""
        run, weights = self.modulations(patch)
        cond = shapes(self.model.conditioner, count)
        return jax.eval_shape(run, weights, jax.ShapeDtypeStruct((count,), np.float32), cond, None)

    def run(
        self,
        program: Program,
        rows: StepRows,
        carry: Carry,
        cond: Condition,
        guide_cond: Condition,
        noise: Array,
        tables: Sequence[Modulations] | None = None,
    ) -> Carry:
        """One evaluation of every sample of a batch; arrays are where `placed` puts them, rows on the host."""
        fixed, weights = self._program(program, tables is not None)
        guide_cond = None if program.guide_patch is None else guide_cond
        return _steps()(*fixed, weights, tables, rows, carry, cond, guide_cond, noise)

    def placed(self, batch: Any) -> Any:
        """A tree of arrays [B, ...], B a multiple of the devices, where steps want it: split, or beside the weights.

        A first step on an array that is free to move and a second on one that is not are two programs.
        """
        return jax.device_put(batch, self._batches)

    def whole(self, tree: Any) -> Any:
        """A tree of arrays that all devices read alike."""
        return jax.device_put(tree, self._batches) if self._mesh is None else copied(tree, self._mesh)

    @cached_property
    def _batches(self) -> Sharding | None:
        if self._mesh is not None:
            return NamedSharding(self._mesh, PartitionSpec(AXIS))
        where = getattr(jax.tree.leaves(self._params)[0], "sharding", None)
        return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where
