"""Features of a text: what is read, what stands for no text, what may be left out."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import merge
from flexidit_jax.models.build import build_dit, describe, init, recorded_dit
from flexidit_jax.models.conditioning.condition import as_null, of_records, parsed, shapes
from flexidit_jax.models.conditioning.text import Conditioner
from flexidit_jax.models.flexify import flexify, split_frozen
from flexidit_jax.models.position import timestep_features

WIDTH, FEATURES, LENGTH = 12, 5, 4
WORDS = {"width": WIDTH, "features": FEATURES, "length": LENGTH}
BARE, MICRO = Conditioner(**WORDS), Conditioner(**WORDS, resolution=(64, 32))
CAPTION = Conditioner(**WORDS, null_length=LENGTH, null_mask="caption")
OWN = Conditioner(**WORDS, null_length=2, null_mask="own")


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def params_of(conditioner: Conditioner) -> dict[str, Any]:
    shapes_of = jax.eval_shape(conditioner.init, jax.random.key(0), conditioner.parse([None]))["params"]
    leaves, tree = jax.tree.flatten(shapes_of)
    return tree.unflatten([drawn(i, *leaf.shape) / 2 for i, leaf in enumerate(leaves)])


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_features_go_through_a_layer_and_another() -> None:
    params, cond = params_of(BARE), BARE.parse([drawn(1, 3, FEATURES), drawn(2, 4, FEATURES)])
    context = BARE.apply({"params": params}, cond)
    h = gelu(cond["tokens"] @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    np.testing.assert_allclose(context.tokens, h @ params["fc2"]["kernel"] + params["fc2"]["bias"], atol=2e-6)
    np.testing.assert_array_equal(context.mask, [[True] * 3 + [False], [True] * 4])
    assert context.vector is None


def test_height_width_and_ratio_are_a_vector_with_or_without_a_text() -> None:
    params, cond = params_of(MICRO), MICRO.parse([drawn(1, 3, FEATURES), drawn(2, 1, FEATURES)])
    np.testing.assert_array_equal(cond["resolution"], [[64, 32]] * 2)
    np.testing.assert_array_equal(cond["aspect_ratio"], [[2], [2]])
    cond["resolution"][1], cond["aspect_ratio"][1] = (512, 768), 0.67

    def embedded(name: str, numbers: np.ndarray) -> np.ndarray:
        layers = params[f"{name}_embedding"]
        h = np.asarray(timestep_features(numbers)) @ layers["fc1"]["kernel"] + layers["fc1"]["bias"]
        return h / (1 + np.exp(-h)) @ layers["fc2"]["kernel"] + layers["fc2"]["bias"]

    height, width = cond["resolution"].T
    wanted = [embedded("resolution", height), embedded("resolution", width)]
    wanted = np.concatenate([*wanted, embedded("aspect_ratio", cond["aspect_ratio"][:, 0])], axis=-1)
    np.testing.assert_allclose(MICRO.apply({"params": params}, cond).vector, wanted, atol=1e-4)
    null = MICRO.apply({"params": params}, as_null(cond)).vector
    np.testing.assert_allclose(null, wanted, atol=1e-4)


@pytest.mark.parametrize(("conditioner", "mask"), [(CAPTION, [1, 1, 1, 0]), (OWN, [1, 1, 0, 0])])
def test_no_text_is_read_by_the_mask_of_its_convention(conditioner: Conditioner, mask: list[int]) -> None:
    params, cond = params_of(conditioner), conditioner.parse([drawn(1, 3, FEATURES)] * 2)
    cond["null"][1] = True
    context = conditioner.apply({"params": params}, cond)
    np.testing.assert_array_equal(context.mask, np.array([[1, 1, 1, 0], mask], bool))
    typed = conditioner.parse([params["null"]])
    alike = conditioner.apply({"params": params}, typed).tokens[0]
    np.testing.assert_array_equal(context.tokens[1], alike)
    np.testing.assert_array_equal(conditioner.parse([None])["mask"], [[True] * LENGTH])


def test_where_nothing_stands_for_no_text_it_is_refused_and_never_read() -> None:
    cond = BARE.parse([drawn(1, 3, FEATURES), None])
    tokens = BARE.apply({"params": params_of(BARE)}, cond).tokens
    assert np.isfinite(tokens[0]).all() and np.isnan(tokens[1]).all()
    for asked in (cond, [None]):
        with pytest.raises(
            UserError, match=r"^this model has nothing that stands for no text; load .* its text encoder$"
        ):
            parsed(BARE, asked)


def test_a_condition_may_be_shorter_and_its_mask_of_numbers() -> None:
    tokens, mask = drawn(1, 2, 3, FEATURES), np.array([[1, 1, 0], [1, 0, 0]])
    whole = parsed(BARE, {"tokens": tokens, "mask": mask})
    np.testing.assert_array_equal(whole["tokens"], np.pad(tokens, ((0, 0), (0, 1), (0, 0))))
    np.testing.assert_array_equal(whole["mask"], np.pad(mask, ((0, 0), (0, 1))) == 1)
    assert {key: value.dtype.kind for key, value in whole.items()} == {"tokens": "f", "mask": "b", "null": "b"}
    assert jax.tree.map(lambda leaf: leaf.shape, whole) == jax.tree.map(lambda leaf: leaf.shape, shapes(BARE, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.full((2, 3), 2)}, "mask of the condition must be bool [2, 4], got int64 [2, 4]"),
        ({"mask": np.ones((2, 2), bool)}, "tokens and mask of the condition must be as many, at most 4, got 3 and 2"),
        (
            {"tokens": drawn(1, 2, 9, FEATURES)},
            "tokens and mask of the condition must be as many, at most 4, got 9 and 3",
        ),
        (
            {"mask": [[1, 0, 0], [0, 0, 0]]},
            "mask of the condition has no token of text 1; an empty text has its end token",
        ),
        ({"tokens": drawn(1, 2, 3, 6)}, "tokens of the condition must be float32 [2, 4, 5], got float32 [2, 4, 6]"),
        (
            {"tokens": [[1], [2, 3]], "mask": np.ones((2, 4), bool)},
            "tokens of the condition must be float32 [2, 4, 5], got rows of other lengths",
        ),
        ({"resolution": [[1, 1]] * 2}, "the condition of this model has no 'resolution'; known: mask, null, tokens"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    asked = {"tokens": drawn(1, 2, 3, FEATURES), "mask": np.ones((2, 3), bool)}
    with pytest.raises(UserError) as caught:
        parsed(BARE, asked | change)
    assert str(caught.value).startswith(message)


def test_micro_conditions_that_are_not_said_are_of_the_size() -> None:
    asked = {"tokens": drawn(1, 2, 3, FEATURES), "mask": np.ones((2, 3), bool)}
    for conditioner, sides in ((MICRO, (64, 32)), (MICRO.grown(1.5, 0.25), (96, 8))):
        for cond in (parsed(conditioner, asked), conditioner.parse([None, None])):
            np.testing.assert_array_equal(cond["resolution"], [sides] * 2)
            np.testing.assert_array_equal(cond["aspect_ratio"], [[sides[0] / sides[1]]] * 2)
    said = parsed(MICRO, {**asked, "resolution": [[512, 768]] * 2})
    np.testing.assert_array_equal(said["resolution"], [[512, 768]] * 2)
    assert BARE.grown(2, 2) is BARE
    assert hash(MICRO.grown(1.0, 1.0)) == hash(MICRO) and MICRO.grown(1.0, 1.0) == MICRO  # a key of programs
    records = {**asked, "resolution": np.full((2, 2), 7.0), "x": np.zeros(2)}
    cond = of_records(MICRO.grown(1.5, 0.25), records)
    assert cond.keys() == {*MICRO.fields, "null"} and cond["tokens"].shape[1] == MICRO.length
    np.testing.assert_array_equal(cond["resolution"], [[7, 7]] * 2)  # as they say
    np.testing.assert_array_equal(cond["aspect_ratio"], [[96 / 8]] * 2)  # and what they do not


def test_without_a_mask_all_tokens_are_read() -> None:
    cond = parsed(BARE, {"tokens": drawn(1, 2, 3, FEATURES)})
    np.testing.assert_array_equal(cond["mask"], [[True, True, True, False]] * 2)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a cat", "texts must be a list of features [m, 5] or None, got str"),
        ([], "texts must be a list of features [m, 5] or None, got list"),
        (["a cat"], "a text is read as features [m, 5] of its encoder, got 'a cat'"),
        ([None, drawn(1, 5, 5)], "features of text 1 must be [m, 5] with m in 1..4, got [5, 5]"),
        ([drawn(1, 3, 6)], "features of text 0 must be [m, 5] with m in 1..4, got [3, 6]"),
        ([drawn(1, 0, 5)], "features of text 0 must be [m, 5] with m in 1..4, got [0, 5]"),
        ([3], "features of text 0 must be [m, 5] with m in 1..4, got []"),
    ],
)
def test_what_is_typed_is_looked_at(typed: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(message)}$"):
        BARE.parse(typed)


@pytest.mark.parametrize(
    "words",
    [{"null_mask": "both"}, {"drop_rate": 2.0}, {"length": 0}, {"null_length": 5}, {"resolution": (64,)},
     {"null_length": 2, "null_mask": "caption"}, {"resolution": (64, 64), "width": 8}],
)  # fmt: skip
def test_a_conditioner_that_cannot_be_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^(config key ')?model\.conditioner"):
        Conditioner(**(WORDS | words))


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_what_is_computed_again_is_the_same(remat: str) -> None:
    """The gradient of every leaf."""
    section = {"name": "text", "features": FEATURES, "length": LENGTH, "null_length": 2, "resolution": [64, 64]}
    model = build_dit((1, 4, 4, 4), section, width=WIDTH, depth=2, num_heads=2, modulation="single", span=2.0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * drawn(leaf.size, *leaf.shape), init(model, jax.random.key(0)))
    x, t, cond = (
        drawn(0, 2, 1, 4, 4, 4),
        np.array([3.0, 800.0], np.float32),
        model.conditioner.parse([drawn(1, 3, 5), None]),
    )

    def gradient(model: Any) -> Any:
        return jax.jit(
            jax.grad(lambda tree: sum((part**2).sum() for part in model.apply({"params": tree}, x, t, cond)))
        )(params)

    plain = gradient(model)
    near = 1e-5 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))  # that of a key's bias is zero
    again = gradient(model.clone(remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=near), again, plain)


def test_what_stands_for_no_text_is_never_trained() -> None:
    section = {"name": "text", "features": FEATURES, "length": LENGTH, "null_length": 2, "resolution": [64, 64]}
    model = build_dit((1, 8, 8, 4), section, width=WIDTH, depth=1, num_heads=2, modulation="single", span=4.0)
    again = recorded_dit(json.loads(json.dumps(describe(model))))
    assert again == model and hash(again) == hash(model)  # a key of programs
    stored = jax.eval_shape(lambda: flexify(init(model, jax.random.key(0)), [(1, 2, 2), (1, 4, 4)]))
    trained, frozen = split_frozen(stored)
    assert jax.tree.map(np.shape, frozen) == {"trunk": {"conditioner": {"null": (2, FEATURES)}}}
    assert "null" not in trained["trunk"]["conditioner"] and "null" in stored["trunk"]["conditioner"]
    assert jax.tree.structure(merge(frozen, trained)) == jax.tree.structure(stored)
