"""Packing: four layouts, one prediction, and no token of one image that moves another image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Params, Patch
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.conditioning.condition import Condition, take
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import at, flexify, patches_of
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.models.layout import Layout
from flexidit_jax.models.patch import tokens
from flexidit_jax.sampling.packing import (
    LAYOUTS,
    JoinedRows,
    PairLayout,
    StackedRows,
    choices,
    layout_flops,
    layout_of,
    predict_pair,
)

#: does not divide the 4 short sequences a row of either model; of the largest value
IMAGES, TOLERANCE = 5, 1e-5
SHARED = ("packed", "joined", "padded")
VIDEO = {"latent": (2, 6, 6, 3), "width": 32, "depth": 2, "num_heads": 2}

Arrays = list[np.ndarray]


class Family(NamedTuple):
    """A network, the plain parameters of a powerful and of a weak mode, and what they read."""

    model: DiT
    patches: tuple[Patch, ...]
    params: tuple[Params, ...]
    x: np.ndarray
    cond: Condition


def family(model: DiT, stored: Params, seed: int = 0) -> Family:
    """Every leaf moved off zero: norms and embeddings of the modes tell them apart."""
    rng = np.random.default_rng(seed)
    stored = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype("f"), stored)
    patches = patches_of(stored)
    x = rng.normal(size=(IMAGES, *model.latent)).astype("f")
    cond = model.conditioner.parse(np.arange(IMAGES) % model.conditioner.classes)
    return Family(model, patches, tuple(at(stored, patch) for patch in patches), x, cond)


@pytest.fixture(scope="module")
def images(flex: fd.FlexiDiT) -> Family:
    """16 and 4 tokens."""
    return family(flex.model, flex.params)


@pytest.fixture(scope="module")
def clips() -> Family:
    """18 and 4 tokens of patches (1, 2, 2) and (2, 3, 3): a packed row has two tokens left over."""
    model = build_dit(conditioner={"name": "classes", "classes": 4}, **VIDEO)
    return family(model, flexify(jax.jit(partial(init, model))(jax.random.key(0)), [(1, 2, 2), (2, 3, 3)]))


@pytest.fixture(params=["images", "clips"])
def both(request: pytest.FixtureRequest) -> Family:
    return request.getfixturevalue(request.param)


def whole_pair(packing: str, models: Any, params: Any, x: Any, t: Any, conds: Any) -> Any:
    """`predict_pair` and the modulations it wants."""
    each = zip(models, params, conds, strict=True)
    made = tuple(model.apply({"params": tree}, t, cond, method="modulations") for model, tree, cond in each)
    return predict_pair(packing, models, params, x, t, conds, made)


def program(packing: str, family: Family, guide_cond: Condition | None = None) -> Callable[..., Arrays]:
    """(x, cond) -> conditional output and variance, then the guide's; compiled anew for every call of this."""
    modes = [family.model.at(patch) for patch in family.patches]

    def pair(params: tuple[Params, ...], x: np.ndarray, cond: Condition) -> Any:
        return whole_pair(packing, modes, params, x, np.array([500]), (cond, guide_cond or cond))

    compiled = jax.jit(pair)
    return lambda x, cond: [np.asarray(part) for part in jax.tree.leaves(compiled(family.params, x, cond))]


def plain(family: Family, guide_cond: Condition | None = None) -> Arrays:
    """Both modes by themselves, through nothing but `DiT.__call__`."""

    @partial(jax.jit, static_argnums=0)
    def forward(model: DiT, params: Params, cond: Condition) -> Any:
        return model.apply({"params": params}, family.x, np.full(len(family.x), 500), cond)

    each = zip(family.patches, family.params, (family.cond, guide_cond or family.cond), strict=True)
    return [np.asarray(part) for patch, *words in each for part in forward(family.model.at(patch), *words)]


def deviation(ours: Arrays, theirs: Arrays) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


# ---------------------------------------------------------------- One prediction


def test_all_layouts_give_the_prediction_of_each_mode_by_itself(both: Family) -> None:
    reference = plain(both)
    assert deviation(reference[:2], reference[2:]) > 0.1  # the modes do differ
    for packing in LAYOUTS:
        assert deviation(program(packing, both)(both.x, both.cond), reference) <= TOLERANCE, packing


@pytest.mark.parametrize("packing", LAYOUTS)
def test_the_guide_has_a_condition_of_its_own(clips: Family, packing: str) -> None:
    away = take(clips.cond, np.arange(IMAGES)[::-1])
    reference = plain(clips, away)
    assert deviation(reference[2:], plain(clips)[2:]) > 1e-2
    assert deviation(program(packing, clips, away)(clips.x, clips.cond), reference) <= TOLERANCE


@pytest.mark.parametrize("packing", SHARED)
def test_a_single_image(images: Family, packing: str) -> None:
    one = images._replace(x=images.x[:1], cond=take(images.cond, [0]))
    assert deviation(program(packing, one)(one.x, one.cond), plain(one)) <= TOLERANCE


def test_norms_of_both_modes_take_part(images: Family) -> None:
    """The modulation a mode's tokens get is that of its own norms."""
    weak = jax.tree.map(np.asarray, images.params[1])
    norm1 = {**weak["blocks"]["norm1"], "gain": weak["blocks"]["norm1"]["gain"] + 0.5}
    other = {**weak, "blocks": {**weak["blocks"], "norm1": norm1}}
    run = program("packed", images)
    before = run(images.x, images.cond)
    after = program("packed", images._replace(params=(images.params[0], other)))(images.x, images.cond)
    assert deviation(after[:2], before[:2]) <= TOLERANCE
    assert deviation(after[2:], before[2:]) > 1e-2


# ---------------------------------------------------------------- No leak


def moved_by(run: Callable[..., Arrays], family: Family, image: int) -> np.ndarray:
    """Which images' predictions change, to the bit, when one image and its label do: bool [B]."""
    x, labels = family.x.copy(), family.cond["label"].copy()
    x[image] = 30 * np.random.default_rng(image).normal(size=x[image].shape)
    labels[image] = (labels[image] + 1) % family.model.conditioner.classes
    before, after = run(family.x, family.cond), run(x, {**family.cond, "label": labels})
    return np.any([(a != b).reshape(len(x), -1).any(axis=1) for a, b in zip(before, after, strict=True)], axis=0)


@pytest.mark.parametrize("packing", LAYOUTS)
def test_no_image_moves_another(both: Family, packing: str) -> None:
    run = program(packing, both)
    for image in range(IMAGES):
        np.testing.assert_array_equal(moved_by(run, both, image), np.arange(IMAGES) == image)


@pytest.mark.parametrize(
    ("packing", "layout"), [("packed", StackedRows), ("joined", JoinedRows), ("padded", StackedRows)]
)
def test_the_mask_is_what_holds_them_apart(
    images: Family, packing: str, layout: type[PairLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "segments", lambda self: np.zeros(self.shape, np.int32))
    run = program(packing, images)
    assert deviation(run(images.x, images.cond), plain(images)) > 1e-2
    if packing == "packed":  # in the others a row belongs to one image
        np.testing.assert_array_equal(moved_by(run, images, 1), [True] * 4 + [False])  # four share the first row


# ---------------------------------------------------------------- Layouts


def test_segments_by_hand() -> None:
    packed = layout_of("packed", 5, 18, 4)
    assert packed.shape == (7, 18)
    np.testing.assert_array_equal(packed.segments()[:5], np.zeros((5, 18)))
    np.testing.assert_array_equal(packed.segments()[5:], [[0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 2] * 2)
    padded = layout_of("padded", 2, 6, 4)
    np.testing.assert_array_equal(padded.segments(), [[0] * 6] * 2 + [[0] * 4 + [1] * 2] * 2)
    joined = layout_of("joined", 2, 3, 2)
    np.testing.assert_array_equal(joined.segments(), [[0, 0, 0, 1, 1]] * 2)
    assert layout_of("separate", 2, 3, 2) is None


@pytest.mark.parametrize("packing", SHARED)
@pytest.mark.parametrize("sizes", [(5, 18, 4), (1, 16, 4), (8, 16, 4), (3, 6, 6)])
def test_tokens_and_modulations_land_together(packing: str, sizes: tuple[int, int, int]) -> None:
    batch, n_long, n_short = sizes
    layout: Layout = layout_of(packing, *sizes)
    mark = np.arange(1, 2 * batch + 1, dtype=np.float32).reshape(2, batch, 1)  # a number per sequence
    long, short = mark[0, :, None].repeat(n_long, 1), mark[1, :, None].repeat(n_short, 1)
    rows = layout.join(long, short)
    assert rows.shape == (*layout.shape, 1)
    np.testing.assert_array_equal(layout.per_token(mark), rows)
    for back, array in zip(layout.split(rows), (long, short), strict=True):
        np.testing.assert_array_equal(back, array)
    # a segment of a row holds one sequence, or padding alone
    for row, segments in zip(np.asarray(rows)[..., 0], layout.segments(), strict=True):
        assert all(len(set(row[segments == segment])) == 1 for segment in set(segments))


# ---------------------------------------------------------------- FLOPs


def test_flops_of_the_layouts() -> None:
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size="XL")
    powerful, weak = (1, 2, 2), (1, 4, 4)
    apart = forward_flops(model, powerful) + forward_flops(model, weak)
    count = {name: layout_flops(name, model, powerful, weak, 4) / (4 * apart) for name in LAYOUTS}
    assert count["separate"] == 1
    assert 1 < count["packed"] < 1.01 < count["joined"] < 1.02  # the scores that are masked
    # padding runs the blocks twice at full length: 2 / (1 + 0.245)
    assert abs(count["padded"] - 2 * forward_flops(model, powerful) / apart) < 2e-3
    # one image alone has nothing to share its row with
    assert layout_flops("packed", model, powerful, weak, 1) == layout_flops("padded", model, powerful, weak, 1)
    assert tokens(model.latent, weak) == 64


@pytest.mark.parametrize("packing", LAYOUTS)
@pytest.mark.parametrize("mlp_ratio", [4, 2])
def test_flops_against_the_lowering(packing: str, mlp_ratio: int) -> None:
    """Every block unrolled, since XLA counts a scanned body once; what is left is element-wise work."""
    section = {"width": 256, "depth": 2, "num_heads": 2, "unroll": 2, "mlp_ratio": mlp_ratio}
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 3}, **section)
    patches, images = ((1, 2, 2), (1, 4, 4)), 5
    x, t = model.example(images)
    cond = model.conditioner.parse([0] * images)

    def params(patch: Patch) -> Params:
        plain = model.init(jax.random.key(0), x, t, cond)["params"]
        return at(flexify(plain, patches), patch)

    shapes = [jax.eval_shape(partial(params, patch)) for patch in patches]
    pair = partial(whole_pair, packing, [*map(model.at, patches)])
    counted = jax.jit(pair).lower(shapes, x, t, (cond, cond)).cost_analysis()["flops"]
    ratio = counted / layout_flops(packing, model, *patches, images)
    assert 1 <= ratio < 1.03, ratio


# ---------------------------------------------------------------- Refusals


def test_refusals() -> None:
    assert choices("auto", adapters=False) == LAYOUTS
    assert choices("joined", adapters=False) == ("joined",)
    assert choices("auto", adapters=True) == choices("separate", adapters=True) == ("separate",)
    with pytest.raises(UserError, match=r"^no packing 'pack'; did you mean 'packed'\?$"):
        choices("pack", adapters=False)
    with pytest.raises(UserError, match=r"^no packing 4; known: auto, joined, packed, padded, separate$"):
        choices(4, adapters=False)
    for packing in SHARED:
        with pytest.raises(UserError, match=rf"^packing='{packing}' runs two modes through the same kernels, but"):
            choices(packing, adapters=True)
