"""Solvers of flow matching against another implementation: levels, rows, and chains of given predictions."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Steps, advance, begin

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "flow_schedulers.npz"))
#: name in the file -> solver and grid
CASES = {
    "unipc": ("unipc", "diffusers"),
    "unipc_wan": ("unipc", "wan"),
    "dpmpp": ("dpmpp_2m", "wan"),
    "euler": ("euler", "diffusers_euler"),
    "euler_even": ("euler", "even"),
}
COLUMNS = {"kx": "kx", "kl": "kl", "k0": "k0", "k1": "k1", "k2": "kz", "cx": "cx", "c0": "c0", "c1": "c1"}
STEP = jax.jit(lambda row, carry, output: advance(Steps(*row), carry, Prediction(output, None), 0 * output))


@pytest.mark.parametrize("shift", [3, 5])
@pytest.mark.parametrize("name", CASES)
def test_a_chain(name: str, shift: int) -> None:
    solver, grid = CASES[name]
    table = make_table({"name": solver, "grid": grid}, Process(shift=shift), 6)
    of = f"{name}_shift{shift}"
    np.testing.assert_allclose(table.t, GOLDEN[f"{of}_timesteps"], atol=0 if grid in ("diffusers", "wan") else 1e-4)
    np.testing.assert_allclose(-table.x0_from_output, GOLDEN[f"{of}_sigmas"][:-1], atol=1e-7)
    for theirs, ours in COLUMNS.items():
        if (row := f"{of}_row_{theirs}") in GOLDEN:
            np.testing.assert_allclose(getattr(table, ours), GOLDEN[row], atol=1e-6)
    carry = begin(GOLDEN["noise"])
    for number, row in enumerate(table.rows()):
        carry = STEP(row, carry, GOLDEN["outputs"][number])
        np.testing.assert_allclose(carry.x, GOLDEN[f"{of}_chain"][number], atol=5e-6)


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("shift", [3, 5])
@pytest.mark.parametrize(("name", "grid"), [("unipc", "diffusers"), ("euler", "diffusers_euler")])
def test_levels(name: str, grid: str, shift: int, steps: int) -> None:
    chain, of = Process(shift=shift).chain(steps, grid), f"{name}_shift{shift}_{steps}"
    np.testing.assert_allclose(chain.t[::-1], GOLDEN[f"{of}_timesteps"], atol=1e-4)
    np.testing.assert_allclose(chain.s[::-1], GOLDEN[f"{of}_sigmas"][:-1], atol=1e-7)


def test_a_grid_of_levels_is_not_the_same_with_another_start() -> None:
    """The even grid begins at pure noise, where the second step has no history; that of diffusers just below it."""
    even, theirs = (make_table({"name": "unipc", "grid": grid}, Process(shift=3), 6) for grid in ("even", "diffusers"))
    assert even.c1[1] == 0 and abs(theirs.c1[1]) > 1e-3
