"""The autoencoder: shapes, the posterior, and where padding falls. Parity is in tests/test_oracles_vae.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.types import Params
from flexidit_jax.models.pretrained.autoencoder_kl import LOG_VARIANCE, VAE, Down

TINY = VAE(widths=(4, 8), resnets=1, latent=3, channels=2, groups=2)


@pytest.fixture(scope="module")
def params() -> Params:
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)


def test_shapes_follow_the_input(params: Params) -> None:
    def both(x: jax.Array) -> tuple:
        mean, std = TINY.apply({"params": params}, x, method="moments")
        return mean, std, TINY.apply({"params": params}, mean, method="decode")

    mean, std, image = jax.eval_shape(both, jnp.zeros((2, 6, 10, 2)))
    assert TINY.factor == 2
    assert mean.shape == std.shape == (2, 3, 5, 3)
    assert image.shape == (2, 6, 10, 2)


def test_bfloat16_is_for_products_only(params: Params) -> None:
    half = TINY.clone(dtype="bfloat16")
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 2)).astype(np.float32)
    ours, theirs = (jax.jit(m.apply)({"params": params}, x) for m in (half, TINY))
    assert ours.dtype == jnp.float32
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(("bias", "log_variance"), [(-100.0, LOG_VARIANCE[0]), (100.0, LOG_VARIANCE[1]), (3.0, 3.0)])
def test_std_of_a_clamped_log_variance(params: Params, bias: float, log_variance: float) -> None:
    quant = {"kernel": jnp.zeros_like(params["quant_conv"]["kernel"]), "bias": jnp.array([7.0] * 3 + [bias] * 3)}
    changed = {"params": params | {"quant_conv": quant}}
    mean, std = jax.jit(lambda x: TINY.apply(changed, x, method="moments"))(jnp.ones((1, 4, 4, 2)))
    np.testing.assert_array_equal(mean, 7.0)
    np.testing.assert_allclose(std, np.exp(log_variance / 2), rtol=1e-6)


def test_downsampling_pads_below_and_to_the_right() -> None:
    down = Down(jnp.float32)
    variables = {"params": {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}}
    summed = down.apply(variables, jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(summed, [[9, 6], [6, 4]])


def test_the_published_size() -> None:
    shapes = jax.eval_shape(VAE().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == 83_653_863
