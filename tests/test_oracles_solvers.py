"""Live parity of every solver with diffusers' schedulers, step by step; `make test-oracles` runs this file.

Each chain is driven by the same nonlinear toy network; every step starts from where ours stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Carry, Steps, advance, begin

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
GAUSSIAN, FLOW = gaussian.Process(), flow.Process(shift=3.0)
SHAPE = (2, 1, 4, 4, 3)


def toy(x: np.ndarray, t: float) -> np.ndarray:
    return (np.sin(2 * x + t / 300) + 0.3 * x).astype(np.float32)


def chain(table: Steps, learned: bool = False) -> Iterator[tuple[float, np.ndarray, np.ndarray, np.ndarray, Carry]]:
    """(t, x, output (with v, if learned, along axis 1), noise, our carry after it) of every evaluation."""
    rng = np.random.default_rng(0)
    carry = begin(rng.normal(size=SHAPE).astype(np.float32))
    for numbers in table.rows():
        row, x = Steps(*numbers), np.array(carry.x)
        output, noise = toy(x, row.t), rng.normal(size=SHAPE).astype(np.float32)
        v = np.cos(3 * x) if learned else None
        carry = advance(row, carry, Prediction(output, v), noise)
        yield row.t, x, np.concatenate([output, v], axis=1) if learned else output, noise, carry


def give_noise(monkeypatch: pytest.MonkeyPatch, module: str, noise: np.ndarray) -> None:
    path = f"diffusers.schedulers.scheduling_{module}.randn_tensor"
    monkeypatch.setattr(path, lambda *_, **__: torch.from_numpy(noise))


def assert_same(ours: Any, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    ours = np.asarray(ours)
    assert np.abs(ours - theirs.numpy()).max() <= tolerance * np.abs(ours).max()


def test_ddpm(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type="learned_range")
    theirs.set_timesteps(timesteps=GAUSSIAN.timesteps(20)[::-1].tolist())
    for t, x, both, noise, ours in chain(make_table("ddpm", GAUSSIAN, 20), learned=True):
        give_noise(monkeypatch, "ddpm", noise)
        assert_same(ours.x, theirs.step(torch.from_numpy(both), int(t), torch.from_numpy(x)).prev_sample)


def test_ddim() -> None:
    theirs = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(27)
    table = make_table("ddim", GAUSSIAN, 28)  # a stride of exactly 37: diffusers knows no other
    for t, x, eps, _, ours in chain(table):
        assert_same(ours.x, theirs.step(torch.from_numpy(eps), int(t), torch.from_numpy(x)).prev_sample)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_dpmpp_2m(steps: int) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    theirs.set_timesteps(timesteps=GAUSSIAN.timesteps(steps)[::-1].tolist())
    for t, x, eps, _, ours in chain(make_table("dpmpp_2m", GAUSSIAN, steps)):
        assert_same(ours.x, theirs.step(torch.from_numpy(eps), int(t), torch.from_numpy(x)).prev_sample, 3e-5)


def test_dpmpp_2m_at_the_times_of_a_pixart_pipeline() -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    theirs.set_timesteps(20)
    table = make_table({"name": "dpmpp_2m", "grid": "diffusers"}, GAUSSIAN, 20)
    np.testing.assert_array_equal(theirs.timesteps, table.t)
    for t, x, eps, _, ours in chain(table):
        assert_same(ours.x, theirs.step(torch.from_numpy(eps), int(t), torch.from_numpy(x)).prev_sample, 3e-5)


@pytest.mark.parametrize("steps", [10, 28])
def test_sa_solver(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The scheduler ends at the level of t = 0, where ours takes one step more, onto x0 (tested elsewhere)."""
    theirs = diffusers.SASolverScheduler(**BETAS, predictor_order=2, corrector_order=2)
    theirs.set_timesteps(steps - 1)
    table = make_table("sa_solver", GAUSSIAN, steps)
    np.testing.assert_array_equal(theirs.timesteps, table.t[:-1])
    assert table.noisy.any() and not table.noisy.all()
    for t, x, eps, noise, ours in [*chain(table)][:-1]:
        give_noise(monkeypatch, "sasolver", noise)
        after = theirs.step(torch.from_numpy(eps), int(t), torch.from_numpy(x)).prev_sample
        assert_same(ours.x, after, 3e-5)
        assert_same(ours.x_last, theirs.last_sample, 3e-5)


def test_euler() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=FLOW.shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12))
    for k, (t, x, velocity, _, ours) in enumerate(chain(make_table("euler", FLOW, 12))):
        np.testing.assert_allclose(t, theirs.timesteps[k], rtol=1e-6)
        after = theirs.step(torch.from_numpy(velocity), theirs.timesteps[k], torch.from_numpy(x)).prev_sample
        assert_same(ours.x, after)


def test_heun() -> None:
    theirs = diffusers.FlowMatchHeunDiscreteScheduler(shift=FLOW.shift)
    theirs.sigma_max, theirs.sigma_min = 1.0, 1 / 12  # ends of the grid, before the shift
    theirs.set_timesteps(12)
    rows = [*chain(make_table("heun", FLOW, 12))]
    assert len(rows) == len(theirs.timesteps) == 23
    for k, (t, x, velocity, _, ours) in enumerate(rows):
        np.testing.assert_allclose(t, theirs.timesteps[k], rtol=1e-6)
        after = theirs.step(torch.from_numpy(velocity), theirs.timesteps[k], torch.from_numpy(x)).prev_sample
        assert_same(ours.x, after)
