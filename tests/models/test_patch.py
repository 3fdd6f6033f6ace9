"""The worked matrices of flexible tokenization, and what they promise."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Patch
from flexidit_jax.models import patch as library
from flexidit_jax.models.patch import (
    deembed_matrix,
    embed_matrix,
    grid,
    patchify,
    resize_matrix,
    tokens,
    underlying_patch,
    unpatchify,
)

# one program each, which compiles faster than op by op
light = partial(
    jax.jit,
    static_argnums=1,
)
lift_embed, project_embed = light(library.lift_embed), light(library.project_embed)
lift_deembed, project_deembed = light(library.lift_deembed), light(library.project_deembed)

#: float64 matrices
EXACT = 1e-12
#: float32 kernels, of the largest value
ROUNDING = 1e-6

MODE_SETS = [
    pytest.param([(1, 2, 2), (1, 4, 4)], id="2,4"),
    pytest.param([(1, 2, 2), (1, 4, 4), (1, 8, 8)], id="2,4,8"),
    pytest.param([(1, 1, 1), (1, 2, 2)], id="1,2"),
    pytest.param([(1, 2, 2), (2, 2, 2)], id="1x2x2,2x2x2"),
    pytest.param([(1, 2, 2), (2, 2, 2), (1, 4, 4)], id="video"),
    pytest.param([(1, 2, 3), (1, 4, 3), (1, 4, 6)], id="unequal axes"),
    pytest.param([(1, 2, 2), (1, 3, 3), (1, 4, 4)], id="2,3,4"),
]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(a: np.ndarray, b: np.ndarray, tolerance: float = ROUNDING) -> None:
    assert np.shape(a) == np.shape(b)
    assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(np.asarray(b)).max()


def test_resize_matrix_up_is_linear_with_half_pixel_centres() -> None:
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(resize_matrix(2, 4), expected, atol=EXACT)
    np.testing.assert_allclose(resize_matrix(1, 3), np.ones((3, 1)), atol=EXACT)
    for a, b in [(2, 3), (3, 4), (2, 8), (4, 6)]:
        expected = jax.image.resize(np.eye(a, dtype=np.float32), (b, a), "bilinear")
        np.testing.assert_allclose(resize_matrix(a, b), expected, atol=1e-6, err_msg=f"{a} -> {b}")


def test_resize_matrix_down_averages_areas() -> None:
    np.testing.assert_allclose(resize_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=EXACT)
    np.testing.assert_allclose(resize_matrix(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=EXACT)
    np.testing.assert_allclose(resize_matrix(4, 1), np.full((1, 4), 0.25), atol=EXACT)


def test_area_averaging_at_ratio_4_reads_every_pixel() -> None:
    """Bilinear without antialiasing would read [0, 1, 1, 0] of every four."""
    np.testing.assert_allclose(resize_matrix(8, 2), np.repeat(np.eye(2), 4, axis=1) / 4, atol=EXACT)


@pytest.mark.parametrize("b", range(1, 9))
@pytest.mark.parametrize("a", range(1, 9))
def test_resize_matrix_keeps_constants(a: int, b: int) -> None:
    matrix = resize_matrix(a, b)
    assert matrix.shape == (b, a)
    assert matrix.dtype == np.float64
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=EXACT)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=EXACT)  # no preferred direction
    if a == b:
        np.testing.assert_allclose(matrix, np.eye(a), atol=EXACT)
    if b < a:
        np.testing.assert_allclose(matrix.sum(0), b / a, atol=EXACT)  # every pixel weighs the same


def test_embed_2_to_4() -> None:
    np.testing.assert_allclose(embed_matrix(4, 2), [[1, 1, 0, 0], [0, 0, 1, 1]], atol=EXACT)
    kernel = np.array([3.0, 5.0], np.float32).reshape(1, 1, 2, 1, 1)  # one axis: [a, b] is repeated, not tiled
    np.testing.assert_allclose(np.ravel(lift_embed(kernel, (1, 1, 4))), [1.5, 1.5, 2.5, 2.5], rtol=ROUNDING)
    np.testing.assert_allclose(np.linalg.pinv(embed_matrix(4, 2)), [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]], atol=EXACT)


def test_deembed_2_to_4() -> None:
    expected = [[0.65, -0.15], [0.45, 0.05], [0.05, 0.45], [-0.15, 0.65]]
    np.testing.assert_allclose(deembed_matrix(4, 2), expected, atol=EXACT)
    lifted = [[1, 0.75, 0.25, 0], [0, 0.25, 0.75, 1]]
    np.testing.assert_allclose(np.linalg.pinv(deembed_matrix(4, 2)), lifted, atol=EXACT)
    for row, unit in zip(lifted, np.eye(2, dtype=np.float32), strict=True):
        np.testing.assert_allclose(np.ravel(lift_deembed(unit.reshape(1, 1, 2, 1), (1, 1, 4))), row, atol=ROUNDING)


@pytest.mark.parametrize("modes", MODE_SETS)
def test_lifting_and_projecting_back_is_the_identity(modes: list[Patch]) -> None:
    base, largest = modes[0], underlying_patch(modes)
    for stored, used in zip(largest, base, strict=True):
        for matrix in (embed_matrix(stored, used), deembed_matrix(stored, used).T):
            np.testing.assert_allclose(matrix @ np.linalg.pinv(matrix), np.eye(used), atol=EXACT)
    kernel, out, bias = random(*base, 3, 5), random(5, *base, 2, seed=1), random(*base, 2, seed=2)

    @light
    def lift(arrays: tuple[Array, Array, Array], to: Patch) -> tuple[Array, Array, Array]:
        kernel, out, bias = arrays
        return library.lift_embed(kernel, to), library.lift_deembed(out, to), library.lift_deembed(bias, to)

    @light
    def project(arrays: tuple[Array, Array, Array], to: Patch) -> tuple[Array, Array, Array]:
        kernel, out, bias = arrays
        return library.project_embed(kernel, to), library.project_deembed(out, to), library.project_deembed(bias, to)

    lifted = lift((kernel, out, bias), largest)
    assert [array.shape for array in lifted] == [(*largest, 3, 5), (5, *largest, 2), (*largest, 2)]
    for back, original in zip(project(lifted, base), (kernel, out, bias), strict=True):
        assert_close(back, original)


def test_axes_are_not_mixed_up() -> None:
    """A kernel that is a product of one factor per axis stays one, each factor resized along its own axis."""
    factors = [random(n, seed=n) for n in (2, 4, 6)]
    product = np.einsum("a,b,c->abc", *factors)
    used = (1, 2, 3)
    embedded = np.einsum("a,b,c->abc", *(embed_matrix(f.size, n) @ f for f, n in zip(factors, used, strict=True)))
    assert_close(project_embed(product[..., None, None], used)[..., 0, 0], embedded)
    painted = np.einsum("a,b,c->abc", *(f @ deembed_matrix(f.size, n) for f, n in zip(factors, used, strict=True)))
    assert_close(project_deembed(product[..., None], used)[..., 0], painted)
    assert_close(project_deembed(product[None, ..., None], used)[0, ..., 0], painted)


@pytest.mark.parametrize(("side", "largest"), [(4, 4), (4, 8), (8, 8)])
def test_a_larger_patch_starts_as_the_token_of_the_area_average(side: int, largest: int) -> None:
    kernel = random(1, 2, 2, 3, 5)
    weak = project_embed(lift_embed(kernel, (1, largest, largest)), (1, side, side))
    patch = random(1, side, side, 3, seed=1)
    average = patch.reshape(1, 2, side // 2, 2, side // 2, 3).mean((2, 4))
    assert_close(np.einsum("fhwc,fhwcd->d", patch, weak), np.einsum("fhwc,fhwcd->d", average, kernel))


@pytest.mark.parametrize("modes", MODE_SETS)
def test_a_constant_patch_keeps_its_token(modes: list[Patch]) -> None:
    kernel = random(*modes[0], 3, 5)
    stored = lift_embed(kernel, underlying_patch(modes))
    token = kernel.sum((0, 1, 2), dtype=np.float64)  # of a patch of ones, a channel each: [Cin, d]
    for mode in modes:
        assert_close(np.asarray(project_embed(stored, mode)).sum((0, 1, 2), dtype=np.float64), token)


def test_a_still_clip_keeps_its_token() -> None:
    kernel = random(1, 2, 2, 3, 5)
    weak = project_embed(lift_embed(kernel, (2, 4, 4)), (2, 2, 2))
    assert_close(weak, np.concatenate([kernel, kernel]) / 2)  # duplicated along time at half weight
    weak = np.asarray(weak)
    frame = random(1, 2, 2, 3, seed=1)
    still = np.concatenate([frame, frame])
    assert_close(np.einsum("fhwc,fhwcd->d", still, weak), np.einsum("fhwc,fhwcd->d", frame, kernel))


@pytest.mark.parametrize("largest", [4, 8])
def test_the_largest_patch_starts_as_the_bilinear_upsampling_of_the_powerful_one(largest: int) -> None:
    kernel, bias = random(5, 1, 2, 2, 3), random(1, 2, 2, 3, seed=1)
    mode = (1, largest, largest)
    hidden = random(5, seed=2)
    powerful = np.einsum("d,dfhwc->fhwc", hidden, kernel) + bias
    weak = np.einsum("d,dfhwc->fhwc", hidden, project_deembed(lift_deembed(kernel, mode), mode))
    weak = weak + project_deembed(lift_deembed(bias, mode), mode)
    assert_close(weak, jax.image.resize(powerful, (*mode, 3), "bilinear"))


def test_channels_are_handled_separately() -> None:
    kernel = random(1, 2, 2, 3, 5)
    whole = lift_embed(kernel, (1, 4, 4))
    for c in range(3):
        assert_close(whole[..., c : c + 1, :], lift_embed(kernel[..., c : c + 1, :], (1, 4, 4)))


def test_underlying_patch_is_the_axis_wise_maximum() -> None:
    assert underlying_patch([(2, 2, 2), (1, 4, 4)]) == (2, 4, 4)
    assert underlying_patch([(1, 2, 8), (1, 4, 2)]) == (1, 4, 8)


def test_patchify_order() -> None:
    """Tokens row-major; inside a patch (frame, row, column, channel)."""
    f, h, w, c = latent = (4, 4, 6, 2)
    patch = (2, 2, 3)
    x = np.arange(2 * f * h * w * c).reshape(2, *latent)
    out = patchify(x, patch)
    assert out.shape == (2, tokens(latent, patch), 24)
    n = 0
    for i in range(0, f, 2):
        for j in range(0, h, 2):
            for k in range(0, w, 3):
                np.testing.assert_array_equal(out[:, n], x[:, i : i + 2, j : j + 2, k : k + 3].reshape(2, -1))
                n += 1
    assert n == out.shape[1]


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 4), (4, 4, 8)])
def test_unpatchify_is_the_inverse(patch: Patch) -> None:
    x = random(3, 4, 4, 8, 2)
    np.testing.assert_array_equal(unpatchify(patchify(x, patch), patch, (4, 4, 8, 2)), x)
    more = random(3, tokens((4, 4, 8), patch), int(np.prod(patch)) * 5)  # as many channels as the de-embed writes
    back = unpatchify(more, patch, (4, 4, 8, 2))
    assert back.shape == (3, 4, 4, 8, 5)
    np.testing.assert_array_equal(patchify(back, patch), more)


def test_grid() -> None:
    assert grid((4, 8, 6, 3), (2, 2, 3)) == (2, 4, 2)
    assert tokens((4, 8, 6, 3), (2, 2, 3)) == 16
    with pytest.raises(UserError) as caught:
        grid((1, 8, 8, 4), (1, 3, 3))
    assert str(caught.value) == "patch 3 does not divide the latent 1x8x8 (frames x height x width)"
    with pytest.raises(UserError) as caught:
        grid((1, 8, 8), (2, 4, 4))
    assert str(caught.value) == "patch 2x4x4 does not divide the latent 1x8x8 (frames x height x width)"


def test_frames_that_a_patch_does_not_divide() -> None:
    """The first is repeated before them, and left out of what is read."""
    x = np.arange(5 * 4 * 2).reshape(1, 5, 4, 2, 1)
    assert grid(x.shape[1:], (3, 2, 2)) == (2, 2, 1) and tokens(x.shape[1:], (3, 2, 2)) == 4
    rows = patchify(x, (3, 2, 2)).reshape(1, 2, 2, 3, 4)  # of frames 0 0 1 and 2 3 4
    np.testing.assert_array_equal(rows[0, 0, :, 0], rows[0, 0, :, 1])
    np.testing.assert_array_equal(rows[0, 0, 0, 2], x[0, 1, :2].ravel())
    np.testing.assert_array_equal(unpatchify(rows.reshape(1, 4, 12), (3, 2, 2), x.shape[1:]), x)
