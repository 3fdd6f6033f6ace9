"""Samples of one model, a step at a time: `start`, `step`, `run`.

Samples that wait for one program are evaluated together, whichever step of whichever chain each of them is at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.arguments import shown, typed
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Array, Patch
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.steps import Carry, begin
from flexidit_jax.models.conditioning.condition import (
    NULL,
    Condition,
    Given,
    check_null,
    guides,
    negatives,
    parsed,
    size,
    take,
)
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.calibration import fastest, times_of
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.latency import chooser
from flexidit_jax.sampling.noise import draws, first_number, given_noise, normal, sample_numbers
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.plan import Cost, Plan
from flexidit_jax.sampling.snapshot import NotFinite, Snapshot
from flexidit_jax.sampling.spec import SampleSpec, own_words
from flexidit_jax.sampling.state import Reading, State
from flexidit_jax.sampling.tables import Told, asked_of, hoisted, ready
from flexidit_jax.sampling.trajectory import Program, StepRows, Trajectory
from flexidit_jax.sampling.unread import unread

#: one for all samples or one for each; a trajectory is a spec that was looked at before
Specs: TypeAlias = SampleSpec | Trajectory | Sequence[SampleSpec | Trajectory]


class Sampler:
    """Samples of one model.

    Args:
      engine: the model's programs and weights.
      process: its noise process.
      cost: FLOPs of one call in a mode.
      adapters: whether every mode has kernels of its own.
      pixels: height and width of the pictures of its latents; None where nobody tells.
    """

    def __init__(
        self,
        engine: Engine,
        process: NoiseProcess,
        cost: Cost,
        adapters: bool,
        pixels: Callable[[], tuple[int, ...] | None] = lambda: None,
    ) -> None:
        self.engine, self._process, self._cost, self._adapters, self._pixels = engine, process, cost, adapters, pixels
        self._zeros: Array | None = None

    def meant(self, spec: SampleSpec, batch: int | None = None) -> SampleSpec:
        """The spec with the model's own words where it says None; `batch` matters with `latency_ms` alone.

        Raises:
          UserError: see `plan`, where the scale of guidance depends on the plan.
        """
        if spec.aspect is not None or (spec.size is not None and spec.size != self._pixels()):
            raise UserError("a sampler draws one size; take that of the model of another, of FlexiDiT.of_size")
        own = own_words(self.engine.model.conditioner)
        if (known := spec.meant(own)).guidance is not None:
            return known
        plan = self._planned(spec.meant(own, share=1.0), batch)  # any scale: no cost depends on it
        return spec.meant(own, plan.relative_cost(self.engine.patches[0], self._cost))

    def plan(self, spec: SampleSpec, batch: int | None = None) -> Plan:
        """What every step of a spec runs; `batch` matters with `latency_ms` alone.

        Raises:
          UserError: see `SampleSpec.plan`; more guided channels than there are, no batch with `latency_ms`.
        """
        return self._planned(self.meant(spec, batch), batch)

    def _planned(self, spec: SampleSpec, batch: int | None) -> Plan:
        layouts, channels = choices(spec.packing, self._adapters), spec.guidance_channels
        if channels is not None and not 1 <= channels <= self.engine.model.latent[-1]:
            raise UserError(f"guidance_channels must lie in 1..{self.engine.model.latent[-1]}, got {channels}")
        table, ms = spec.table(self._process), spec.latency_ms
        if ms is None:
            batch, choose = batch_size(batch), None
        else:
            choose = chooser(ms, self.engine, table, typed(batch, "int | None", "batch"), layouts, channels)
        return spec.plan(self.engine.patches, table, self._cost, choose)

    def unread(self, spec: SampleSpec, negative: Any = None) -> dict[str, str]:
        """What a spec asks for and no step reads, with why: see `sampling.unread`."""
        try:
            spec = spec.meant(own_words(self.engine.model.conditioner), share=1.0)
            table = spec.table(self._process)
        except UserError:  # said where the spec is used
            return {}
        return unread(spec, self.engine.patches, table, self._cost, negative)

    def trajectory(self, spec: SampleSpec, batch: int) -> Trajectory:
        """The chain of a sample in batches of `batch`, where two lengths meet in the fastest packing allowed.

        Raises:
          UserError: what this model cannot do.
        """
        spec = self.meant(spec, batch)
        layouts, channels = choices(spec.packing, self._adapters), spec.guidance_channels
        table, segments = spec.table(self._process), self._planned(spec, batch).segments
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
        latent, placed = self.engine.model.latent, self.engine.placed
        conditioner = self.engine.model.conditioner
        cond = parsed(conditioner, asked)
        batch = size(cond)
        conds = cond, *self._guides(cond, negatives(conditioner, negative, batch))
        if self.engine.even(batch) != batch:
            raise UserError(f"{batch} samples do not split over the devices evenly; {self.engine.even(batch)} would")
        chains, which = self._chains(specs, batch, conds)
        numbers = np.arange(batch) if numbers is None else sample_numbers(numbers, batch)
        noise, captured = given_noise(noise, captured, latent, batch, max(chain.steps for chain in chains))
        if noise is None:
            seeds = np.array([chain.seed for chain in chains])[which]
            noise = self._drawn(seeds, numbers, -1)
        told = Told.of(cond, conds[1:], self.engine.modulating) if hoisted(batch) else None
        return State(
            carry=placed(begin(jnp.asarray(noise))),
            conds=conds,
            told_of=told and told._replace(rows=self.engine.whole(told.rows)),
            tables={},
            given={},
            chains=chains,
            which=which,
            at=np.zeros(batch, int),
            numbers=numbers,
            captured=captured,
        )

    def step(self, state: State) -> State:
        """Every sample that is not finished makes a step of its own, which may take several evaluations."""
        _check_state(state)
        ends = state.told("ends")
        while (rows := np.flatnonzero(state.at < ends)).size:
            for program, group in state.waiting(rows).items():
                state = self._evaluated(state, program, group)
        return state

    def run(self, state: State) -> Iterator[Snapshot]:
        """All steps to the end; to cancel, stop iterating. What became of samples, `Snapshot.failed` tells."""
        _check_state(state)
        return self._run(state)

    def _run(self, state: State) -> Iterator[Snapshot]:
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
        negative: Any = None,
        batch: int | None = None,
        first: int = 0,
        noise: Array | None = None,
        captured: Array | None = None,
        progress: bool | Callable[[], object] = True,
    ) -> Iterator[Snapshot]:
        """`start` and `run` for one batch of samples after the other; the last is filled up to the same shape.

        Args:
          batch: samples per call of the network; all at once by default.
          first: number of the first sample.
          progress: show a bar over steps, or what to call after each step of each batch.
          asked, specs, negative, noise, captured: of all n samples, see `start`.

        Raises:
          UserError: what this model cannot do, before anything is evaluated.
          NotFinite: after the last step of the last batch, if samples became NaN or infinite.
        """
        conditioner = self.engine.model.conditioner
        cond = parsed(conditioner, asked)
        n = size(cond)
        away = negatives(conditioner, negative, n)
        first, batch = first_number(first, n), batch_size(batch)
        if not callable(progress):
            progress = typed(progress, "bool", "progress")
        batch = self.engine.even(min(batch or n, n))
        chains, which = self._chains(specs, batch, (cond, *self._guides(cond, away)))
        most = np.array([chain.steps for chain in chains])[which]
        noise, captured = given_noise(noise, captured, self.engine.model.latent, n, max(most))
        parts = [np.minimum(np.arange(begin, begin + batch), n - 1) for begin in range(0, n, batch)]

        def all_steps() -> Iterator[Snapshot]:
            lost = []
            with Progress(sum(max(most[part]) for part in parts), "sampling", enabled=progress is True) as bar:
                tick = progress if callable(progress) else bar.advance
                for number, part in enumerate(parts):
                    if len(parts) > 1:
                        bar.note(f"batch {number + 1} of {len(parts)}")
                    words = (
                        take(cond, part),
                        [chains[i] for i in which[part]],
                        None if away is None else take(away, part),
                        first + part,
                        None if noise is None else noise[part],
                        None if captured is None else captured[: max(most[part]), part],
                    )
                    for snapshot in self.run(self.start(*words)):
                        tick()
                        yield snapshot._replace(count=min(batch, n - number * batch))
                    lost.append(snapshot.lost)
            NotFinite.check(np.concatenate(lost).ravel()[:n], most, first)

        return all_steps()

    def _chains(
        self, specs: Specs, batch: int, conds: Sequence[Condition]
    ) -> tuple[tuple[Trajectory, ...], np.ndarray]:
        """The trajectories of samples in batches of `batch`, one of a spec; which each sample has, int [samples].

        Args:
          conds: the three of every sample, see `State`; those that a chain reads are looked at.
        """
        count = size(conds[0])
        if not isinstance(specs, Sequence):
            specs = [specs] * count
        if len(specs) != count:
            raise UserError(f"spec must be one for all samples or one for each of {count}, got {len(specs)}")
        for spec in specs:
            if not isinstance(spec, (SampleSpec, Trajectory)):
                raise UserError(f"spec must be a SampleSpec, got {type(spec).__name__}")
        place = {spec: i for i, spec in enumerate(dict.fromkeys(specs))}
        which = np.array([place[spec] for spec in specs])
        for spec, i in place.items():
            self.check_null(spec, batch, conds[1][NULL][which == i])
        chains = (spec if isinstance(spec, Trajectory) else self.trajectory(spec, batch) for spec in place)
        return tuple(chains), which

    def _guides(self, cond: Condition, negative: Condition | None) -> tuple[Condition, Condition]:
        return guides(cond, negative, getattr(self.engine.model.conditioner, "own", ()))

    def check_null(self, spec: SampleSpec | Trajectory, batch: int | None, null: np.ndarray) -> None:
        """Refuses to lead away from no condition where nothing stands for that; `null` is the guides', bool [B].

        Raises:
          UserError: so it is; another is named that would do.
        """
        try:
            check_null(self.engine.model.conditioner, null)
        except UserError as error:
            made = spec.programs if isinstance(spec, Trajectory) else self.plan(spec, batch).pairs
            if any(cond == guide for cond, guide, *_ in made):
                raise UserError(f"guidance: {error}; or name a negative") from None

    def _evaluated(self, state: State, program: Program, rows: np.ndarray) -> State:
        """One evaluation of the samples `rows`, which wait for one program.

        Fewer than all are filled up to a power of two, so that there are few shapes to compile.
        """
        batch, placed = len(state.at), self.engine.placed
        fill = min(self.engine.even(1 << (len(rows) - 1).bit_length()), batch) - len(rows)
        read = np.append(rows, np.repeat(rows[-1:], fill))
        state, tables, pick = self._modulated(state, program, read)
        state, given = self._given(state, program)
        told = StepRows(state.told("numbers", read), state.told("scale", read), pick)
        if not state.told("noisy", read).any():
            noise = self._quiet(len(read))
        elif state.captured is not None:
            noise = placed(state.captured[state.told("step", read), read])
        else:
            seeds = np.array([chain.seed for chain in state.chains])[state.which[read]]
            noise = self._drawn(seeds, state.numbers[read], state.told("step", read))
        held = state.carry, given
        if len(rows) == batch:
            carry = self.engine.run(program, told, *held, noise, tables)
        else:
            carry = self.engine.run(program, told, *placed(_taken(held, read)), noise, tables)
            carry = placed(_put(state.carry, carry, np.append(rows, np.full(fill, batch))))
        at = state.at.copy()
        at[rows] += 1
        return replace(state, carry=carry, at=at)

    def _modulated(
        self, state: State, program: Program, rows: np.ndarray
    ) -> tuple[State, list[Modulations] | None, np.ndarray | None]:
        """The tables that an evaluation of the samples `rows` reads and their rows of them; large batches have none."""
        if state.told_of is None:
            return state, None, None

        def make(patch: Patch, t: np.ndarray, numbers: np.ndarray) -> Modulations:
            return self.engine.table(patch, t, state.told_of.rows, numbers)

        chains = [state.chains[i] for i in state.which]
        tables, pick = ready(
            state.tables, make, program, chains, state.at.tolist(), state.told_of.numbers, rows.tolist()
        )
        return replace(state, tables=tables), [tables[patch].rows for patch in program.modes], pick

    def _given(self, state: State, program: Program) -> tuple[State, list[Given]]:
        """What the modes of a program read of conditions; what no evaluation to come reads is let go."""
        readings = self._readings(state, program)
        if any(reading not in state.given for reading in readings):
            left = {reading for other in state.to_come() for reading in self._readings(state, other)}
            given = {reading: made for reading, made in state.given.items() if reading in left}
            for patch, which in dict.fromkeys(readings):
                if (patch, which) not in given:
                    given[patch, which] = self.engine.given(patch, [state.conds[i] for i in which])
            state = replace(state, given=given)
        return state, [state.given[reading] for reading in readings]

    def _readings(self, state: State, program: Program) -> list[Reading]:
        """What each mode of a program reads, conditions that are the same going by their first number."""
        own, _, weaker = state.conds
        same = {2: 0} if weaker is own else {}
        return [
            (self.engine.readers[patch], tuple(same.get(i, i) for i in which)) for patch, which in asked_of(program)
        ]

    def _drawn(self, seeds: np.ndarray, numbers: np.ndarray, steps: int | np.ndarray) -> Array:
        """Noise [B, F, H, W, C], of several devices drawn by each for its samples."""
        told = draws(seeds, numbers, steps)
        told = self.engine.placed(told) if self.engine.devices > 1 else told
        return self.engine.placed(normal(*told, self.engine.model.latent))

    def _quiet(self, batch: int) -> Array:
        """No noise, for steps that add none."""
        if self._zeros is None or len(self._zeros) != batch:
            self._zeros = self.engine.placed(jnp.zeros((batch, *self.engine.model.latent)))
        return self._zeros


@jax.jit
def _taken(tree: Any, rows: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@jax.jit
def _put(carry: Carry, new: Carry, rows: Array) -> Carry:
    """`carry` with the samples `rows` from `new`; a row past the end is left out."""
    return jax.tree.map(lambda old, leaf: old.at[rows].set(leaf, mode="drop"), carry, new)


def batch_size(batch: Any) -> int | None:
    """Samples per call of the network; None where that is open.

    Raises:
      UserError: not a whole number, or none from 1 on.
    """
    batch = typed(batch, "int | None", "batch")
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, got {batch!r}")
    return batch


def _check_state(state: Any) -> None:
    if not isinstance(state, State):
        raise UserError(f"state must be one that `start` or `step` made, got {shown(state)}")
