"""The flow-matching process: straight lines, real times, a shift."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.diffusion.process import NoiseProcess, suits
from flexidit_jax.diffusion.solvers import ddim, heun
from flexidit_jax.training.losses import diffusion, distillation
from flexidit_jax.training.losses import flow as flow_loss


def test_lines_from_data_to_noise() -> None:
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(size=(2, 4, 1, 3, 3, 2)).astype(np.float32)
    t = np.array([0.0, 250.5, 500.0, 1000.0], np.float32)
    xt = np.asarray(flow.Process().add_noise(x0, noise, t))
    for i, s in enumerate((0.0, 0.2505, 0.5, 1.0)):
        np.testing.assert_allclose(xt[i], x0[i] + s * (noise[i] - x0[i]), atol=1e-6)
    # the unit of time changes what the network is told, not the line
    np.testing.assert_allclose(flow.Process(steps=10).add_noise(x0, noise, t / 100), xt, atol=1e-6)
    # nor does the shift, which is in the times already
    np.testing.assert_array_equal(flow.Process(shift=3.0).add_noise(x0, noise, t), xt)


@pytest.mark.parametrize("n", [1, 2, 7, 2000])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_chain(n: int, shift: float) -> None:
    chain = flow.Process(steps=50, shift=shift).chain(n)
    even = np.arange(1, n + 1) / n
    np.testing.assert_allclose(chain.s, 1 / (1 + (1 / even - 1) / shift), rtol=1e-12)  # odds times the shift
    assert chain.s[-1] == 1
    np.testing.assert_array_equal(chain.t, 50 * chain.s)
    np.testing.assert_array_equal(chain.s_prev, [0, *chain.s[:-1]])
    assert (np.diff(chain.s) > 0).all()


def test_times_to_train_at() -> None:
    key = jax.random.key(0)
    even, shifted = (np.asarray(flow.Process(shift=shift).draw_times(key, 20000)) for shift in (1.0, 3.0))
    np.testing.assert_allclose(np.quantile(even, [0.1, 0.5, 0.9]), [100, 500, 900], atol=15)
    np.testing.assert_allclose(np.median(shifted), 750, atol=15)
    assert even.min() >= 0 and even.max() <= 1000
    whole = np.asarray(gaussian.Process(steps=5).draw_times(key, 1000))
    assert sorted(set(whole.tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "process.steps must be positive, got 0"),
        ({"shift": 0.0}, "process.shift must be positive, got 0.0"),
    ],
)
def test_process_refuses(words: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        flow.Process(**words)
    assert str(caught.value) == message
    with pytest.raises(UserError, match=r"^steps must be at most 1000000, got 100000000000000000000$"):
        flow.Process().chain(10**20)
    with pytest.raises(UserError, match=r"^steps must be at least 1, got 0$"):
        flow.Process().chain(0)


def test_who_suits_whom() -> None:
    bell, line = gaussian.Process(), flow.Process()
    assert isinstance(bell, NoiseProcess) and isinstance(line, NoiseProcess)
    for function, theirs in (
        (ddim.table, (True, False)),
        (heun.table, (False, True)),
        (diffusion.Loss.__call__, (True, False)),
        (flow_loss.Loss.__call__, (False, True)),
        (distillation.Loss.__call__, (True, True)),
    ):
        assert (suits(function, bell), suits(function, line)) == theirs
