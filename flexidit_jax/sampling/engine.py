"""The sampling engine: one XLA program per (conditional patch, guiding patch) pair and its packing.

    noise x_T ──▶ step 0 ──▶ step 1 ──▶ ... ──▶ step n-1 ──▶ x_0
                  │ weak program │   ...   │ powerful program │
                  └─ every sample's own row of a solver's table, scale, condition are *traced* ─┘

A program is one evaluation of the network and one row of a solver's table for every sample of a batch. Rows and
guidance scales are arguments, [B], so any budget, number of steps, scale and solver reuses the programs already
compiled for a batch shape, and samples at different steps of different chains share a call. One call per row costs
the same as a loop inside the program (dispatch is asynchronous), and makes progress bars and Ctrl-C free.

What no step changes is made before them: modulations for many steps at once (`sampling.tables`), and what blocks read
of a condition once (`Engine.given`).
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
from flexidit_jax.models.conditioning.condition import Condition, Context, Given, shapes, size, take
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at
from flexidit_jax.models.flops import text_tokens
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.guidance import guided
from flexidit_jax.sampling.packing import predict_pair
from flexidit_jax.sampling.trajectory import Program, StepRows
from flexidit_jax.sampling.weights import Weights, maker

#: of a block, what reads conditions
CROSS = "cross_attention"
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
    given: Sequence[Given],
) -> Prediction:
    """The guided prediction at x; t is [B], and `params`, `tables` and `given` are those of the modes, each once.

    A mode that makes both predictions is given [B, 2, ...], and makes those of a sample one after the other.
    """
    models = (cond_model,) if guide_model in (None, cond_model) else (cond_model, guide_model)

    def read(mode: int, t: Array, *predictions: int) -> tuple[Given, Modulations]:
        """What a mode reads beside x, [B predictions, ...]."""
        reads = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), given[mode])
        if tables is None:
            return reads, models[mode].apply({"params": params[mode]}, t, reads, method="modulations")
        pick, (blocks, last) = rows.pick[:, np.array(predictions)].reshape(-1), tables[mode]
        return reads, Modulations(blocks[:, pick], last[pick])

    if guide_model is None:
        return cond_model.apply({"params": params[0]}, x, t, *read(0, t, 0))
    scale = rows.scale.reshape(-1, *[1] * (x.ndim - 1))  # [B, 1, 1, 1, 1]
    if guide_model != cond_model:
        reads, made = zip(read(0, t, 0), read(1, t, 1), strict=True)
        return guided(*predict_pair(packing, models, params, x, t, reads, made), scale, channels)
    x, t = jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2)
    out = cond_model.apply({"params": params[0]}, x, t, *read(0, t, 0, 1))
    ours, guides = (jax.tree.map(lambda a, i=i: a[i::2], out) for i in (0, 1))
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
    given: Sequence[Given],
    noise: Array,
) -> Carry:
    """One row of a solver's table for every sample; noise is shaped like x."""

    def one(
        params: Sequence[Params],
        tables: Sequence[Modulations] | None,
        rows: StepRows,
        carry: Carry,
        given: Sequence[Given],
        noise: Array,
    ) -> Carry:
        def per_sample(numbers: Array) -> Array:
            return numbers.reshape(-1, *[1] * (noise.ndim - 1))  # [B, 1, 1, 1, 1]

        numbers = Steps(*rows.numbers.T)
        words = (params, tables, rows, carry.x, numbers.t, given)
        prediction = _predicted(cond_model, guide_model, packing, channels, *words)
        return advance(Steps(*map(per_sample, numbers)), carry, prediction, noise)

    return on_each(one, mesh, 2)(params, tables, rows, carry, given, noise)


def _steps() -> Callable[..., Carry]:
    """The function above, compiled for where it runs."""
    return _compiled(platform())


@cache
def _compiled(platform: str) -> Callable[..., Carry]:
    return jax.jit(_step, static_argnums=range(5), compiler_options=compiler_options(platform))


@partial(jax.jit, static_argnames="model")
def _modulations(model: DiT, params: Params, t: Array, given: Given, rows: Array | None) -> Modulations:
    """A table: times [K], and for each the row of the conditions; without `rows` a condition each."""
    return model.apply({"params": params}, t, given if rows is None else take(given, rows), method="modulations")


@partial(jax.jit, static_argnames=("model", "apart", "mesh"))
def _kept(model: DiT, apart: bool, mesh: Mesh | None, params: Params, cond: Condition) -> Context:
    """What steps read of conditions, [B, n, ...] each."""

    def one(params: Params, cond: Condition) -> Context:
        count = size(cond)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cond)
        made = model.apply({"params": params}, flat, apart, method="kept")
        return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), made)

    return on_each(one, mesh, 1)(params, cond)


@partial(jax.jit, static_argnames="model")
def _vector(model: DiT, params: Params, cond: Condition) -> Array | None:
    return model.apply({"params": params}, cond, method="context").vector


def compiled_programs() -> int:
    """How many programs, of steps, of tables and of what conditions are to steps, this process has compiled so far."""
    return sum(program._cache_size() for program in (_steps(), _modulations, _kept, _vector))


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
        self._first: Engine | None = None

    def sized(self, latent: tuple[int, ...]) -> Engine:
        """The same for latents of another height and width (`DiT.sized`); both read the same weights."""
        other = Engine(self.model.sized(latent), self._params, self.patches, self._merge, self.devices, self._apart)
        other._first = self._first or self
        return other

    @cached_property
    def _modes(self) -> dict[Patch, tuple[DiT, Weights]]:
        """Made when they are first asked for: a plan wants none."""
        if self._first is not None:
            return {patch: (self.model.at(patch), weights) for patch, (_, weights) in self._first._modes.items()}
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
          `run(weights, tables, rows, carry, given, noise)`, and `weights`.
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
        """A mode's program of tables and the weights it reads: `run(weights, t, given, rows)`."""
        model, weights = self._modes[patch]
        blocks = {name: part for name, part in weights.conditioning["blocks"].items() if name != CROSS}
        return partial(_modulations, model), {**weights.conditioning, "blocks": blocks}

    def table(self, patch: Patch, t: Array, given: Given, rows: Array) -> Modulations:
        """Modulations of a mode at times [K], of the conditions `rows` [K]; conditions lie where `whole` puts them."""
        run, weights = self.modulations(patch)
        return run(weights, *self.whole((t, given, rows)))

    def table_shapes(self, patch: Patch, count: int) -> Modulations:
        """Shapes and dtypes of a table of so many rows."""
        run, weights = self.modulations(patch)
        cond = shapes(self.model.conditioner, count)
        return jax.eval_shape(run, weights, jax.ShapeDtypeStruct((count,), np.float32), cond, None)

    @property
    def keeps(self) -> bool:
        """Whether blocks read conditions; what they read is made before the steps."""
        return text_tokens(self.model) > 0

    def kept(self, patch: Patch) -> tuple[Callable[..., Context], Params]:
        """A mode's program of what steps read of conditions, and the weights it reads: `run(weights, cond)`."""
        weights = self._modes[patch][1].conditioning
        read = {"conditioner": weights["conditioner"], "blocks": {CROSS: weights["blocks"].get(CROSS, {})}}
        return partial(_kept, self.model, self._apart, self._mesh), read

    def given(self, patch: Patch, conds: Sequence[Condition]) -> Given:
        """What the steps of a mode are given of conditions of B samples, on the host: [B, conditions, ...].

        That is the conditions where modulations alone are made of them, else what is `kept`.
        """
        stacked = self.placed({key: np.stack([cond[key] for cond in conds], 1) for key in conds[0]})
        if not self.keeps:
            return stacked
        run, weights = self.kept(patch)
        return run(weights, stacked)

    def given_shapes(self, patch: Patch, batch: int, conditions: int) -> Given:
        """Shapes and dtypes of it."""
        cond = {
            key: jax.ShapeDtypeStruct((batch, conditions, *leaf.shape[1:]), leaf.dtype)
            for key, leaf in shapes(self.model.conditioner, 1).items()
        }
        run, weights = self.kept(patch)
        return jax.eval_shape(run, weights, cond) if self.keeps else cond

    def modulating(self, cond: Condition) -> Given:
        """What modulations are made of conditions, on the host: themselves, or without what blocks read."""
        if not self.keeps:
            return cond
        vector = _vector(self.model, self.kept(self.patches[0])[1], cond)
        return Context(None if vector is None else np.asarray(vector))

    @cached_property
    def readers(self) -> dict[Patch, Patch]:
        """Of each mode the first one that is given the same: they share it where the weights of that are the same."""
        first: dict[tuple[int, ...], Patch] = {}
        read = {patch: tuple(map(id, jax.tree.leaves(self.kept(patch)[1]))) for patch in self.patches}
        return {patch: first.setdefault(read[patch], patch) for patch in self.patches}

    def run(
        self,
        program: Program,
        rows: StepRows,
        carry: Carry,
        given: Sequence[Given],
        noise: Array,
        tables: Sequence[Modulations] | None = None,
    ) -> Carry:
        """One evaluation of every sample of a batch; arrays are where `placed` puts them, rows on the host."""
        fixed, weights = self._program(program, tables is not None)
        return _steps()(*fixed, weights, tables, rows, carry, given, noise)

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
