"""One pre-trained DiT, several patch sizes: what flexify keeps, and what belongs to a mode."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten, map_named
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.models import flexify as library
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import is_flexible, patches_of, sort_patches

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
#: quick to compile; what is tested here does not depend on how well
#: float32, of the largest output
PRESERVED = 2e-6


at = jax.jit(library.at, static_argnums=1)  # in one program each: quicker than op by op
_flexify = jax.jit(library.flexify, static_argnums=1)


def flexify(params: Params, modes: Sequence[Patch]) -> Params:
    return _flexify(params, tuple(modes))


def tiny(latent: tuple[int, int, int, int], patch: Patch = P2) -> DiT:
    return build_dit(latent, {"name": "classes", "classes": 3}, patch, width=16, depth=2, num_heads=2)


def randomised(tree: Params, seed: int) -> Params:
    """Arrays of the same shapes with nothing left at zero: adaLN-zero would hide what lies behind it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), tree)


def plain_params(model: DiT, seed: int = 0) -> Params:
    cond = model.conditioner.parse([None])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *model.example(1), cond))
    return randomised(shapes["params"], seed)


def inputs(model: DiT) -> tuple[Array, Array, Condition]:
    x = np.random.default_rng(7).normal(size=(2, *model.latent)).astype(np.float32)
    return x, np.array([3, 900]), model.conditioner.parse([0, 3])


@partial(jax.jit, static_argnums=0)
def forward(model: DiT, params: Params, x: Array, t: Array, cond: Condition) -> Prediction:
    return model.apply({"params": params}, x, t, cond)


def deviation(ours: Prediction, reference: Prediction) -> float:
    """Largest difference, of the largest value."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, reference, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def assert_trees_close(ours: Params, reference: Params, tolerance: float = 1e-6) -> None:
    flat, expected = flatten(ours), flatten(reference)
    assert flat.keys() == expected.keys()
    for name, leaf in flat.items():
        np.testing.assert_allclose(leaf, expected[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def image() -> tuple[DiT, Params]:
    model = tiny((1, 8, 8, 2))
    return model, plain_params(model)


@pytest.fixture(scope="module")
def flexible(image: tuple[DiT, Params]) -> Params:
    """Modes 2 and 4 whose own leaves are random too, as after training."""
    stored = flexify(image[1], [P2, P4])
    return {**stored, "modes": randomised(stored["modes"], 1)}


@pytest.mark.parametrize(
    ("latent", "modes"),
    [
        pytest.param((1, 8, 8, 2), [P2, P4], id="2,4"),
        pytest.param((1, 8, 8, 2), [P2, P4, P8], id="2,4,8"),
        pytest.param((1, 8, 8, 2), [P2, (1, 2, 4), (1, 8, 2)], id="unequal axes"),
        pytest.param((2, 4, 4, 2), [P2, (2, 2, 2), P4], id="video"),
    ],
)
def test_the_pretrained_function_is_preserved(latent: tuple[int, int, int, int], modes: Sequence[Patch]) -> None:
    model = tiny(latent)
    params = plain_params(model)
    stored = flexify(params, modes)
    assert patches_of(stored) == sort_patches(modes)
    reference = forward(model, params, *inputs(model))
    assert deviation(forward(model, at(stored, modes[0]), *inputs(model)), reference) <= PRESERVED
    # this could tell: a trained norm shift or patch-size embedding shows
    trained = {**stored, "modes": jax.tree.map(lambda leaf: np.asarray(leaf) + 0.01, stored["modes"])}
    assert deviation(forward(model, at(trained, modes[0]), *inputs(model)), reference) > 100 * PRESERVED


def test_a_still_clip_keeps_its_tokens() -> None:
    """A larger temporal patch starts as the kernel duplicated along time at half weight."""
    params = plain_params(tiny((2, 4, 4, 2)))
    stored = flexify(params, [P2, (2, 2, 2)])
    ours = at(stored, (2, 2, 2))
    np.testing.assert_allclose(ours["embed"]["kernel"], np.repeat(params["embed"]["kernel"], 2, 0) / 2, atol=1e-6)
    for leaf in ("kernel", "bias"):  # and it paints every frame as the powerful mode paints one
        axis = params["deembed"][leaf].ndim - 4
        np.testing.assert_allclose(
            ours["deembed"][leaf], np.repeat(params["deembed"][leaf], 2, axis), atol=1e-6, err_msg=leaf
        )


def test_flexify_and_at_are_linear(image: tuple[DiT, Params]) -> None:
    """So they map an exponential moving average as well as the parameters."""
    a, b = image[1], plain_params(image[0], seed=5)

    def mix(x: Params, y: Params) -> Params:
        return jax.tree.map(lambda u, v: 0.9 * np.asarray(u) + 0.1 * np.asarray(v), x, y)

    modes = [P2, P4, (1, 8, 2)]
    assert_trees_close(flexify(mix(a, b), modes), mix(flexify(a, modes), flexify(b, modes)))
    first, second = (randomised(flexify(a, modes), seed) for seed in (1, 2))
    for mode in modes:
        assert_trees_close(at(mix(first, second), mode), mix(at(first, mode), at(second, mode)))


def test_every_leaf_receives_a_gradient(image: tuple[DiT, Params], flexible: Params) -> None:
    """Of `at`, layer by layer; and through it every stored leaf but those of the other mode."""
    model = image[0].at(P4)
    weights = np.random.default_rng(3).normal(size=(2, 2, *model.latent)).astype(np.float32)

    @partial(jax.jit)
    def gradients(stored: Params) -> tuple[Params, Params]:
        def loss(params: Params) -> Array:
            out = model.apply({"params": params}, *inputs(model))
            return sum(jnp.sum(w * part) for w, part in zip(weights, out, strict=True))

        plain, pullback = jax.vjp(lambda stored: library.at(stored, P4), stored)
        received = jax.grad(loss)(plain)
        return received, pullback(received)[0]

    received, stored = (flatten(jax.tree.map(np.asarray, tree)) for tree in gradients(flexible))
    for name, leaf in received.items():
        for layer in leaf if name.startswith("blocks/") else leaf[None]:
            assert np.isfinite(layer).all(), name
            assert np.abs(layer).max() > 1e-3, name
    for name, leaf in stored.items():
        assert (np.abs(leaf).max() == 0) == name.startswith("modes/1x2x2/"), name
    assert any(name.startswith("modes/1x2x2/") for name in stored)


def test_no_leaf_is_ignored(image: tuple[DiT, Params], flexible: Params) -> None:
    model = image[0].at(P4)
    params = jax.tree.map(np.asarray, at(flexible, P4))
    reference = forward(model, params, *inputs(model))
    for name in flatten(params):

        def bump(path: str, leaf: Array, name: str = name) -> Array:
            return (
                leaf + 0.1 * np.cos(np.arange(leaf.size), dtype=np.float32).reshape(leaf.shape)
                if path == name
                else leaf
            )

        assert deviation(forward(model, map_named(bump, params), *inputs(model)), reference) > 1e-4, name


def test_the_own_leaves_of_a_mode(image: tuple[DiT, Params]) -> None:
    stored = flexify(image[1], [P4, P2])
    shapes = {
        "patch_embedding": (16,),
        "blocks/norm1/gain": (2, 16),
        "blocks/norm1/shift": (2, 16),
        "blocks/norm2/gain": (2, 16),
        "blocks/norm2/shift": (2, 16),
        "final/norm/gain": (16,),
        "final/norm/shift": (16,),
    }
    assert set(stored["modes"]) == {"1x2x2", "1x4x4"}
    for leaves in stored["modes"].values():
        assert {name: leaf.shape for name, leaf in flatten(leaves).items()} == shapes
        assert all(not np.any(leaf) for leaf in flatten(leaves).values())


def test_a_model_with_one_mode_is_the_plain_dit(image: tuple[DiT, Params]) -> None:
    stored = flexify(image[1], [P2])
    assert is_flexible(stored)
    assert not is_flexible(image[1])
    assert stored["modes"] == {"1x2x2": {}}
    assert flatten(at(stored, P2)).keys() == flatten(image[1]).keys()
    for name, leaf in flatten(at(stored, P2)).items():
        np.testing.assert_array_equal(leaf, flatten(image[1])[name], err_msg=name)  # to the bit


def test_flexify_again(image: tuple[DiT, Params], flexible: Params) -> None:
    assert library.flexify(flexible, [P4, P2]) is flexible  # the same modes: as it came
    assert_trees_close(flexify(flexify(image[1], [P2]), [P2, P4]), flexify(image[1], [P2, P4]), 0)
    for other in ([P2], [P2, P4, P8], [P2, P8]):
        with pytest.raises(UserError) as caught:
            flexify(flexible, other)
        assert str(caught.value) == "this model already has the modes 2, 4; flexify the pre-trained model instead"
    with pytest.raises(UserError, match=r"^this model already has the modes 2, 4; "):
        library.flexify(flexible, [P2, P4], 8)  # shared parameters would not become adapters


def test_a_smaller_patch_is_refused(image: tuple[DiT, Params]) -> None:
    for patch, name in {(1, 1, 1): "1", (1, 8, 1): "8x1"}.items():
        with pytest.raises(UserError) as caught:
            flexify(image[1], [P2, patch])
        assert str(caught.value) == (
            f"patch {name} is smaller than the pre-trained patch 2; modes must be at least as large on every axis"
        )


def test_a_mode_the_model_lacks_is_refused(flexible: Params) -> None:
    with pytest.raises(UserError) as caught:
        at(flexible, P8)
    assert str(caught.value) == "the model has no mode 8; it has 2, 4"


def test_modes_are_sorted_powerful_first() -> None:
    assert sort_patches([P8, P4, (2, 2, 2), P2, P4, (1, 2, 4)]) == (P2, (1, 2, 4), (2, 2, 2), P4, P8)
