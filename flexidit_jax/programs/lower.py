"""The programs of a config, lowered from shapes alone: no weights, no data, no device of the kind they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.axes import MESH_AXES, on, platform
from flexidit_jax.common.compiler_options import compiler_options
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, short_patch_name
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.steps import Carry, Steps, lost_shape
from flexidit_jax.models.build import init
from flexidit_jax.models.conditioning.condition import Given, shapes
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import forward_flops, kept_bytes
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.engine import APART, Engine
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.schedule import Segment, pair_text, text_of
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.tables import ROWS, asked_of, hoisted
from flexidit_jax.sampling.trajectory import Program, StepRows
from flexidit_jax.training.flops import recomputed_flops, training_flops
from flexidit_jax.training.section import Training
from flexidit_jax.training.sharding import shaped
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, abstract
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts


@dataclass(frozen=True)
class Lowering:
    """One program that a config runs; with another `batch`, that program for another batch.

    Attributes:
      name: such as `train, patch 2`.
      batch: images of one run, over all chips.
      chips: that run it together.
      image_flops: model FLOPs of an image (`models.flops`).
      image_recomputed: FLOPs that remat adds to them.
      image_kept: bytes of what is kept of the texts of an image and of its guide, which are among the arguments.
      lowered: makes it from shapes for a batch, for its devices.
      multiple: what divides every batch.
      weights: how the names of the arguments that hold weights begin.
    """

    name: str
    batch: int
    chips: int
    image_flops: float
    image_recomputed: float
    image_kept: int
    lowered: Callable[[int], jax.stages.Lowered]
    multiple: int
    weights: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Of one run on one chip."""
        return self.image_flops * self.batch / self.chips

    @property
    def recomputed(self) -> float:
        """Of one run on one chip."""
        return self.image_recomputed * self.batch / self.chips

    @property
    def kept(self) -> int:
        """Bytes of one run on one chip."""
        return self.image_kept * self.batch // self.chips

    def lower(self) -> jax.stages.Lowered:
        return self.lowered(self.batch)


def training_programs(model: DiT, process: NoiseProcess, train: Training, seed: int, mesh: Mesh) -> Iterator[Lowering]:
    """The training step of every stage at every patch size that the stage draws."""
    split = NamedSharding(mesh, PartitionSpec(MESH_AXES["records"]))

    def lowered(step: Callable[..., Any], state: TrainState, rest: Sequence[Any], batch: int) -> jax.stages.Lowered:
        x0 = jax.ShapeDtypeStruct((batch, *model.latent), np.float32, sharding=split)
        return step.lower(state, x0, _put(shapes(model.conditioner, batch), split), *rest)

    for i, stage in enumerate(train.stages):
        optimizer = train.optimizer.build(stage.rate())
        state = shaped(_state(model, train, stage), mesh)
        fixed = (model, process, stage.loss, optimizer, train.ema, seed, stage.times)
        step = make_step(*fixed, mesh, train.accumulate)
        for k, patch in enumerate(stage.patches):
            if stage.probabilities is not None and not stage.probabilities[k]:
                continue
            where = f"stage {i + 1}, " if len(train.stages) > 1 else ""
            rest = (0, patch, UpdateCounts([stage], seed).next(patch))
            yield Lowering(
                f"train, {where}patch {short_patch_name(patch)}",
                train.batch,
                mesh.size,
                training_flops(model, stage, patch),
                recomputed_flops(model, patch),
                0,
                partial(lowered, step, state, rest),
                mesh.shape["data"] * mesh.shape["fsdp"] * train.accumulate,
                ("state.params[", "state.frozen["),
            )


def sampling_programs(
    model: DiT, process: NoiseProcess, train: Training, spec: SampleSpec, batch: int, device: Any, codec: Any = None
) -> Iterator[Lowering]:
    """The step of every pair of modes that a spec runs, on one chip; a pod samples with one such a chip.

    What `latency_ms` would choose depends on the chip: then, the pairs of all steps powerful and of all steps
    weak. `packing="auto"` means every packing. `codec` tells latents of the spec's size, which is in pixels.
    """
    stage = train.stages[-1]
    state = _state(model, train, stage)
    flex, [spec] = FlexiDiT(model, merge(state.frozen, state.params), process, codec).of_size([spec])
    layouts = choices(spec.packing, adapters=stage.adapters is not None)
    here = SingleDeviceSharding(device)

    def lowered(program: Program, batch: int) -> jax.stages.Lowered:
        run, weights, tables, given = _step(flex, program, batch, device.platform in APART)
        x = jax.ShapeDtypeStruct((batch, *flex.model.latent), np.float32)
        rows = [jax.ShapeDtypeStruct((batch, *rest), np.float32) for rest in ((len(Steps._fields),), ())]
        if tables is not None:
            rows.append(jax.ShapeDtypeStruct((batch, program.predictions), np.int32))
        carry = Carry(x, x, x, x, jax.ShapeDtypeStruct(lost_shape(x.shape), np.float32))
        arguments = _put((weights, tables, StepRows(*rows), carry, given, x), here)
        with on(device):  # a function of its own, whose first argument has a name to be found by
            named = jax.jit(lambda weights, *rest: run(weights, *rest), compiler_options=compiler_options(platform()))
            return named.lower(*arguments)

    for segment in _segments(flex, spec):
        for packing in layouts if segment.two_lengths else ("separate",):
            pair = segment.pair
            layout = f", {packing}" if segment.two_lengths else ""
            yield Lowering(
                f"sample, {pair_text(*pair)}{layout}",
                batch,
                1,
                float(sum(forward_flops(flex.model, patch, text_kept=True) for patch in pair if patch is not None)),
                0.0,
                kept_bytes(flex.model) * sum(patch is not None for patch in pair),
                partial(lowered, Program(*pair, packing, pair[1] and spec.guidance_channels)),
                1,
                ("weights[",),
            )


def _state(model: DiT, train: Training, stage: Stage) -> TrainState:
    return abstract(partial(init, model, jax.random.key(0)), stage, train.optimizer.build(stage.rate()))


def _segments(flex: FlexiDiT, spec: SampleSpec) -> list[Segment]:
    """One segment of each pair in the plan of a spec."""
    plans = [spec]
    if spec.latency_ms is not None:
        ends = (text_of(((patch, spec.steps),)) for patch in (flex.patches[0], flex.patches[-1]))
        plans = [replace(spec, latency_ms=None, schedule=schedule) for schedule in ends]
    return list({segment.pair: segment for one in plans for segment in flex.plan(spec=one).segments}.values())


def _step(
    flex: FlexiDiT, program: Program, batch: int, apart: bool
) -> tuple[Callable[..., Carry], Sequence[Params], Sequence[Modulations] | None, Sequence[Given]]:
    """A program, and the shapes of the weights, of the tables and of what it is given of conditions."""
    made = {}

    def weights(params: Params) -> Sequence[Params]:
        engine, ahead = Engine(flex.model, params, flex.patches, flex.merge_adapters, apart=apart), hoisted(batch)
        made["run"], read = engine.step(program, ahead)
        made["tables"] = [engine.table_shapes(patch, ROWS) for patch in program.modes] if ahead else None
        made["given"] = [engine.given_shapes(patch, batch, len(which)) for patch, which in asked_of(program)]
        return read

    read = jax.eval_shape(weights, flex.params)
    return made["run"], read, made["tables"], made["given"]


def _put(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
