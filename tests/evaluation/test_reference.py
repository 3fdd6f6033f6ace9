"""What serves as a reference, and what is refused before a network runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.reference import Reference
from flexidit_jax.metrics.frechet import Metric as Frechet
from flexidit_jax.metrics.kept_features import keeping
from flexidit_jax.metrics.kid import Metric as Kid
from flexidit_jax.metrics.moments import Moments
from flexidit_jax.metrics.statistics_file import write_statistics

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
MOMENTS = {"pool": Moments.of(RNG.standard_normal((20, 3)))}
WORDS = {
    "features": "inception",
    "extractor": {"convention": "adm", "weights_sha256": "a" * 64},
    "crop": "adm 4",
    "size": [5, 6],
}


def statistics(path: Path, images: np.ndarray | None = None) -> Path:
    write_statistics(path, MOMENTS, WORDS, images)
    return path


def features(path: Path) -> Path:
    with keeping(path, {"pool": 3}, WORDS) as writer:
        writer.add({"pool": np.zeros((5, 3), np.float32)})
        writer.finish()
    return path


def test_what_there_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", arr_0=IMAGES)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(3), sigma=np.eye(3), arr_0=IMAGES[:4])
    found = {
        path.name: (one.statistics, one.kept is not None, one.count, one.crop, one.size)
        for path in (
            tmp_path / "images.npz",
            tmp_path / "adm.npz",
            statistics(tmp_path / "alone.npz"),
            statistics(tmp_path / "both.npz", IMAGES),
            features(tmp_path / "features.npz"),
        )
        if (one := Reference.open(path))
    }
    assert found == {
        "images.npz": (False, False, 9, None, (4, 4)),
        "adm.npz": (True, False, 4, None, (4, 4)),
        "alone.npz": (True, False, None, "adm 4", (5, 6)),
        "both.npz": (True, False, 9, "adm 4", (4, 4)),
        "features.npz": (False, True, 5, "adm 4", (5, 6)),
    }
    path = tmp_path / "both.npz"
    assert Reference.open(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    np.save(tmp_path / "none.npy", IMAGES)
    with pytest.raises(UserError, match=r"none\.npy holds no images"):
        Reference.open(tmp_path / "none.npy")


def test_what_was_made_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats, kept = Reference.open(statistics(tmp_path / "s.npz")), Reference.open(features(tmp_path / "f.npz"))
    for one, what in ((stats, "statistics"), (kept, "features")):
        with pytest.raises(UserError) as caught:
            one.check([Frechet()], "dinov2", {})
        said = f"{one.path} holds {what} of inception, and samples are compared in dinov2; name that"
        assert str(caught.value) == said
        with pytest.raises(UserError) as caught:
            one.check([Frechet()], "inception", {"convention": "clean"})
        said = f"{one.path} was made with convention 'adm', and samples are compared with 'clean'; make both alike"
        assert str(caught.value) == said
    assert capsys.readouterr().err == ""
    stats.check([Frechet()], "inception", {"convention": "adm", "weights_sha256": "b" * 64})
    assert capsys.readouterr().err == (
        f"note: {stats.path} was made with other weights of inception: SHA-256 aaaaaaaaaaaa..\n"
    )
    with pytest.raises(UserError) as caught:
        stats.check([Frechet(), Kid()], "inception", {})
    said = f"{stats.path} holds statistics alone, and kid would compare images; leave it out, or name images"
    assert str(caught.value) == said
    kept.check([Frechet(), Kid()], "inception", {})
