"""Samples of one model, a step at a time: `start`, `step`, `run`.

Samples that wait for one program are evaluated together, whichever step of whichever chain each of them is at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.steps import Carry, begin
from flexidit_jax.models.conditioning.condition import Condition, guides, negatives, parsed, size, take
from flexidit_jax.sampling.calibration import fastest, times_of
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.latency import chooser
from flexidit_jax.sampling.noise import given_noise, starting_noise, step_noise
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.plan import Cost, Plan
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.trajectory import Program, StepRows, Trajectory

#: one for all samples or one for each; a trajectory is a spec that was looked at before
Specs: TypeAlias = SampleSpec | Trajectory | Sequence[SampleSpec | Trajectory]


class Snapshot(NamedTuple):
    """A batch of samples between two steps.

    Attributes:
      done, steps: int [B], the steps each sample has made, and how many it makes.
      x: [B, F, H, W, C], where the network is evaluated next; x_0 of samples that are finished.
      x0: [B, F, H, W, C], the network's latest estimate of x_0: previews decode it.
    """

    done: np.ndarray
    steps: np.ndarray
    x: Array
    x0: Array

    @property
    def finished(self) -> bool:
        """Whether all of them are."""
        return bool((self.done == self.steps).all())


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """Samples under way. A value: `Sampler.step` makes another one, and the old one stays good.

    Attributes:
      carry, cond: [B, ...] on the device.
      guides: conditions of the guide where a mode guides itself and where a weaker one guides it.
      trajectories: of every sample.
      at: int [B], the evaluations each sample has made.
      numbers: uint32 [B], which sample of its seed each is.
      captured: [steps, B, F, H, W, C] instead of drawn noise.
    """

    carry: Carry
    cond: Condition
    guides: tuple[Condition, Condition]
    trajectories: tuple[Trajectory, ...]
    at: np.ndarray
    numbers: np.ndarray
    captured: np.ndarray | None

    @property
    def snapshot(self) -> Snapshot:
        """What there is to see."""
        done = np.array([chain.done[at] for chain, at in zip(self.trajectories, self.at)])
        steps = np.array([chain.steps for chain in self.trajectories])
        return Snapshot(done, steps, self.carry.x, self.carry.x0_prev)


class Sampler:
    """Samples of one model.

    Args:
      engine: the model's programs and weights.
      process: its noise process.
      cost: FLOPs of one call in a mode.
      adapters: whether every mode has kernels of its own.
    """

    def __init__(self, engine: Engine, process: NoiseProcess, cost: Cost, adapters: bool) -> None:
        self.engine, self._process, self._cost, self._adapters = engine, process, cost, adapters
        self._zeros: dict[int, Array] = {}

    def plan(self, spec: SampleSpec, batch: int | None = None) -> Plan:
        """What every step of a spec runs; `batch` matters with `latency_ms` alone.

        Raises:
          UserError: see `SampleSpec.plan`; no batch with `latency_ms`.
        """
        layouts = choices(spec.packing, self._adapters)
        table, ms = spec.table(self._process), spec.latency_ms
        choose = None if ms is None else chooser(ms, self.engine, table, batch, layouts, spec.guidance_channels)
        return spec.plan(self.engine.patches, table, self._cost, choose)

    def trajectory(self, spec: SampleSpec, batch: int) -> Trajectory:
        """The chain of a sample in batches of `batch`, where two lengths meet in the fastest packing allowed.

        Raises:
          UserError: what this model cannot do.
        """
        layouts, channels = choices(spec.packing, self._adapters), spec.guidance_channels
        if channels is not None and not 1 <= channels <= self.engine.model.latent[-1]:
            raise UserError(f"guidance_channels must lie in 1..{self.engine.model.latent[-1]}, got {channels}")
        table, segments = spec.table(self._process), self.plan(spec, batch).segments
        runs = fastest(segments, layouts, times_of(self.engine, table, batch, channels))
        return Trajectory.of(runs, table, channels, spec.seed)

    def start(
        self,
        asked: Any,
        specs: Specs,
        negative: Any = None,
        numbers: Array | None = None,
        noise: Array | None = None,
        captured: Array | None = None,
    ) -> State:
        """Samples about to make their first step.

        Args:
          asked: the condition of B samples, a multiple of the engine's devices, as typed or ready.
          specs: one for all, or one a sample.
          negative: what guidance leads away from instead of no condition: one for all, or one a sample.
          numbers: int [B], which sample of its seed each is; 0, 1, ... by default.
          noise: x_T instead of drawn noise, [B, F, H, W, C].
          captured: noise of each executed step instead of drawn noise, [steps, B, F, H, W, C].

        Raises:
          UserError: what this model cannot do, or another number of specs.
        """
        conditioner, latent, placed = self.engine.model.conditioner, self.engine.model.latent, self.engine.placed
        cond = parsed(conditioner, asked)
        batch = size(cond)
        chains = self._chains(specs, batch, batch)
        numbers = np.asarray(np.arange(batch) if numbers is None else numbers).astype(np.uint32)
        noise, captured = given_noise(noise, captured, latent, batch, max(chain.steps for chain in chains))
        if noise is None:
            noise = starting_noise([chain.seed for chain in chains], numbers, latent)
        guiding = guides(cond, negatives(conditioner, negative, batch))
        cond = placed(cond)
        return State(
            carry=placed(begin(jnp.asarray(noise))),
            cond=cond,
            guides=(placed(guiding[0]), cond if guiding[1] is cond else placed(guiding[1])),
            trajectories=chains,
            at=np.zeros(batch, int),
            numbers=numbers,
            captured=captured,
        )

    def step(self, state: State) -> State:
        """Every sample that is not finished makes a step of its own, which may take several evaluations."""
        ends = np.array([chain.ends[at] for chain, at in zip(state.trajectories, state.at)])
        while (waiting := np.flatnonzero(state.at < ends)).size:
            groups: dict[Program, list[int]] = {}
            for i in waiting:
                groups.setdefault(state.trajectories[i].programs[state.at[i]], []).append(int(i))
            for program, rows in groups.items():
                state = self._evaluated(state, program, np.array(rows))
        return state

    def run(self, state: State) -> Iterator[Snapshot]:
        """All steps to the end; to cancel, stop iterating."""
        before, snapshot = state.carry.x, state.snapshot
        while not snapshot.finished:
            reached, state = state.carry.x, self.step(state)
            jax.block_until_ready(before)  # stay at most one step ahead, so that a bar tells the truth
            before, snapshot = reached, state.snapshot
            yield snapshot

    def batches(
        self,
        asked: Any,
        specs: Specs,
        batch: int | None = None,
        negative: Any = None,
        first: int = 0,
        noise: Array | None = None,
        captured: Array | None = None,
        progress: bool | Callable[[], object] = True,
    ) -> Iterator[Snapshot]:
        """`start` and `run` for one batch of samples after the other; the last is filled up, which does not show.

        Args:
          batch: samples per call of the network; all at once by default.
          first: number of the first sample.
          progress: show a bar over steps, or what to call after each step of each batch.
          asked, specs, negative, noise, captured: of all n samples, see `start`.

        Raises:
          UserError: what this model cannot do, before anything is evaluated.
        """
        conditioner = self.engine.model.conditioner
        cond = parsed(conditioner, asked)
        n = size(cond)
        away = negatives(conditioner, negative, n)
        check_numbers(first, n, batch)
        batch = self.engine.even(min(batch or n, n))
        chains = self._chains(specs, n, batch)
        most = max(chain.steps for chain in chains)
        noise, captured = given_noise(noise, captured, self.engine.model.latent, n, most)
        parts = [np.minimum(np.arange(begin, begin + batch), n - 1) for begin in range(0, n, batch)]

        def all_steps() -> Iterator[Snapshot]:
            total = sum(max(chains[i].steps for i in part) for part in parts)
            with Progress(total, "sampling", enabled=progress is True) as bar:
                tick = progress if callable(progress) else bar.advance
                for number, part in enumerate(parts):
                    if len(parts) > 1:
                        bar.note(f"batch {number + 1} of {len(parts)}")
                    here = [chains[i] for i in part]
                    state = self.start(
                        take(cond, part),
                        here,
                        None if away is None else take(away, part),
                        first + part,
                        None if noise is None else noise[part],
                        None if captured is None else captured[: max(chain.steps for chain in here), part],
                    )
                    count = min(batch, n - number * batch)
                    for snapshot in self.run(state):
                        tick()
                        yield snapshot if count == batch else Snapshot(*(leaf[:count] for leaf in snapshot))

        return all_steps()

    def _chains(self, specs: Specs, count: int, batch: int) -> tuple[Trajectory, ...]:
        """The trajectory of each of `count` samples in batches of `batch`; one of a spec."""
        if not isinstance(specs, Sequence):
            specs = [specs] * count
        if len(specs) != count:
            raise UserError(f"spec must be one for all samples or one for each of {count}, got {len(specs)}")
        for spec in specs:
            if not isinstance(spec, (SampleSpec, Trajectory)):
                raise UserError(f"spec must be a SampleSpec, got {type(spec).__name__}")
        looked = partial(self.trajectory, batch=batch)
        made = {spec: spec if isinstance(spec, Trajectory) else looked(spec) for spec in dict.fromkeys(specs)}
        return tuple(made[spec] for spec in specs)

    def _evaluated(self, state: State, program: Program, rows: np.ndarray) -> State:
        """One evaluation of the samples `rows`, which wait for one program.

        Fewer than all are filled up to a power of two, so that there are few shapes to compile.
        """
        batch, latent, placed = len(state.at), self.engine.model.latent, self.engine.placed
        fill = min(self.engine.even(1 << (len(rows) - 1).bit_length()), batch) - len(rows)
        read = np.append(rows, np.repeat(rows[-1:], fill))
        chains, at = [state.trajectories[i] for i in read], state.at[read]
        told = StepRows(
            np.stack([chain.numbers[k] for chain, k in zip(chains, at)]),
            np.array([chain.scale[k] for chain, k in zip(chains, at)]),
        )
        noise = self._quiet(len(read))
        if any(chain.noisy[k] for chain, k in zip(chains, at)):
            step = np.array([chain.step[k] for chain, k in zip(chains, at)])
            if state.captured is not None:
                noise = placed(state.captured[step, read])
            else:
                noise = placed(step_noise([chain.seed for chain in chains], state.numbers[read], step, latent))
        held = state.carry, state.cond, state.guides[program.guide_patch != program.cond_patch]
        if len(rows) == batch:
            carry = self.engine.run(program, told, *held, noise)
        else:
            carry = self.engine.run(program, told, *placed(_taken(held, read)), noise)
            carry = placed(_put(state.carry, carry, np.append(rows, np.full(fill, batch))))
        at = state.at.copy()
        at[rows] += 1
        return replace(state, carry=carry, at=at)

    def _quiet(self, batch: int) -> Array:
        """No noise, for steps that add none."""
        if batch not in self._zeros:
            self._zeros[batch] = self.engine.placed(jnp.zeros((batch, *self.engine.model.latent)))
        return self._zeros[batch]


@jax.jit
def _taken(tree: Any, rows: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@jax.jit
def _put(carry: Carry, new: Carry, rows: Array) -> Carry:
    """`carry` with the samples `rows` from `new`; a row past the end is left out."""
    return jax.tree.map(lambda old, leaf: old.at[rows].set(leaf, mode="drop"), carry, new)


def check_numbers(first: int, n: int, batch: int | None) -> None:
    """Refuses samples that have no number, and batches that hold none.

    Raises:
      UserError: not whole numbers, or out of their range.
    """
    build.check_type(first, "int", "first")
    build.check_type(batch, "int | None", "batch")
    if first < 0:
        raise UserError(f"first must be at least 0, got {first!r}")
    if first > 2**32 - n:
        raise UserError(f"first must lie in 0..2^32-{n} for {n} samples, got {first!r}")
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")
