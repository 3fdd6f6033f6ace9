"""Squared distances in tiles."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import distances
from flexidit_jax.metrics.distances import cut, radii, tiles


def points(count: int, seed: int = 0, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b) ** 2).sum(-1)


@pytest.fixture(params=[(3, 4), (2000, 10_000)], ids=["small tiles", "one tile"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", request.param[0])
    monkeypatch.setattr(distances, "COLUMNS", request.param[1])


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize(("kind", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("float16", 0.05)])
def test_every_pair_is_there(kind: str, tolerance: float) -> None:
    a, b = points(7), points(10, 1)
    found = np.full((7, 10), np.nan)
    for rows, columns, tile in tiles(a, b, kind):
        assert np.isnan(found[rows, columns]).all()
        found[rows, columns] = tile
    np.testing.assert_allclose(found, pairs(a, b), atol=tolerance)


def test_half_precision_rounds_operands_norms_and_products() -> None:
    a, b = 3 * points(6, width=64), 3 * points(5, 1, width=64)
    h, k = (x.astype(np.float16).astype(np.float32) for x in (a, b))
    products = np.array([[np.float16(np.float32(np.dot(u, v))) for v in k] for u in h])
    first = np.array([np.float16((u**2).sum()) for u in h])[:, None] - np.float16(2) * products
    expected = first + np.array([np.float16((v**2).sum()) for v in k])
    [(_, _, tile)] = tiles(a, b, "float16")
    assert tile.dtype == expected.dtype == np.float16
    np.testing.assert_array_equal(tile, np.maximum(expected, 0))


def test_what_half_precision_cannot_hold_is_in_float32() -> None:
    a = 100 * points(6, width=64)
    [(_, _, tile)] = tiles(a, a, "float16")
    assert tile.dtype == np.float32
    np.testing.assert_allclose(tile, pairs(a, a), rtol=1e-4, atol=1)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_radius_reaches_to_the_kth_other(k: int) -> None:
    a = points(9)
    np.testing.assert_allclose(radii(a, k), np.sort(pairs(a, a), 1)[:, k], rtol=1e-4)


@pytest.mark.usefixtures("tiling")
def test_a_twin_is_another(tiling: None) -> None:
    a = np.concatenate([points(6), points(6)])
    np.testing.assert_allclose(radii(a, 1), 0, atol=1e-5)
    assert radii(a, 2).min() > 0.1


def test_cuts() -> None:
    assert cut(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert cut(0, 3) == []


def test_refusals() -> None:
    a = points(4)
    bad = a.copy()
    bad[2, 1] = np.nan
    for call, said in [
        (lambda: radii(a, 4), "4 images are too few for balls that reach to neighbour 4; 5 would do"),
        (lambda: list(tiles(a, a, "bfloat16")), "distance must be float32, float64 or float16, got 'bfloat16'"),
        (lambda: list(tiles(a, a[:, :3])), "features of 5 and of 3 numbers have no distance"),
        (lambda: list(tiles(bad, a)), "the features of image 2 hold NaN or infinity, 1 image(s) in all"),
        (lambda: list(tiles(a, bad)), "the features of image 2 hold NaN or infinity, 1 image(s) in all"),
    ]:
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == said
