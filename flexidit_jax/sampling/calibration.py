"""Milliseconds of a step on this machine, measured once and kept in a file.

Which layout of `sampling.packing` is fastest depends on the device, the batch and the model, and FLOPs
do not tell: so it is measured. A step is timed by running the very program that sampling runs, which
is then compiled already. The file holds, per machine, model and batch,

    {"<machine>; <model>; batch 16": {"2+4 packed": 12.3, "2+4 separate": 14.1, "2+none": 9.9}}

Steps that are to be compared are measured together, in turn, so that a change of the machine's pace
meets all of them; the median counts.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.cores import cores
from flexidit_jax.common.files import cache_folder, written_aside
from flexidit_jax.common.types import Patch
from flexidit_jax.diffusion.steps import Steps, begin
from flexidit_jax.models.build import attention_of
from flexidit_jax.models.conditioning.condition import Given, nothing
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import text_tokens
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.schedule import Segment, pair_text
from flexidit_jax.sampling.tables import ROWS, Told, asked_of, hoisted
from flexidit_jax.sampling.trajectory import Program, StepRows

#: which programs steps are: another number where they came to take another time
STEPS = 2
#: timed steps per program, after one that compiles and one that warms up
REPEATS = 5

Figures = dict[str, float]


class Case(NamedTuple):
    """One step program; the fields are those of `Segment`."""

    cond_patch: Patch
    guide_patch: Patch | None
    packing: str

    @property
    def name(self) -> str:
        """`"2+4 packed"`, `"2+2"`, `"2+none"`."""
        pair = pair_text(self.cond_patch, self.guide_patch)
        return pair if self.guide_patch in (None, self.cond_patch) else f"{pair} {self.packing}"


def cache_file() -> Path:
    """`packing.json` in the user's cache folder."""
    return cache_folder() / "packing.json"


def machine() -> str:
    """What sampling runs on. A CPU goes by its architecture and the cores this process may use."""
    device = jax.devices()[0]
    kind, number = device.device_kind, jax.local_device_count()
    if device.platform == "cpu":
        kind = f"{platform.machine()} cpu of {cores()} cores"
    return f"{number} x {kind}, jax {jax.__version__}"


def key_of(model: DiT, kind: str, batch: int) -> str:
    """The entry of a model at a batch size: whatever changes the time of a step, patches apart.

    Args:
      kind: see `Engine`.
    """
    shape = f"latent {'x'.join(map(str, model.latent))}, width {model.width}, depth {model.depth}"
    more = f"heads {model.num_heads}, mlp {model.mlp_ratio}, variance {model.learn_variance}, unroll {model.unroll}"
    read = f"modulation {model.modulation}, text {text_tokens(model)}"
    dtypes = f"{model.dtype} on {model.residual}"
    return (
        f"{machine()}; {shape}, {more}, {read}, {dtypes}, {attention_of(model)}, {kind}, steps {STEPS}; batch {batch}"
    )


def measure(
    runs: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> Figures:
    """Median milliseconds of each function, run in turn."""
    for run in runs.values():
        run()  # compiles
        run()  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return {name: round(1e3 * float(np.median(times)), 4) for name, times in seconds.items()}


def milliseconds(
    cases: Sequence[Case],
    key: str,
    run: Callable[[Case], object],
    path: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Case, float]:
    """The time of a step in each case: from the file, or measured now and written there.

    Args:
      cases: to be compared; unless the file has all of them all are measured.
      key: from `key_of`.
      run: evaluates one case to its end.
      path: `cache_file()` by default.
      clock: seconds.
    """
    path = cache_file() if path is None else path
    entries = _read(path)
    if entries is None:
        _say(f"{path} is damaged and will be written anew")
    known = (entries or {}).get(key, {})
    if any(case.name not in known for case in cases):
        names = ", ".join(case.name for case in cases)
        _say(f"measuring {len(cases)} kinds of step ({names}), compilation included; kept in {path}")
        known = measure({case.name: lambda case=case: run(case) for case in cases}, clock=clock)
        _write(path, key, known)
    return {case: known[case.name] for case in cases}


def fastest(
    runs: Iterable[Segment], layouts: Sequence[str], times: Callable[[Sequence[Case]], Mapping[Case, float]]
) -> list[Segment]:
    """The segments with the fastest of `layouts` wherever two lengths meet.

    Nothing is measured where none do, or where there is nothing to choose.

    Args:
      runs: the plan.
      layouts: to choose from, see `sampling.packing`.
      times: `milliseconds` for this model, batch and machine.
    """
    runs = list(runs)
    pairs = {run.pair for run in runs if run.two_lengths}
    chosen = dict.fromkeys(pairs, layouts[0])
    for pair in sorted(pairs) if len(layouts) > 1 else ():
        found = times([Case(*pair, layout) for layout in layouts])
        chosen[pair] = min(found, key=found.__getitem__).packing
    return [run._replace(packing=chosen.get(run.pair, run.packing)) for run in runs]


def evaluation(engine: Engine, table: Steps, batch: int, channels: int | None = None) -> Callable[[Case], None]:
    """A function that evaluates the network once in a case, to the end, on a batch of zero latents without condition.

    Arguments lie where sampling has them, so that the program is the same. Tables of modulations,
    which many steps share, are made once for all.
    """
    numbers, scale = np.repeat(table.rows()[:1], batch, axis=0), np.ones(batch, np.float32)
    carry = engine.placed(begin(jnp.zeros((batch, *engine.model.latent))))
    none = nothing(engine.model.conditioner, batch)

    @cache
    def given(patch: Patch, conditions: int) -> Given:
        return engine.given(patch, [none] * conditions)

    @cache
    def rows(patch: Patch) -> Modulations:
        told = engine.whole(Told.of(none, (none, none), engine.modulating).rows)
        return engine.table(patch, np.repeat(table.t[:1], ROWS).astype(np.float32), told, np.zeros(ROWS, np.int32))

    def run(case: Case) -> None:
        program, pick, tables = Program(*case, None if case.guide_patch is None else channels), None, None
        if hoisted(batch):
            pick, tables = np.zeros((batch, program.predictions), np.int32), [rows(patch) for patch in program.modes]
        read = [given(engine.readers[patch], len(which)) for patch, which in asked_of(program)]
        jax.block_until_ready(engine.run(program, StepRows(numbers, scale, pick), carry, read, carry.x, tables))

    return run


def times_of(
    engine: Engine, table: Steps, batch: int, channels: int | None = None
) -> Callable[[Sequence[Case]], dict[Case, float]]:
    """`milliseconds` of an engine's evaluations; arguments as in `evaluation`."""
    key = key_of(engine.model, engine.kind, batch)
    return lambda cases: milliseconds(cases, key, evaluation(engine, table, batch, channels))


def _read(path: Path) -> dict[str, Figures] | None:
    """The file's entries, {} where there is no file; None where it is damaged."""
    try:
        entries = json.loads(path.read_text())
        sound = all(float(time) > 0 for figures in entries.values() for time in figures.values())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return entries if sound else None


def _write(path: Path, key: str, figures: Figures) -> None:
    """Adds to an entry; a file that cannot be written costs a line and the next call a measurement."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = _read(path) or {}  # again: another process may have written
        entries[key] = {**entries.get(key, {}), **figures}
        with written_aside(path) as file:
            file.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        _say(f"cannot keep the measurement in {path} ({error.strerror}); it holds for this call only")


def _say(text: str) -> None:
    print(f"calibration: {text}", file=sys.stderr, flush=True)
