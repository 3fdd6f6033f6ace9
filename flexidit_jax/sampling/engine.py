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
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from flexidit_jax.common.data_parallel import AXIS, copied, even, local_mesh, on_each
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.diffusion.steps import Carry, Steps, advance
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.cast import caster
from flexidit_jax.models.conditioning.condition import Condition, join
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at
from flexidit_jax.sampling.guidance import guided
from flexidit_jax.sampling.packing import predict_pair
from flexidit_jax.sampling.trajectory import Program, StepRows


def _predicted(
    cond_model: DiT,
    guide_model: DiT | None,
    packing: str,
    channels: int | None,
    cond_params: Params,
    guide_params: Params | None,
    scale: Array,
    x: Array,
    t: Array,
    cond: Condition,
    guide_cond: Condition | None,
) -> Prediction:
    """The guided prediction at x; t is [B], scale broadcasts against x."""
    if guide_model is None:
        return cond_model.apply({"params": cond_params}, x, t, cond)
    if guide_model != cond_model:
        pair = predict_pair(packing, cond_model, guide_model, cond_params, guide_params, x, t, cond, guide_cond)
        return guided(*pair, scale, channels)
    batch = x.shape[0]  # one call on [conditional, guiding]
    twice = jnp.concatenate([x, x]), jnp.concatenate([t, t]), join(cond, guide_cond)
    out = cond_model.apply({"params": cond_params}, *twice)
    first, second = (jax.tree.map(lambda a, i=i: a[i * batch : (i + 1) * batch], out) for i in (0, 1))
    return guided(first, second, scale, channels)


@partial(jax.jit, static_argnames=("cond_model", "guide_model", "packing", "channels", "mesh"))
def _step(
    cond_model: DiT,
    guide_model: DiT | None,
    packing: str,
    channels: int | None,
    mesh: Mesh | None,
    cond_params: Params,
    guide_params: Params | None,
    rows: StepRows,
    carry: Carry,
    cond: Condition,
    guide_cond: Condition | None,
    noise: Array,
) -> Carry:
    """One row of a solver's table for every sample; noise is shaped like x."""

    def one(
        cond_params: Params,
        guide_params: Params | None,
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
            cond_model, guide_model, packing, channels,
            cond_params, guide_params, per_sample(rows.scale), carry.x, numbers.t, cond, guide_cond,
        )  # fmt: skip
        return advance(Steps(*map(per_sample, numbers)), carry, prediction, noise)

    return on_each(one, mesh, 2)(cond_params, guide_params, rows, carry, cond, guide_cond, noise)


def compiled_programs() -> int:
    """How many step programs this process has compiled so far."""
    return _step._cache_size()


class Engine:
    """A model ready to sample: every mode's plain parameters, made once, factors of products in `model.dtype`.

    Args:
      model: the network; its patch is ignored.
      params: a stored tree (see `models.flexify`).
      patches: its modes.
      merge: add adapters into their kernels: no cost per step, a copy of the adapted layers per mode.
      devices: how many of this process's a batch is split over (see `common.data_parallel`).

    Attributes:
      model, patches, devices: as given.
      kind: what else than the model decides how long a step takes: "shared" weights or how adapters run.
    """

    def __init__(
        self, model: DiT, params: Params, patches: Sequence[Patch], merge: bool = True, devices: int = 1
    ) -> None:
        rank = adapter_rank(params)
        self.model, self.patches = model, tuple(patches)
        self.kind = "shared" if rank is None else "merged" if merge else f"rank {rank}"
        self._params, self._merge, self.devices, self._mesh = params, merge, devices, local_mesh(devices)
        if self._mesh is not None:
            self.kind += f", over {devices} devices"

    @cached_property
    def _modes(self) -> dict[Patch, tuple[DiT, Params]]:
        """Made when they are first asked for: a plan wants none."""
        cast, params = caster(self.model), copied(self._params, self._mesh)

        def plain(patch: Patch) -> Params:
            return cast(merged(at(params, patch)) if self._merge else at(params, patch))

        # not jitted: a leaf that a mode does not change stays the array it is, shared by all modes
        return {patch: (self.model.at(patch), plain(patch)) for patch in self.patches}

    def even(self, batch: int) -> int:
        """The least batch, of `batch` samples or more, that the devices share evenly."""
        return even(batch, self.devices)

    def weight_bytes(self) -> int:
        """Bytes of the distinct arrays of all modes."""
        leaves = {id(leaf): leaf.nbytes for _, params in self._modes.values() for leaf in jax.tree.leaves(params)}
        return sum(leaves.values())

    def step(self, program: Program) -> tuple[Callable[..., Carry], tuple[Params, Params | None]]:
        """A program and the weights it reads: `run(*weights, rows, carry, cond, guide_cond, noise)`."""
        cond_model, cond_params = self._modes[program.cond_patch]
        guide_model, guide_params = (None, None) if program.guide_patch is None else self._modes[program.guide_patch]
        run = partial(_step, cond_model, guide_model, program.packing, program.channels, self._mesh)
        return run, (cond_params, None if guide_model == cond_model else guide_params)

    def run(
        self,
        program: Program,
        rows: StepRows,
        carry: Carry,
        cond: Condition,
        guide_cond: Condition,
        noise: Array,
    ) -> Carry:
        """One evaluation of every sample of a batch; arrays are where `placed` puts them, rows on the host."""
        run, weights = self.step(program)
        return run(*weights, rows, carry, cond, None if program.guide_patch is None else guide_cond, noise)

    def placed(self, batch: Any) -> Any:
        """A tree of arrays [B, ...], B a multiple of the devices, where steps want it: split, or beside the weights.

        A first step on an array that is free to move and a second on one that is not are two programs.
        """
        return jax.device_put(batch, self._batches)

    @cached_property
    def _batches(self) -> Sharding | None:
        if self._mesh is not None:
            return NamedSharding(self._mesh, PartitionSpec(AXIS))
        where = getattr(jax.tree.leaves(self._params)[0], "sharding", None)
        return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where
