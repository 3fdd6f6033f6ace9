"""The search: against every schedule there is, within the budget always, weak-first where that is best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.sampling.schedule import weak_first
from flexidit_jax.sampling.search import Found, best_schedules

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
COSTS = (1000, 274, 91)


def search(errors: np.ndarray, budgets: list[float], max_segments: int = 3, calls: list[int] | None = None, **words):
    modes, steps = errors.shape
    calls = [1] * steps if calls is None else calls
    costs = words.get("costs", COSTS[:modes])
    return best_schedules((P2, P4, P8)[:modes], errors, costs, calls, budgets, max_segments)


def brute_force(errors: np.ndarray, costs, calls, budget: float, max_segments: int) -> float:
    """The least error over all assignments of modes to steps."""
    modes, steps = errors.shape
    best = np.inf
    for chosen in itertools.product(range(modes), repeat=steps):
        switches = sum(a != b for a, b in itertools.pairwise(chosen))
        cost = sum(costs[mode] * n for mode, n in zip(chosen, calls))
        if switches < max_segments and cost <= budget * costs[0] * sum(calls):
            best = min(best, sum(errors[mode, k] for k, mode in enumerate(chosen)))
    return best


def check(found: Found, errors: np.ndarray, costs, calls, budget: float, max_segments: int) -> None:
    """What a `Found` says of its schedule holds."""
    modes = [(P2, P4, P8).index(patch) for patch, count in found.schedule for _ in range(count)]
    assert len(modes) == errors.shape[1]
    assert len(found.schedule) <= max_segments
    assert all(a != b for (a, _), (b, _) in itertools.pairwise(found.schedule))
    spent = sum(costs[mode] * n for mode, n in zip(modes, calls))
    assert spent <= budget * costs[0] * sum(calls) * (1 + 1e-12)
    assert found.share == pytest.approx(spent / (costs[0] * sum(calls)), rel=1e-12)
    assert found.error == pytest.approx(sum(errors[mode, k] for k, mode in enumerate(modes)), rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_better_in_any_order_of_two_or_three_modes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    modes, max_segments = 2 + seed % 2, 1 + seed % 4
    steps = 9 if modes == 2 else 7
    errors = rng.exponential(size=(modes, steps)) ** 2
    errors[0] = 0 if seed % 3 else errors[0] / 10  # the powerful mode need not be free of error
    calls = rng.integers(1, 3, steps).tolist()
    costs = COSTS[:modes]
    budgets = [0.3, 0.45, 0.6, 0.85, 1.0]
    for budget, found in zip(budgets, search(errors, budgets, max_segments, calls)):
        check(found, errors, costs, calls, budget, max_segments)
        assert found.error == pytest.approx(brute_force(errors, costs, calls, budget, max_segments), rel=1e-9)


def test_an_error_that_grows_gives_weak_first() -> None:
    errors = np.stack([np.zeros(50), np.linspace(1, 5, 50) ** 2])
    for budget, found in zip((0.4, 0.6, 0.8), search(errors, [0.4, 0.6, 0.8], max_segments=5)):
        (_, weak), *_ = found.schedule
        assert found.schedule == weak_first(P4, P2, weak, 50)
        assert (weak * 274 + (50 - weak) * 1000) / 50_000 <= budget
        assert ((weak - 1) * 274 + (51 - weak) * 1000) / 50_000 > budget  # not a step more than the budget asks for


def test_three_modes_from_weak_to_powerful() -> None:
    k = np.arange(30)
    errors = np.stack([0 * k, 1e-3 * 1.2**k, 2e-3 * 1.6**k])
    (found,) = search(errors, [0.4])
    assert [patch for patch, _ in found.schedule] == [P8, P4, P2]
    check(found, errors, COSTS, [1] * 30, 0.4, 3)
    (two,) = search(errors, [0.4], max_segments=2)
    assert len(two.schedule) == 2 and two.error > found.error


def test_a_cheap_last_step_is_found_and_only_where_it_may_be() -> None:
    errors = np.stack([np.zeros(10), np.append(np.arange(1.0, 10), 0.5)])
    assert search(errors, [0.8])[0].schedule == ((P4, 2), (P2, 7), (P4, 1))
    assert search(errors, [0.8], max_segments=2)[0].schedule == ((P4, 3), (P2, 7))
    assert search(errors, [1.0])[0].schedule == ((P2, 10),)  # of all, the one without error


def test_of_equally_good_ones_the_fewest_stretches() -> None:
    whole, less = search(np.array([[0.0, 0, 0], [0, 1, 1]]), [1.0, 0.8])  # a first weak step costs no quality
    assert whole.schedule == ((P2, 3),)
    assert less.schedule == ((P4, 1), (P2, 2))
    assert whole.error == less.error == 0


def test_real_sizes() -> None:
    """250 steps, three modes, costs of 12 digits; whole numbers, so that the last FLOP counts."""
    rng = np.random.default_rng(0)
    errors = np.cumsum(rng.exponential(size=(3, 250)), axis=1) * np.array([[0], [1], [2]])
    costs = (237_300_000_001, 58_000_000_003, 14_300_000_007)
    exact = (100 * costs[1] + 150 * costs[0]) / (250 * costs[0])
    for budget, found in zip((exact, 0.5), search(errors, [exact, 0.5], costs=costs)):
        check(found, errors, costs, [1] * 250, budget, 3)
    (on_the_dot,) = search(errors[:2], [exact], costs=costs[:2])
    assert on_the_dot.schedule == ((P4, 100), (P2, 150))


@pytest.mark.parametrize(
    ("budget", "segments", "message"),
    [
        (0.0, 3, r"^budget must lie in \(0, 1\]"),
        (1.1, 3, r"^budget must lie in \(0, 1\] .* got 1\.1$"),
        (0.09, 3, r"^budget 0\.09 is below what the cheapest mode alone costs; the least this model can do is 0\.091$"),
        (0.5, 0, r"^max_segments must be at least 1, got 0$"),
    ],
)
def test_refusals(budget: float, segments: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(np.ones((3, 5)), [budget], segments)
