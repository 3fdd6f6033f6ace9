"""SiT: a flow told its time from the other end, held against a reference chain."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion import flow, gaussian, sit
from flexidit_jax.diffusion.process import NoiseProcess, read_by, suits
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Steps, advance, begin
from flexidit_jax.training.losses.flow import Loss

GOLDEN = Path(__file__).parents[1] / "golden"


# ---------------------------------------------------------------- The reference


@pytest.fixture(scope="module")
def chain() -> dict[str, np.ndarray]:
    """Images as [B, H, W, C]."""
    arrays = np.load(GOLDEN / "sit_chain.npz")
    return {key: np.moveaxis(arrays[key], 1, -1) if arrays[key].ndim == 4 else arrays[key] for key in arrays}


@pytest.fixture(scope="module")
def dit_as_sit() -> fd.FlexiDiT:
    return fd.load(GOLDEN / "dit_tiny.safetensors", process="sit")


def test_the_velocity(dit_as_sit: fd.FlexiDiT, chain: dict[str, np.ndarray]) -> None:
    t = np.full(len(chain["y"]), chain["v_t"], np.float32)
    output, variance = dit_as_sit.predict(chain["noise"], t, chain["y"])
    np.testing.assert_allclose(output, chain["v"], rtol=0, atol=1e-4)
    assert variance is None  # it has 2C channels, and the second half is none


@pytest.mark.parametrize(
    ("name", "words"),
    [("euler", {"guidance": 1.0}), ("euler_guided", {"guidance": 1.5, "guidance_channels": 3})],
)
def test_the_chain(dit_as_sit: fd.FlexiDiT, chain: dict[str, np.ndarray], name: str, words: dict[str, float]) -> None:
    words = {"steps": 10, "solver": "euler", "noise": chain["noise"], "decode": False, "progress": False, **words}
    found = dit_as_sit.sample(chain["y"], **words)
    np.testing.assert_allclose(found, chain[name], rtol=0, atol=1e-4)
    assert np.abs(chain["euler"] - chain["euler_guided"]).max() > 0.01


# ---------------------------------------------------------------- The process


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_it_is_the_flow_read_from_the_other_end(shift: float) -> None:
    ours, theirs = sit.Process(shift), flow.Process(1, shift)
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(size=(2, 5, 1, 3, 3, 2)).astype(np.float32)
    t = np.linspace(0, 1, 5, dtype=np.float32)
    there = t[:, None, None, None, None]
    np.testing.assert_allclose(ours.add_noise(x0, noise, t), there * x0 + (1 - there) * noise, atol=1e-6)
    np.testing.assert_array_equal(ours.velocity(x0, noise), x0 - noise)
    np.testing.assert_array_equal(theirs.velocity(x0, noise), noise - x0)
    np.testing.assert_allclose(ours.share(t), 1 - t)
    np.testing.assert_allclose(ours.time(ours.share(t)), t, atol=1e-7)
    for solver in ("euler", "heun"):
        mine, yours = (make_table(solver, process, 7) for process in (ours, theirs))
        np.testing.assert_allclose(mine.t, 1 - yours.t)
        np.testing.assert_array_equal(mine.x0_from_output, -yours.x0_from_output)
        for column in set(Steps._fields) - {"t", "x0_from_output"}:
            np.testing.assert_array_equal(getattr(mine, column), getattr(yours, column))
    np.testing.assert_allclose(make_table("euler", sit.Process(), 10).t, np.arange(10) / 10, atol=1e-12)


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_times_to_train_at_are_shares_of_the_same_way(times: str) -> None:
    ours, theirs, shape = sit.Process(3.0), flow.Process(1, 3.0), (500, 1, 1, 1, 1)
    for within in ((0.0, 1.0), (0.4, 0.7)):
        t, s = (Loss(times).draw(process, jax.random.key(0), shape, within)[0] for process in (ours, theirs))
        np.testing.assert_allclose(t, 1 - s, atol=1e-6)
        assert 1 - within[1] - 1e-6 <= t.min() < t.max() <= 1 - within[0] + 1e-6


def test_shares_of_the_way_from_data_to_noise() -> None:
    np.testing.assert_allclose(gaussian.Process().share(np.array([0, 250, 999])), [0, 0.25, 0.999])
    np.testing.assert_allclose(flow.Process(steps=10).share(np.array([0, 2.5, 10])), [0, 0.25, 1])
    np.testing.assert_allclose(sit.Process().share(np.array([1, 0.75, 0])), [0, 0.25, 1])


def test_who_it_is() -> None:
    process = sit.Process(shift=2.0)
    assert isinstance(process, NoiseProcess) and process.steps == 1
    assert suits(Loss.__call__, process) and process != flow.Process(1, 2.0)
    assert build.describe(process) == {"name": "sit", "shift": 2.0}
    for words, message in (
        ({"steps": 1000}, r"^process\.steps is a key of flow and gaussian"),
        ({"shift": 0.0}, "positive"),
    ):
        with pytest.raises(UserError, match=message):
            build.part("flexidit_jax.diffusion", "Process", {"name": "sit", **words}, "process")
    with pytest.raises(
        UserError, match=r"^solver 'ddpm' does not suit the sit process; these do: dpmpp_2m, euler, heun, unipc$"
    ):
        make_table("ddpm", process, 3)


# ---------------------------------------------------------------- The half that is none


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("process", [sit.Process(), flow.Process(), gaussian.Process()], ids=["sit", "flow", "ddim"])
def test_a_step_without_noise_reads_no_variance(process: NoiseProcess, poison: float) -> None:
    table = make_table("ddim" if process.learns_variance else "euler", process, 3)
    row = Steps(*table.rows()[1])
    x, output, noise = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    bad = jnp.full_like(x, poison)
    clean, read = (advance(row, begin(x), Prediction(output, half), noise) for half in (None, bad))
    for ours, theirs in zip(read, clean, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_who_reads_a_variance() -> None:
    prediction = Prediction(np.zeros(2), np.ones(2))
    assert read_by(gaussian.Process(), prediction) is prediction
    for process in (flow.Process(), sit.Process()):
        assert read_by(process, prediction) == Prediction(prediction.output, None)
