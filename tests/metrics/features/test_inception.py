"""Inception's features are torch-fidelity's on images of any size; its files, and what is taken for one of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.metrics.features.inception import CONVENTIONS, Features, _network
from flexidit_jax.models.pretrained.inception import Inception

Golden = dict[str, np.ndarray]
Draw = Callable[..., np.ndarray]
GROUPS = {"a": (2, 32, 32), "b": (2, 256, 256), "c": (1, 512, 384), "d": (1, 40, 56)}
#: of the largest value; the smallest mistake known moves 2e-3
TOLERANCE = 1e-5


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.fixture(scope="module")
def features(inception_file: Path) -> Features:
    return Features(str(inception_file), batch=2)


@pytest.mark.parametrize("group", GROUPS)
def test_golden_features(features: Features, inception_golden: Golden, images: Draw, group: str) -> None:
    found = features.extract(images(inception_golden, group, *GROUPS[group]))
    assert {*found} == {*Features.kinds}
    assert_close(found["pool"], inception_golden[f"{group}_pool3"])
    assert_close(found["spatial"], inception_golden[f"{group}_spatial"])
    assert_close(found["logits"], inception_golden[f"{group}_logits_unbiased"])


@pytest.mark.parametrize(("convention", "name", "group"), [("pytorch-fid", "pytorchfid", "b"), ("clean", "clean", "c")])
def test_golden_features_of_other_conventions(
    inception_file: Path, inception_golden: Golden, images: Draw, convention: str, name: str, group: str
) -> None:
    other = Features(str(inception_file), convention, batch=2)
    assert other.protocol["convention"] == convention
    found = other.extract(images(inception_golden, group, *GROUPS[group])[:1])
    assert_close(found["pool"], inception_golden[f"{group}_pool3_{name}"])


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("convention", "name", "tolerance"),
    [("adm", "resized", 1e-5), ("pytorch-fid", "resized_half", 5e-5), ("clean", "resized_clean", 1e-3)],
)
def test_golden_sizes(
    inception_golden: Golden, images: Draw, group: str, convention: str, name: str, tolerance: float
) -> None:
    """In units of a pixel's 0..255."""
    there, grid = inception_golden[f"{group}_{name}"], inception_golden["grid"]
    resized = np.asarray(CONVENTIONS[convention](images(inception_golden, group, *GROUPS[group])[: len(there)]))
    pixels = 127.5 * (resized + 1) if convention == "pytorch-fid" else 128 * (resized + 1)
    np.testing.assert_allclose(pixels[:, grid][:, :, grid], there, atol=tolerance)


def test_every_product_is_of_whole_float32(precisions: Callable[..., Counter[object]]) -> None:
    """So that neither a TPU nor a GPU rounds what it multiplies."""
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    params = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert precisions(_network, params, image) == {highest: 95}
    assert precisions(CONVENTIONS["adm"], jnp.zeros((1, 8, 8, 3), jnp.uint8)) == {}
    for convention in ("pytorch-fid", "clean"):
        assert precisions(CONVENTIONS[convention], jnp.zeros((1, 8, 8, 3), jnp.uint8)).keys() == {highest}


def test_the_file_is_known_by_its_hash(features: Features, inception_file: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert features.sha256 == sha256
    assert features.protocol == {"convention": "adm", "weights_sha256": sha256}
    features.save(tmp_path / "inception-2015-12-05.safetensors")
    again = Features(str(tmp_path))
    assert again.sha256 != sha256
    assert again.protocol == features.protocol
    tensors, metadata = read_safetensors(tmp_path / "inception-2015-12-05.safetensors")
    assert len(tensors) == 472
    assert metadata == {"source": "inception.safetensors", "source_sha256": sha256, "format": "pt"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Features(str(tmp_path))
    assert str(caught.value) == (
        f"the weights of inception are not at {tmp_path}; put weights-inception-2015-12-05-6726825d.pth (a release of"
        " torch-fidelity; its SHA-256 begins with 6726825d), pt_inception-2015-12-05-6726825d.pth (of pytorch-fid) or"
        f" classify_image_graph_def.pb (of TensorFlow) into {tmp_path}, or set path to where they are"
    )


def test_another_convention_is_refused() -> None:
    with pytest.raises(UserError, match=r"^no convention 'clena'; did you mean 'clean'\?$"):
        Features(convention="clena")


def test_torchvisions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "inception_v3_google.safetensors"
    kernel = {"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3), np.float32)}
    for betrays in (
        {"AuxLogits.fc.weight": np.zeros((1000, 768), np.float32)},
        {"fc.weight": np.zeros((1000, 2048), np.float32)},
    ):
        write_safetensors(file, kernel | betrays)
        with pytest.raises(UserError) as caught:
            Features(str(file))
        assert str(caught.value) == (
            f"{file}: torchvision's Inception, whose weights and pools are not those of FID;"
            " take weights-inception-2015-12-05-6726825d.pth"
        )


def test_the_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    write_safetensors(file, {"encoder.conv_in.weight": np.zeros((4, 3, 3, 3), np.float32)})
    with pytest.raises(UserError) as caught:
        Features(str(file))
    message = str(caught.value)
    assert message.startswith(f"{file}: not a state dict of the Inception of FID: missing Conv2d_1a_3x3.conv.weight;")
    assert message.endswith("; and 465 more")
