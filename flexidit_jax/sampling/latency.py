"""A budget in milliseconds: the most powerful weak-first plan that is fast enough here.

FLOPs do not tell how long a step takes on a device at a batch size, so the steps are timed
(`sampling.calibration`) and a plan's time is predicted as the sum over its evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.sampling.calibration import Case, times_of
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.plan import Choose, Plan

Times: TypeAlias = Callable[[Sequence[Case]], Mapping[Case, float]]


def chooser(
    latency_ms: float,
    engine: Engine,
    table: Steps,
    batch: int | None,
    layouts: Sequence[str],
    channels: int | None = None,
) -> Choose:
    """`within_latency` for an engine's batches; the function times evaluations when it is called.

    Args:
      table: the solver's.
      batch: samples per call of the network.
      channels: guided ones, as sampling is told.
      latency_ms, layouts: see `within_latency`.

    Raises:
      UserError: no batch, without which no time is known.
    """
    if not isinstance(batch, int) or batch < 1:
        raise UserError(f"latency_ms wants batch=, the samples per call of the network, got {batch!r}")

    def choose(make: Callable[[int], Plan]) -> Plan:
        times = times_of(engine, table, engine.even(batch), channels)
        return within_latency(latency_ms, make, len(table.evaluations), layouts, times)

    return choose


def within_latency(
    latency_ms: float, make: Callable[[int], Plan], steps: int, layouts: Sequence[str], times: Times
) -> Plan:
    """The first weak-first plan whose predicted time is at or below `latency_ms`.

    Args:
      latency_ms: milliseconds for all steps of one batch, decoding apart.
      make: number of weak steps -> plan. From the first number that guidance forbids on (a guide more
        powerful than what it guides) they are left out.
      steps: the most there can be.
      layouts: that two lengths may take (see `sampling.packing`); the fastest counts.
      times: milliseconds of one evaluation in each case, all measured together.

    Raises:
      UserError: less than the fastest plan takes.
    """
    allowed: list[Plan] = []
    for n in range(steps + 1):
        try:
            allowed.append(make(n))
        except UserError:
            if not allowed:
                raise
            break
    ways = {
        run.pair: [Case(*run.pair, layout) for layout in (layouts if run.two_lengths else (run.packing,))]
        for plan in allowed
        for run in plan.segments
    }
    found = times([case for cases in ways.values() for case in cases])
    fastest = {pair: min(found[case] for case in cases) for pair, cases in ways.items()}
    least = np.inf
    for plan in allowed:
        calls = [sum(plan.evaluations[run.start : run.stop]) for run in plan.segments]
        predicted = sum(fastest[run.pair] * n for run, n in zip(plan.segments, calls, strict=True))
        if predicted <= latency_ms:
            return plan
        least = min(least, predicted)
    raise UserError(
        f"latency_ms={latency_ms:g} is less than this device takes for a batch of this size and so many steps;"
        f" the least it can do is {np.ceil(10 * least) / 10:g}"
    )
