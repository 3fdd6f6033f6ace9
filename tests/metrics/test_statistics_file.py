"""Statistics of a reference: ADM's files and ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.frechet import frechet_distance
from flexidit_jax.metrics.moments import BLOCK, Moments, MomentStream
from flexidit_jax.metrics.statistics_file import (
    has_statistics,
    read_moments,
    read_statistics,
    write_moments,
    write_statistics,
)

RNG = np.random.default_rng(0)
POOL, SPATIAL = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 3))
WIDTHS = {"pool": 5, "spatial": 3, "logits": 7}
IMAGES = np.zeros((4, 2, 2, 3), np.uint8)


def of_adm(path: Path, **changed: np.ndarray | None) -> Path:
    arrays = {"arr_0": IMAGES, "mu": POOL.mean(0), "sigma": np.cov(POOL, rowvar=False)}
    arrays |= {"mu_s": SPATIAL.mean(0), "sigma_s": np.cov(SPATIAL, rowvar=False)}
    np.savez(path, **{name: array for name, array in (arrays | changed).items() if array is not None})
    return path


def test_files_of_adm(tmp_path: Path) -> None:
    path = of_adm(tmp_path / "VIRTUAL.npz")
    assert has_statistics(path)
    found = read_statistics(path, "inception", WIDTHS)
    assert (list(found.gaussians), found.words, found.gaussians["pool"].count) == (["pool", "spatial"], {}, None)
    assert frechet_distance(Moments.of(POOL).gaussian, found.gaussians["pool"]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(Moments.of(SPATIAL).gaussian, found.gaussians["spatial"]) == pytest.approx(0, abs=1e-9)
    assert list(read_statistics(of_adm(tmp_path / "b.npz", mu_s=None), "inception", WIDTHS).gaussians) == ["pool"]


def test_ours_are_in_that_form(tmp_path: Path) -> None:
    path = tmp_path / "ours.npz"
    moments = {"pool": Moments.of(POOL), "spatial": Moments.of(SPATIAL)}
    write_statistics(path, moments, {"features": "inception", "weights": "67"}, IMAGES)
    arrays = np.load(path)
    np.testing.assert_allclose(arrays["sigma"], np.cov(POOL, rowvar=False))
    np.testing.assert_allclose(arrays["mu_s"], SPATIAL.mean(0))
    np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
    found = read_statistics(path, "inception", WIDTHS)
    assert found.words == {"features": "inception", "weights": "67", "images": 40}
    assert found.gaussians["pool"].count == 40
    np.testing.assert_array_equal(found.gaussians["spatial"].covariance, moments["spatial"].covariance)


def test_a_covariance_by_columns_is_one(tmp_path: Path) -> None:
    path = of_adm(tmp_path / "a.npz", sigma=np.asfortranarray(np.cov(POOL, rowvar=False)).astype(np.float32))
    assert read_statistics(path, "inception", WIDTHS).gaussians["pool"].covariance.dtype == np.float64


def test_images_alone_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=IMAGES, mu=np.ones(5))
    assert not has_statistics(tmp_path / "a.npz")


def test_a_pass_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(BLOCK + 100, 3))
    first = MomentStream()
    first.add(features[: BLOCK + 10])
    write_moments(tmp_path / "a.npz", {"pool": first.whole, "spatial": Moments.of(SPATIAL)}, {"weights": "67"})
    found, words = read_moments(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["spatial"].mean, SPATIAL.mean(0))
    then, whole = MomentStream(found["pool"]), MomentStream()
    then.add(features[then.count :])
    whole.add(features)
    assert words == {"weights": "67"} and then.moments.count == BLOCK + 100
    np.testing.assert_array_equal(then.moments.scatter, whole.moments.scatter)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mu": POOL.mean(0) + 0j}, "mu of {} is complex128; statistics are real numbers"),
        ({"sigma": np.full((5, 5), "1")}, "sigma of {} is <U1; statistics are real numbers"),
        ({"sigma": np.ones((5, 5), bool)}, "sigma of {} is bool; statistics are real numbers"),
        (
            {"sigma_s": np.tri(3)},
            "sigma_s of {} is not symmetric, as a covariance is; it is damaged, or something else",
        ),
        (
            {"sigma": np.eye(5) + 1e-5 * np.eye(5, k=1)},
            "sigma of {} is not symmetric, as a covariance is; it is damaged, or something else",
        ),
        (
            {"sigma": np.diag([1, 1, 1, 1, -0.01])},
            "sigma of {} has negative eigenvalues, and a covariance has none; it is damaged",
        ),
    ],
)
def test_what_is_no_mean_or_covariance(tmp_path: Path, changed: dict[str, np.ndarray], said: str) -> None:
    path = of_adm(tmp_path / "a.npz", **changed)
    with pytest.raises(UserError) as caught:
        read_statistics(path, "inception", WIDTHS)
    assert str(caught.value) == said.format(path)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_covariance_of_few_samples_is_one(tmp_path: Path, dtype: type) -> None:
    few = np.cov(np.random.default_rng(2).normal(size=(3, 300)), rowvar=False)
    for sigma in (few, np.zeros_like(few)):
        path = of_adm(tmp_path / "a.npz", mu=np.zeros(300), sigma=sigma.astype(dtype))
        read_statistics(path, "inception", {"pool": 300})


def test_refusals(tmp_path: Path) -> None:
    path = of_adm(tmp_path / "a.npz")
    with pytest.raises(UserError) as caught:
        read_statistics(path, "dinov2", {"pool": 6})
    assert str(caught.value) == (
        f"mu of {path} is [5] and sigma [5, 5], and features of dinov2 are 6 wide; it is of another extractor"
    )
    with pytest.raises(UserError, match="mu_s of"):  # flattened, or a covariance of something else
        read_statistics(of_adm(path, sigma_s=np.ones(3)), "inception", WIDTHS)
    with pytest.raises(UserError) as caught:
        read_statistics(of_adm(path, sigma=np.full((5, 5), np.nan)), "inception", WIDTHS)
    assert str(caught.value) == f"sigma of {path} holds NaN or infinity"
    with pytest.raises(UserError) as caught:
        read_statistics(of_adm(path, mu=None, mu_s=None), "inception", WIDTHS)
    assert str(caught.value) == f"{path} holds arr_0, sigma, sigma_s; statistics are mu and sigma"
    with pytest.raises(UserError) as caught:
        write_statistics(path, {"pool": Moments.of(POOL[:1])}, {"features": "dinov2"})
    assert str(caught.value) == "a covariance needs at least 2 samples, got 1"
