"""Wan's codec: pieces and whole clips, what is said when files are missing or wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.codecs import wan_vae as module
from flexidit_jax.codecs.wan_vae import MEAN, STD, Codec
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = GOLDEN / "wan_vae_tiny.safetensors"
STATE, METADATA = read_safetensors(FILE)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's."""
    root = tmp_path_factory.mktemp("wan")
    (root / "vae").mkdir()
    shutil.copy(FILE, root / "vae" / WEIGHTS)
    (root / "vae" / "config.json").write_text(METADATA["config"])
    return root


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    return Codec(str(folder))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    found = dict(np.load(GOLDEN / "wan_vae_tiny.npz"))
    return {name: np.moveaxis(array, 1, -1) for name, array in found.items() if array.ndim == 5}


def test_a_clip_there_and_back(codec: Codec, golden: dict[str, np.ndarray]) -> None:
    latents = codec.encode(golden["encode9_x"], jax.random.key(0))
    np.testing.assert_allclose(latents, golden["encode9_latent"], atol=2e-6)
    np.testing.assert_allclose(codec.decode_float(latents), golden["roundtrip9"], atol=5e-5)
    clip = codec.decode(latents)
    assert np.abs(clip - to_uint8(golden["roundtrip9"]).astype(int)).max() <= 1
    assert clip.shape == (1, 9, 16, 24, 3) and clip.dtype == np.uint8


def test_all_at_once(folder: Path, golden: dict[str, np.ndarray]) -> None:
    whole = Codec(str(folder / "vae"), whole=True)
    np.testing.assert_allclose(whole.encode(golden["encode5_x"]), golden["encode5_latent"], atol=2e-6)
    np.testing.assert_allclose(whole.decode_float(golden["decode2_latent"]), golden["decode2_y"], atol=5e-5)
    [clip] = whole.pieces(golden["decode2_latent"])
    assert clip.shape == (1, 5, 16, 24, 3)


def test_frames_come_as_they_are_decoded(codec: Codec, golden: dict[str, np.ndarray]) -> None:
    pieces = codec.pieces(golden["decode4_latent"])
    first = next(pieces)
    assert first.shape == (1, 1, 16, 24, 3)
    rest = [*pieces]
    assert [piece.shape[1] for piece in rest] == [4, 4, 4]
    np.testing.assert_array_equal(np.concatenate([first, *rest], 1), codec.decode(golden["decode4_latent"]))


def test_what_layers_remember_is_held_once(
    codec: Codec, golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.5 of 10 GiB at 480x832: a step writes over what it is handed."""
    handed: list[jax.Array] = []
    for name in ("_encode", "_decode"):
        step = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *words, s=step: handed.extend(jax.tree.leaves(words[2])) or s(*words))
    codec.encode(golden["encode9_x"])
    seen = len(handed)
    codec.decode(golden["decode4_latent"])
    assert len(handed) > seen > 0 and all(leaf.is_deleted() for leaf in handed)


def test_shapes_and_frames_too_many(
    codec: Codec, golden: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert codec.latent_shape((81, 480, 832, 3)) == (21, 60, 104, 4)
    assert codec.data_shape((21, 60, 104, 4)) == (81, 480, 832, 3)
    assert Codec("nowhere/at/all").latent_shape((5, 8, 8, 3)) == (2, 1, 1, 16)
    assert [codec.latent_shape((frames, 8, 8, 3))[0] for frames in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]
    mean, std = codec.moments(golden["encode9_x"][:, :7])
    assert capsys.readouterr().err == "note: a clip of 7 frames is cut to 5; 4k + 1 have latents\n"
    np.testing.assert_allclose(mean, golden["encode9_mean"][:, :2], atol=2e-6)
    np.testing.assert_allclose(std, np.exp(0.5 * golden["encode9_logvar"][:, :2]), atol=2e-6)
    with pytest.raises(UserError) as caught:
        codec.latent_shape((5, 12, 16, 3))
    said = "wan_vae reads frames of 3 channels and sides that 8 divides, got 5 frames of 12x16x3"
    assert str(caught.value) == said
    with pytest.raises(UserError) as caught:
        codec.decode(np.zeros((1, 2, 2, 3, 16), np.float32))
    assert str(caught.value) == "wan_vae decodes latents [B, F, h, w, 4], got [2, 2, 3, 16] a sample"


def test_a_batch_that_is_split_over_devices(codec: Codec, golden: dict[str, np.ndarray]) -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(golden["encode5_x"], sharding)
    mean, _ = codec.moments(x)
    np.testing.assert_allclose(mean, golden["encode5_mean"], atol=2e-6)
    assert codec._weights(x)[1]["quant_conv"]["bias"].sharding.mesh == mesh


def test_the_repositorys_file(tmp_path: Path, folder: Path, golden: dict[str, np.ndarray]) -> None:
    names = json.loads((GOLDEN / "wan_vae_names.json").read_text())
    write_safetensors(tmp_path / "vae.safetensors", {names[name]: array for name, array in STATE.items()}, {})
    (tmp_path / "config.json").write_text(METADATA["config"])
    latents = Codec(str(tmp_path / "vae.safetensors")).encode(golden["encode5_x"])
    np.testing.assert_allclose(latents, golden["encode5_latent"], atol=2e-6)
    (tmp_path / "Wan2.1_VAE.pth").touch()
    assert [file.name for file in Codec(str(tmp_path))._files] == ["Wan2.1_VAE.pth"]


def test_fingerprints(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "vae", tmp_path / "vae")
    again = Codec(str(tmp_path))
    assert again.fingerprint() == Codec(str(folder)).fingerprint() and len(again.fingerprint()) == 16
    config = json.loads(METADATA["config"])
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "latents_std": [1, 2, 3, 4]}))
    assert Codec(str(tmp_path)).fingerprint() != again.fingerprint()


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Codec(str(tmp_path / "none")).check()
    assert str(caught.value) == (
        f"the VAE's weights {tmp_path}/none/vae/{WEIGHTS} do not exist; put vae/{WEIGHTS} of"
        " Wan-AI/Wan2.1-T2V-1.3B-Diffusers (huggingface.co, 0.5 GB) there and its config.json beside it, or set"
        " codec.path to where they are"
    )
    shutil.copytree(folder / "vae", tmp_path / "vae")
    config = json.loads(METADATA["config"])
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "is_residual": True}))
    with pytest.raises(UserError) as caught:
        Codec(str(tmp_path)).check()
    said = f"{tmp_path}/vae/config.json says is_residual is True, not False; wan_vae is for that of Wan 2.1"
    assert str(caught.value) == said
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(
        UserError, match=r"4 latent channels, and means and deviations are known of 16; its config\.json"
    ):
        Codec(str(tmp_path)).encode(np.zeros((1, 1, 8, 8, 3), np.float32))
    write_safetensors(tmp_path / "vae" / WEIGHTS, {"encoder.conv_in.weight": np.ones((2, 3, 3, 3, 3))}, {})
    with pytest.raises(UserError, match=rf"{WEIGHTS}: not an AutoencoderKLWan state dict: missing"):
        Codec(str(tmp_path)).encode(np.zeros((1, 1, 8, 8, 3), np.float32))
    assert len(MEAN) == len(STD) == 16
