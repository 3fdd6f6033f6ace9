"""The sampling engine: one XLA program per (conditional patch, guiding patch) pair and its packing.

    noise x_T ──▶ step 0 ──▶ step 1 ──▶ ... ──▶ step n-1 ──▶ x_0
                  │ weak program │   ...   │ powerful program │
                  └── row of the solver table, scale, ... are *traced* ──┘

A program is one evaluation of the network and one row of the solver's table. The row and the guidance
scale are arguments, so any budget, number of steps, scale and solver reuses the programs already
compiled for a batch shape. One call per row costs the same as a loop inside the program (dispatch is
asynchronous), and makes progress bars and Ctrl-C free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from flexidit_jax.common.data_parallel import AXIS, copied, even, local_mesh, on_each, split
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.diffusion.steps import Carry, Steps, advance, begin
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.cast import caster
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at
from flexidit_jax.sampling.guidance import guided
from flexidit_jax.sampling.noise import step_noise
from flexidit_jax.sampling.packing import predict_pair
from flexidit_jax.sampling.schedule import Segment


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
    cond: Any,
) -> Prediction:
    """The guided prediction at x; t is [1]."""
    if guide_model is None:
        return cond_model.apply({"params": cond_params}, x, t, cond)
    if guide_model != cond_model:
        pair = predict_pair(packing, cond_model, guide_model, cond_params, guide_params, x, t, cond)
        return guided(*pair, scale, channels)
    batch = x.shape[0]  # one call on [conditional, unconditional]
    null = cond_model.conditioner.null(cond)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, null)
    out = cond_model.apply({"params": cond_params}, jnp.concatenate([x, x]), t, both)
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
    numbers: Array,
    scale: Array,
    carry: Carry,
    cond: Any,
    noise: Array,
) -> Carry:
    """One row of the solver's table, [columns]; noise is shaped like x."""

    def one(
        cond_params: Params,
        guide_params: Params | None,
        row: Steps,
        scale: Array,
        carry: Carry,
        cond: Any,
        noise: Array,
    ) -> Carry:
        prediction = _predicted(
            cond_model, guide_model, packing, channels, cond_params, guide_params, scale, carry.x, row.t[None], cond
        )
        return advance(row, carry, prediction, noise)

    return on_each(one, mesh, 4)(cond_params, guide_params, Steps(*numbers), scale, carry, cond, noise)


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
      kind: what else than the model decides how long a step takes: "shared" weights or how adapters run.
    """

    def __init__(
        self, model: DiT, params: Params, patches: Sequence[Patch], merge: bool = True, devices: int = 1
    ) -> None:
        rank = adapter_rank(params)
        self.model, self.kind = model, "shared" if rank is None else "merged" if merge else f"rank {rank}"
        self._devices, self._mesh = devices, local_mesh(devices)
        if self._mesh is not None:
            self.kind += f", over {devices} devices"
            params = copied(params, self._mesh)

        cast = caster(model)

        def plain(params: Params, patch: Patch) -> Params:
            return cast(merged(at(params, patch)) if merge else at(params, patch))

        # not jitted: a leaf that a mode does not change stays the array it is, shared by all modes
        self._modes = {patch: (model.at(patch), plain(params, patch)) for patch in patches}
        self._batches = self._where(params)

    def even(self, batch: int) -> int:
        """The least batch, of `batch` samples or more, that `denoise` can split."""
        return even(batch, self._devices)

    def weight_bytes(self) -> int:
        """Bytes of the distinct arrays of all modes."""
        leaves = {id(leaf): leaf.nbytes for _, params in self._modes.values() for leaf in jax.tree.leaves(params)}
        return sum(leaves.values())

    def step(
        self, cond_patch: Patch, guide_patch: Patch | None, packing: str = "separate", channels: int | None = None
    ) -> tuple[Callable[..., Carry], tuple[Params, Params | None]]:
        """The program of a pair and the weights it reads: `run(*weights, row, scale, carry, cond, noise)`."""
        cond_model, cond_params = self._modes[cond_patch]
        guide_model, guide_params = (None, None) if guide_patch is None else self._modes[guide_patch]
        run = partial(_step, cond_model, guide_model, packing, None if guide_model is None else channels, self._mesh)
        return run, (cond_params, None if guide_model == cond_model else guide_params)

    def _where(self, params: Params) -> Sharding | None:
        """Where batches lie: split over the devices, or beside the weights.

        A first step on an array that is free to move and a second on one that is not are two programs.
        """
        if self._mesh is not None:
            return NamedSharding(self._mesh, PartitionSpec(AXIS))
        where = getattr(jax.tree.leaves(params)[0], "sharding", None)
        return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where

    def denoise(
        self,
        segments: Sequence[Segment],
        table: Steps,
        x: Array,
        cond: Any,
        seed: int = 0,
        indices: Array | None = None,
        captured: Array | None = None,
        guidance_channels: int | None = None,
    ) -> Iterator[Array]:
        """Denoises x_T through all segments, a step at a time.

        Args:
          segments: from `sampling.schedule.segments`.
          table: the solver's rows (see `diffusion.steps`).
          x: x_T, [B, F, H, W, C]; B is a multiple of the devices.
          cond: the condition, [B, ...].
          seed, indices: which noise to draw; `indices` [B] number the samples.
          captured: [steps, B, F, H, W, C] instead of drawn noise; [k] belongs to the k-th executed step.
          guidance_channels: see `sampling.guidance.guided`.

        Yields:
          x after each step, [B, F, H, W, C]; the last is x_0.
        """
        where = {k: segment for segment in segments for k in range(segment.start, segment.stop)}
        indices = np.arange(x.shape[0]) if indices is None else indices
        cond, indices = split((cond, np.asarray(indices, np.uint32)), self._mesh)
        rows, carry = table.rows(), jax.device_put(begin(jnp.asarray(x)), self._batches)
        before, quiet = carry.x, carry.z_last
        for k, segment in where.items():
            run, weights = self.step(*segment.pair, segment.packing, guidance_channels)
            here, noise = table.step == k, quiet
            if table.noisy[here].any():
                noise = step_noise(seed, indices, k, x.shape[1:]) if captured is None else jnp.asarray(captured[k])
                noise = jax.device_put(noise, self._batches)
            reached = carry.x
            for row in rows[here]:
                carry = run(*weights, row, np.float32(segment.scale), carry, cond, noise)
            jax.block_until_ready(before)  # stay at most one step ahead, so that a bar tells the truth
            before = reached
            yield carry.x
