"""The schedule of least total error within a budget, by dynamic programming.

    minimise  sum_k error[mode_k, k]   subject to   sum_k calls_k cost[mode_k] <= budget * (all powerful)

over all ways to cut the steps into at most so many stretches of one mode each, in any order and with any
number of modes. Few stretches keep a schedule readable.

A state is (stretches so far, mode of the last step). Of the ways to reach it after k steps only those
are kept that no other one beats in both cost and error: the optimum extends one of them. Costs stay the
whole numbers they are, so nothing is rounded and the budget is never exceeded. With two modes there are at
most k + 1 costs after k steps, with three at most (k + 1)(k + 2) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling.schedule import Schedule


class Found(NamedTuple):
    """A schedule, its total error, and its share of the cost of running every call powerful."""

    schedule: Schedule
    error: float
    share: float


class _Ways(NamedTuple):
    """The ways kept to reach a state, [n] each, by rising cost and falling error.

    `mode` and `place` say which way of which mode each extends; the stretch is the same where the mode is.
    """

    cost: np.ndarray
    error: np.ndarray
    mode: np.ndarray
    place: np.ndarray


def best_schedules(
    patches: Sequence[Patch],
    errors: np.ndarray,
    costs: Sequence[int],
    calls: Sequence[int],
    budgets: Sequence[float],
    max_segments: int,
) -> list[Found]:
    """The best schedule for each budget; of equally good ones, one of fewest stretches.

    Args:
      patches: the modes, powerful first.
      errors: what each mode costs in quality at each step, [modes, steps], not negative.
      costs: of one call in each mode, [modes].
      calls: calls of the network in each step, [steps].
      budgets: shares of the cost of running every call powerful, in (0, 1].
      max_segments: the most stretches.

    Raises:
      UserError: a budget outside (0, 1], or below what the cheapest mode alone costs; no stretch at all.
    """
    errors, costs, calls = np.asarray(errors, float), np.asarray(costs), np.asarray(calls)
    full = costs[0] * calls.sum()
    least = costs.min() / costs[0]
    if max_segments < 1:
        raise UserError(f"max_segments must be at least 1, got {max_segments!r}")
    for budget in budgets:
        if not 0 < budget <= 1:
            raise UserError(f"budget must lie in (0, 1] (1 runs every step powerful), got {budget!r}")
        if least > budget + 1e-12:
            raise UserError(
                f"budget {budget:g} is below what the cheapest mode alone costs; the least this model can do is"
                f" {np.ceil(1e4 * least) / 1e4:g}"
            )
    limits = [(budget + 1e-12) * full for budget in budgets]
    history = _forward(errors, costs, calls, max(limits), max_segments)
    found = []
    for limit in limits:
        best, error = None, np.inf
        for state, ways in sorted(history[-1].items()):  # fewest stretches first
            place = np.searchsorted(ways.cost, limit, side="right") - 1
            if place >= 0 and ways.error[place] < error * (1 - 1e-12):
                best, error = (state, place), ways.error[place]
        modes = _backward(history, *best)
        spent = sum(costs[mode] * n for mode, n in zip(modes, calls, strict=True))
        found.append(Found(_stretches(modes, patches), float(error), float(spent / full)))
    return found


def _forward(
    errors: np.ndarray, costs: np.ndarray, calls: np.ndarray, limit: float, max_segments: int
) -> list[dict[tuple[int, int], _Ways]]:
    """The ways to every state (stretches, mode) after each step; those that cannot end within `limit` are dropped."""
    modes = range(len(costs))
    left = costs.min() * np.append(np.cumsum(calls[::-1])[::-1][1:], 0)  # the least that the steps to come cost
    nothing = np.zeros(1, int)
    before = {(0, mode): _Ways(nothing, np.zeros(1), np.full(1, mode), nothing) for mode in modes}
    history = []
    for k, n in enumerate(calls):
        here = {}
        for segments in range(1, min(max_segments, k + 1) + 1):
            for mode in modes:
                switched = [(segments - 1, other) for other in modes if (other != mode) == (segments > 1)]
                known = [(at[1], before[at]) for at in [(segments, mode), *switched] if at in before]
                if known:
                    ways = _extended(known, n * costs[mode], errors[mode, k], limit - left[k])
                    if len(ways.cost):
                        here[segments, mode] = ways
        history.append(here)
        before = here
    return history


def _extended(known: list[tuple[int, _Ways]], cost: int, error: float, limit: float) -> _Ways:
    """All ways one step on; those beaten in cost and error, or above the limit, are dropped."""
    costs = np.concatenate([ways.cost for _, ways in known]) + cost
    errors = np.concatenate([ways.error for _, ways in known]) + error
    mode = np.concatenate([np.full(len(ways.cost), mode) for mode, ways in known])
    place = np.concatenate([np.arange(len(ways.cost)) for _, ways in known])
    order = np.lexsort((errors, costs))
    order = order[costs[order] <= limit]
    least = np.minimum.accumulate(np.append(np.inf, errors[order]))[:-1]
    kept = order[errors[order] < least]
    return _Ways(costs[kept], errors[kept], mode[kept], place[kept])


def _backward(history: list[dict[tuple[int, int], _Ways]], state: tuple[int, int], place: int) -> list[int]:
    """The mode of every step of one way."""
    modes = []
    for ways in reversed(history):
        modes.append(state[1])
        one = ways[state]
        segments = state[0] - (one.mode[place] != state[1])
        state, place = (int(segments), int(one.mode[place])), int(one.place[place])
    return modes[::-1]


def _stretches(modes: Sequence[int], patches: Sequence[Patch]) -> Schedule:
    """Neighbouring steps of one mode joined."""
    starts = [0, *(np.flatnonzero(np.diff(modes)) + 1), len(modes)]
    return tuple((patches[modes[a]], int(b - a)) for a, b in pairwise(starts))
