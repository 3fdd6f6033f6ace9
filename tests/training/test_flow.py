"""Training by flow matching: the loss, and a run of the digits config turned into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flexidit_jax.common.config import load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Prediction
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.jobs import train
from flexidit_jax.loading import load
from flexidit_jax.training.losses.flow import Loss

CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"


def flow_config(**train_words: Any) -> ConfigDict:
    """`digits.py:smoke` by flow matching, without its report."""
    config = load_config(f"{CONFIG}:smoke")
    with config.ignore_type(), config.unlocked():
        config.process = {"name": "flow", "steps": 1000, "shift": 1.5}
        config.model.learn_variance = False
        config.train.loss = {"name": "flow", "times": "logit_normal"}
        config.sample.solver = "heun"
        config.report = None
        config.train.update(train_words)
    return config


# ---------------------------------------------------------------- The loss


def test_the_exact_velocity_costs_nothing_and_an_error_its_square() -> None:
    process, x0 = Process(steps=100), jnp.full((8, 1, 2, 2, 3), 0.5)

    def predict(x: Array, t: Array, cond: Any) -> Prediction:
        s = (t / 100).reshape(-1, 1, 1, 1, 1)
        return Prediction((x - 0.5) / s + cond, None)  # noise - x0, where x0 is known

    for times in ("uniform", "logit_normal"):
        for error in (0.0, 0.3):
            t, noise = Loss(times).draw(process, jax.random.key(0), x0.shape)
            values, parts = Loss(times)(process, predict, predict, x0, error, t, noise)
            np.testing.assert_allclose(values, np.full(8, error**2), atol=1e-6)
            assert set(parts) == {"mse"}
            np.testing.assert_array_equal(parts["mse"], values)


def test_logit_normal_times() -> None:
    loss = Loss("logit_normal", mean=0.5, std=2.0)
    t, _ = loss.draw(Process(shift=3.0), jax.random.key(0), (20000, 1, 1, 1, 1))
    share = np.asarray(t) / 1000
    logit = np.log(share / (1 - share)) - np.log(3)  # a shift adds to the logit
    np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 2.0], atol=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"times": "cosine"}, "loss.times must be one of uniform, logit_normal, got 'cosine'"),
        ({"std": 0.0}, "loss.std must be positive, got 0.0"),
    ],
)
def test_loss_refuses(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Loss(**words)
    assert str(caught.value) == message


# ---------------------------------------------------------------- A run


@pytest.mark.slow
def test_a_flow_model_trains_and_samples(tmp_path: Path) -> None:
    stages = ({"patches": (2,), "steps": 2, "learning_rate": 1e-2}, {"patches": (2, 4), "steps": 2})
    assert train.run(flow_config(stages=stages), tmp_path / "run") == 0
    model = load(tmp_path / "run")
    assert model.process == Process(shift=1.5)
    assert not model.model.learn_variance
    words = {"steps": 3, "schedule": "4:1,2:2", "guidance": 1.5, "progress": False, "decode": False}
    euler, heun = (model.sample([0, 1], solver=solver, **words) for solver in ("euler", "heun"))
    assert euler.shape == heun.shape == (2, 8, 8, 1)
    assert np.isfinite(euler).all() and np.isfinite(heun).all()
    assert np.abs(euler - heun).max() > 0
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved").sample([0, 1], solver="heun", **words), heun)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.learn_variance", True, "model.learn_variance must be False: the flow process has no variance to learn"),
        ("train.loss", {"name": "diffusion"}, "train.loss 'diffusion' is not one for the flow process"),
        ("sample.solver", "ddpm", "solver 'ddpm' does not suit the flow process; these do: dpmpp_2m, euler,"),
        ("report", {"steps": 4, "batch": 50, "weak_first": (0, 2)}, "solver 'ddpm' does not suit the flow process"),
        ("process", {"name": "gaussian"}, "solver 'heun' does not suit the gaussian process"),
    ],
)
def test_parts_that_do_not_suit_the_process(key: str, value: Any, message: str) -> None:
    config = flow_config()
    *above, last = key.split(".")
    with config.ignore_type():
        (config[above[0]] if above else config)[last] = value
    with pytest.raises(UserError) as caught:
        build_experiment(config)
    assert str(caught.value).startswith(message)
