"""Modes trained only at the times where they will be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.config import load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.models.build import init
from flexidit_jax.training.losses import diffusion, distillation
from flexidit_jax.training.losses import flow as velocity
from flexidit_jax.training.stages import Stage, build_stages
from flexidit_jax.training.state import first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import Updates

P2, P4 = (1, 2, 2), (1, 4, 4)
CONFIGS = Path(__file__).parents[2] / "configs"
KEY = jax.random.key(0)


# ---------------------------------------------------------------- Times


def test_gaussian_times_between_shares() -> None:
    process = gaussian.Process()
    drawn = np.asarray(process.draw_times(KEY, 20000, 0.4, 0.57))
    assert (drawn.min(), drawn.max()) == (400, 569)  # the end belongs to the mode above
    assert drawn.mean() == pytest.approx(484.5, abs=2)
    np.testing.assert_array_equal(process.draw_times(KEY, 100), jax.random.randint(KEY, (100,), 0, 1000))
    assert set(np.asarray(gaussian.Process(steps=3).draw_times(KEY, 50, 0.4, 0.5)).tolist()) == {1}  # never none


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times_between_shares_of_what_the_network_is_told(shift: float) -> None:
    process = flow.Process(shift=shift)
    drawn = np.asarray(process.draw_times(KEY, 20000, 0.4, 0.7))
    assert 400 <= drawn.min() < 401 and 699 < drawn.max() <= 700.001
    whole = np.asarray(process.draw_times(KEY, 200000))
    inside = whole[(whole >= 400) & (whole <= 700)]  # the same density, cut
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), np.quantile(inside, [0.25, 0.5, 0.75]), rtol=0.01)
    s = np.linspace(0, 1, 5)
    np.testing.assert_allclose(process.unshifted(process.shifted(s)), s, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "process"),
    [
        (diffusion.Loss(), gaussian.Process()),
        (distillation.Loss(), gaussian.Process()),
        (distillation.Loss(), flow.Process(shift=2.0)),
        (velocity.Loss(), flow.Process(shift=2.0)),
        (velocity.Loss("logit_normal", mean=0.3), flow.Process(shift=2.0)),
    ],
    ids=["diffusion", "distillation", "distillation flow", "flow", "logit-normal"],
)
def test_every_loss_stays_within(loss: Any, process: Any) -> None:
    shape = (4000, 1, 1, 1, 1)
    for low, high in ((0.0, 0.3), (0.3, 0.5), (0.5, 1.0)):
        t, noise = loss.draw(process, KEY, shape, (low, high))
        assert t.shape == (4000,) and noise.shape == shape
        assert 1000 * low - 1e-3 <= t.min() < 1000 * low + 60
        assert 1000 * high - 60 < t.max() <= 1000 * high + 1e-3
    t, _ = loss.draw(process, KEY, shape)
    assert t.min() < 120 and t.max() > 900


def test_logit_normal_times_keep_their_density() -> None:
    loss, process = velocity.Loss("logit_normal", mean=0.3, std=0.8), flow.Process(shift=2.0)
    cut, whole = (np.asarray(loss._logit_normal(process, KEY, 100000, *ends)) for ends in ((0.4, 0.7), (0.0, 1.0)))
    s = process.shifted(whole)
    inside = whole[(s >= 0.4) & (s <= 0.7)]
    np.testing.assert_allclose(np.quantile(cut, [0.1, 0.5, 0.9]), np.quantile(inside, [0.1, 0.5, 0.9]), rtol=0.02)


# ---------------------------------------------------------------- Stages


def test_the_config_that_does_it() -> None:
    config = load_config(f"{CONFIGS / 'digits_restricted.py'}:smoke")
    before, after = build_experiment(config).train.stages
    assert before.times == {} and Stage((P2,), 5).times == {}
    assert after.times == {P2: (0.0, 0.4), P4: (0.4, 1.0)}


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"8": (0.0, 1.0)}, r"^train\.stages\.times names patch 8; the stage trains 2, 4$"),
        (
            {"4": (0.5, 0.5)},
            r"^train\.stages\.times of patch 4 must be .* from data \(0\) to noise \(1\), got \(0\.5, 0\.5\)$",
        ),
        ({"4": (0.6, 0.5)}, r"of patch 4 must be \(lowest, highest\)"),
        ({"4": (-0.1, 0.5)}, r"of patch 4 must be"),
        ({"4": (400, 1000)}, r"of patch 4 must be .* got \(400, 1000\)$"),
        ({"4": 0.5}, r"of patch 4 must be .* got 0\.5$"),
        ({"4": ("a", "b")}, r"of patch 4 must be"),
        ({"2x": (0.0, 1.0)}, r"^patch '2x' is not "),
    ],
)
def test_refusals(times: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_stages([{"patches": (2, 4), "steps": 5, "times": times}], base=P2, loss={"name": "diffusion"})


def test_a_step_hands_each_mode_its_own_times() -> None:
    smoke = build_experiment(load_config(f"{CONFIGS / 'digits.py'}:smoke"))
    stage = smoke.train.stages[1]

    class Within:
        def draw(self, process: Any, key: Array, shape: Any, within: Any) -> Any:
            return jnp.full(shape[0], within[0]), jnp.full(shape[0], within[1])

        def __call__(
            self, process: Any, predict: Any, teacher: Any, x0: Array, cond: Any, t: Array, noise: Array
        ) -> Any:
            return 0 * t, {"low": t, "high": noise}

    optimizer = smoke.train.optimizer.build(stage.rate())
    step = make_step(smoke.model, smoke.process, Within(), optimizer, smoke.train.ema, 0, {P4: (0.25, 0.75)})
    state = jax.eval_shape(lambda: first_state(init(smoke.model, KEY), stage, optimizer))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    x0, cond = jnp.zeros((2, 1, 8, 8, 1)), smoke.model.conditioner.parse([0, 0])
    for patch, wanted in ((P4, (0.25, 0.75)), (P2, (0.0, 1.0))):
        state, metrics = step(state, x0, cond, 0, patch, Updates(*[np.int32(0)] * 3))
        assert (float(metrics["low"]), float(metrics["high"])) == wanted
