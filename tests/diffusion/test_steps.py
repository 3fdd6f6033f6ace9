"""One row: what a carry keeps of an x that is not finite (`test_solvers` has what the rows compute)."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Carry, Steps, advance, begin, lost_shape

TABLE = make_table("ddim", Process(), 4)


def after(carry: Carry, row: int, output: np.ndarray) -> Carry:
    numbers = Steps(*(np.full((3, 1, 1), number, np.float32) for number in TABLE.rows()[row]))
    return jax.jit(advance)(numbers, carry, Prediction(output, None), np.zeros_like(output))


def lost(carry: Carry) -> list[int]:
    return np.ravel(carry.lost).astype(int).tolist()


@pytest.mark.parametrize("none", [np.nan, np.inf, 3e38])
def test_the_first_step_that_is_lost_is_kept(none: float) -> None:
    sound = np.ones((3, 2, 2), np.float32)
    broken = sound.copy()
    broken[1, 0, 1] = none  # one number of one sample; the last overflows on the way
    start = begin(sound)
    assert start.lost.shape == (3, 1, 1) and lost(start) == [-1, -1, -1]
    first = after(start, 0, sound)
    second = after(first, 1, broken)
    assert lost(first) == [-1, -1, -1] and lost(second) == [-1, 1, -1]
    assert lost(after(second, 2, sound)) == [-1, 1, -1]
    assert lost(after(second, 2, np.roll(broken, 1, axis=0))) == [-1, 1, 2]


def test_a_sample_that_is_lost_stays_so_whatever_x_is_put_in_its_place() -> None:
    sound = np.ones((3, 2, 2), np.float32)
    second = after(begin(sound), 0, sound * np.nan)
    assert lost(after(second._replace(x=sound, x0_prev=sound), 1, sound)) == [0, 0, 0]


def test_shapes() -> None:
    assert lost_shape((5, 1, 8, 8, 4)) == (5, 1, 1, 1, 1)
    assert lost_shape((4,)) == (4,) and lost_shape(()) == ()
