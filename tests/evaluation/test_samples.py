"""What lies beside samples, and which sets are paired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.samples import Samples, are_paired

MANIFEST = {"labels": "uniform", "sample": {"seed": 0, "steps": 4}, "model": {"latent": [1, 4, 4, 3]}}


def drawn(folder: Path, manifest: Any = MANIFEST, labels: Any = (0, 1, 2), count: int = 3) -> Samples:
    folder.mkdir()
    np.savez(folder / "samples.npz", arr_0=np.zeros((count, 4, 4, 3), np.uint8), arr_1=np.array(labels, np.int32))
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return Samples.open(str(folder))


def test_the_manifest_of_a_folder_and_of_its_array(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a").manifest == MANIFEST
    assert Samples.open(str(tmp_path / "a" / "samples.npz")).manifest == MANIFEST
    assert drawn(tmp_path / "b", {"name": "another tool's"}).manifest == {}
    assert drawn(tmp_path / "c", None).manifest == {}
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        drawn(tmp_path / "d", "{")


def test_paired_as_manifests_say(tmp_path: Path) -> None:
    one = drawn(tmp_path / "a")
    other = drawn(tmp_path / "b", {**MANIFEST, "sample": {"seed": 0, "steps": 2}})
    foreign = drawn(tmp_path / "c", None)
    assert are_paired(None, [one, other]) is True
    assert are_paired(None, [one, foreign]) is False
    assert are_paired(True, [one, foreign]) is True
    assert are_paired(False, [one, other]) is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"manifest": {**MANIFEST, "sample": {"seed": 1}}}, "seeds 0 and 1"),
        ({"manifest": {**MANIFEST, "labels": "balanced"}}, "labels uniform and balanced"),
        ({"manifest": {**MANIFEST, "model": {"latent": [1, 8, 8, 3]}}}, "latents [1, 4, 4, 3] and [1, 8, 8, 3]"),
        ({"labels": (0, 2, 2)}, "another class of image 1"),
        ({"count": 4, "labels": (0, 1, 2, 3)}, "3 and 4 images"),
    ],
)
def test_not_paired(tmp_path: Path, words: dict[str, Any], says: str) -> None:
    one, other = drawn(tmp_path / "a"), drawn(tmp_path / "b", **words)
    for asked in (None, True):
        with pytest.raises(UserError) as caught:
            are_paired(asked, [one, other])
        assert str(caught.value) == (
            f"{one.name} and {other.name} are not paired: {says}; --config.evaluate.paired=False compares them as"
            " drawn apart"
        )
    assert are_paired(False, [one, other]) is False
