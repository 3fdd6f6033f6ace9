"""Updates counted mode by mode: what Adam's correction and the average's warm-up go by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.types import Params, Patch, patch_name
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, updated
from flexidit_jax.training.updates import UpdateCounts, Updates

P2, P4 = (1, 2, 2), (1, 4, 4)
RATE = 1e-3
RARE = Stage((P2, P4), 3000, learning_rate=RATE, probabilities=(0.99, 0.01))


def leaf_of(params: Params, patch: Patch | None) -> float:
    """The only number of a mode's own leaves, or of those that all modes train."""
    return float(params["trunk"]["x"] if patch is None else params["modes"][patch_name(patch)]["x"])


def started(optimizer: object) -> TrainState:
    params = {"trunk": {"x": jnp.float32(0)}, "modes": {patch_name(p): {"x": jnp.float32(0)} for p in (P2, P4)}}
    return TrainState(jnp.int32(0), params, params, optimizer.init(params), {})


@pytest.fixture(scope="module")
def rare() -> tuple[list[Patch], list[TrainState]]:
    """The modes drawn and the state before and after each step, at a constant gradient of 1."""
    optimizer, ema = AdamW().build(RARE.rate()), Ema(0.999, warmup=True)

    def one(patch: Patch) -> Callable[[TrainState, Updates], TrainState]:
        ones = jax.tree.map(jnp.ones_like, started(optimizer).params)
        return jax.jit(lambda state, counts: updated(state, ones, optimizer, ema, patch, counts))

    steps, counts = {patch: one(patch) for patch in RARE.patches}, UpdateCounts([RARE], 5)
    modes, states = [], [started(optimizer)]
    while modes.count(P4) < 20:
        modes.append(RARE.mode(5, len(modes)))
        states.append(steps[modes[-1]](states[-1], counts.next(modes[-1])))
    return modes, states


@pytest.mark.parametrize("patch", [P2, P4, None], ids=["common", "rare", "shared"])
def test_an_update_is_the_learning_rate_however_rare_its_mode(rare: tuple, patch: Patch | None) -> None:
    """m / sqrt(v) of a constant gradient is 1 at every update, if both are corrected by the leaf's own."""
    modes, states = rare
    assert 1000 < len(modes) < 3000
    drawn = [i for i, mode in enumerate(modes) if patch in (mode, None)][:20]
    moves = [leaf_of(states[i].params, patch) - leaf_of(states[i + 1].params, patch) for i in drawn]
    assert len(moves) == 20
    np.testing.assert_allclose(moves, RATE, rtol=1e-3)


def test_a_leaf_ages_when_it_is_drawn(rare: tuple) -> None:
    """The average of n updates is warmed up by n, whichever steps they were."""
    modes, states = rare
    drawn = [i for i, mode in enumerate(modes) if mode == P4]
    average = 0.0
    for n, i in enumerate(drawn):
        decay = (1 + n) / (10 + n)
        average = decay * average + (1 - decay) * leaf_of(states[i + 1].params, P4)
        assert leaf_of(states[i + 1].ema, P4) == pytest.approx(average, rel=1e-4)
    assert leaf_of(states[-1].ema, P4) == leaf_of(states[drawn[-1] + 1].ema, P4)
    assert int(states[-1].optimizer[0].count) == int(states[-1].step) == len(modes)  # the tree is that of optax


def test_shared_leaves_age_with_the_run() -> None:
    """Their average goes through a change of modes, and its warm-up does not begin anew."""
    optimizer = AdamW().build(RARE.rate())
    state = started(optimizer)
    ones = jax.tree.map(jnp.ones_like, state.params)
    after = updated(state, ones, optimizer, Ema(0.999, warmup=True), P4, Updates(*map(np.int32, (0, 8, 90))))
    for patch, age in ((None, 90), (P4, 8)):
        share = 1 - (1 + age) / (10 + age)
        assert leaf_of(after.ema, patch) == pytest.approx(share * leaf_of(after.params, patch), rel=1e-5)
    assert leaf_of(after.params, P4) == pytest.approx(-RATE, rel=1e-3)


def test_the_learning_rate_is_that_of_the_stages_step() -> None:
    stage = Stage((P2, P4), 100, learning_rate=RATE, warmup=10)
    optimizer = AdamW().build(stage.rate())
    state = started(optimizer)
    ones, counts = jax.tree.map(jnp.ones_like, state.params), UpdateCounts([stage], 0)
    step = jax.jit(lambda state, counts: updated(state, ones, optimizer, Ema(), P4, counts))
    for number in range(15):
        after = step(state, counts.next(P4))
        moved = leaf_of(state.params, P4) - leaf_of(after.params, P4)
        assert moved == pytest.approx(RATE * min(number / 10, 1), rel=2e-3, abs=1e-9)
        state = after


# ---------------------------------------------------------------- Counting


def numbers(updates: Updates) -> tuple[int, int, int]:
    return tuple(map(int, updates))


def test_counts_along_stages() -> None:
    """Modes that come to be begin at 0; a stage that goes on with them has new moments and no younger averages."""
    stages = [Stage((P2,), 3), Stage((P2, P4), 4), Stage((P2, P4), 3, learning_rate=1e-5)]
    assert [after.goes_on(before) for before, after in pairwise(stages)] == [False, True]
    assert not Stage((P2, P4), 4, adapters=2).goes_on(stages[1])
    counts = UpdateCounts(stages, seed=0)
    modes = [P2, P2, P2, P4, P2, P4, P4, P2, P4, P4]
    assert [numbers(counts.next(mode)) for mode in modes] == [
        (0, 0, 0), (1, 1, 1), (2, 2, 2),
        (0, 0, 3), (0, 0, 4), (1, 1, 5), (2, 2, 6),
        (0, 1, 7), (0, 3, 8), (1, 4, 9),
    ]  # fmt: skip
    assert {np.dtype(np.int32)} == {number.dtype for number in counts.next(P2)}


def test_a_start_counts_what_was_done_before_it() -> None:
    stages = [Stage((P2,), 5), Stage((P2, P4), 40, probabilities=(0.8, 0.2)), Stage((P2, P4), 40)]
    modes = [
        stage.mode(3, number)
        for stage, begin in zip(stages, (0, 5, 45))
        for number in range(begin, begin + stage.steps)
    ]
    whole = UpdateCounts(stages, 3)
    told = [numbers(whole.next(mode)) for mode in modes]
    for done in (0, 1, 5, 6, 30, 44, 45, 46, 70):
        resumed = UpdateCounts(stages, 3, done)
        assert [numbers(resumed.next(mode)) for mode in modes[done:]] == told[done:], done


def test_an_average_is_warmed_up_by_updates() -> None:
    ema = Ema(0.99, warmup=True)
    assert [float(ema.rate(n)) for n in (0, 8, 10**6)] == pytest.approx([0.1, 0.5, 0.99])
    assert float(Ema(0.99).rate(0)) == pytest.approx(0.99)
