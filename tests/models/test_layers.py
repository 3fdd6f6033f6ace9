"""The MLP of long sequences, a piece of the tokens after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common import axes
from flexidit_jax.models import layers
from flexidit_jax.models.layers import Mlp
from flexidit_jax.models.pieces import pieces

ROWS, LENGTH, WIDTH, HIDDEN = 2, 33, 8, 20


def test_pieces_are_as_few_as_keep_to_the_bytes() -> None:
    assert [pieces(whole, 100, 64) for whole in (1, 100, 101, 200, 201, 401)] == [1, 1, 2, 2, 4, 8]
    assert pieces(10**6, 100, 3) == 4  # no more than there are tokens, to a power of two


@pytest.fixture(scope="module")
def mlp() -> tuple[Mlp, Any, np.ndarray]:
    """With an adapter, and none of it zero."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    module = Mlp(WIDTH, HIDDEN, jnp.dtype("float32"))
    params = module.init(jax.random.key(0), x)["params"]
    params["fc1"] |= {"lora_a": np.ones((WIDTH, 2)), "lora_b": np.ones((2, HIDDEN))}
    return module, jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params), x


def largest(jaxpr: Any) -> int:
    """Elements of the largest array that is made, also within loops."""
    made = [int(np.prod(variable.aval.shape)) for equation in jaxpr.eqns for variable in equation.outvars]
    inner = [largest(one) for equation in jaxpr.eqns for one in jax.core.jaxprs_in_params(equation.params)]
    return max(made + inner)


def test_pieces_are_the_whole(mlp: tuple[Mlp, Any, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    module, params, x = mlp

    def run(params: Any, x: jax.Array) -> jax.Array:
        return module.apply({"params": params}, x)

    def gradients(params: Any, x: jax.Array) -> Any:
        return jax.grad(lambda *both: jnp.square(run(*both)).sum(), (0, 1))(params, x)

    whole = run(params, x), gradients(params, x)
    assert largest(jax.make_jaxpr(run)(params, x).jaxpr) == ROWS * LENGTH * HIDDEN
    monkeypatch.setattr(layers, "MOST_HIDDEN", 4 * 9 * HIDDEN)  # 33 tokens in four pieces, of ten
    monkeypatch.setattr(layers, "LANES", 5)
    again = lambda *both: run(*both)  # noqa: E731  a function whose trace is not known yet
    assert largest(jax.make_jaxpr(again)(params, x).jaxpr) == ROWS * 40 * WIDTH  # what it is handed, filled up
    assert jax.tree.map(jnp.shape, module.init(jax.random.key(0), x))["params"]["fc1"]["kernel"] == (WIDTH, HIDDEN)
    parts = run(params, x), gradients(params, x)
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("tokens", "piece"), [(32760, 8192), (17160, 8704), (8190, 8190), (1024, 1024)])
def test_pieces_of_clips_and_none_of_pictures(tokens: int, piece: int) -> None:
    """The hidden layer of two clips of 480x832 is 1.1 GiB, and 280 MiB of it are there at once."""
    module, x = Mlp(1536, 8960, jnp.dtype("bfloat16")), jax.ShapeDtypeStruct((2, tokens, 1536), jnp.bfloat16)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    assert largest(jax.make_jaxpr(module.apply)(params, x).jaxpr) == 2 * piece * 8960


def test_a_device_counts_its_own_share(mlp: tuple[Mlp, Any, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    module, params, x = mlp
    monkeypatch.setattr(layers, "MOST_HIDDEN", 4 * 17 * HIDDEN)
    run = lambda: str(jax.make_jaxpr(lambda params, x: module.apply({"params": params}, x))(params, x))  # noqa: E731
    assert "scan" in run()
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1, 1, 2), ("data", "fsdp", "tensor"))):
        assert axes.ways("tokens") == 2 and "scan" not in run()
