"""The SD-VAE codec: slices, the posterior, configs, and what it says when files are missing or wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs import sd_vae
from flexidit_jax.codecs.identity import Codec as Identity
from flexidit_jax.codecs.sd_vae import Codec, _decode, _joined, _moments, _slices
from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.common.trees import flatten
from flexidit_jax.loading import load
from flexidit_jax.models.pretrained import stripes
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.autoencoder_kl_layout import write_vae
from flexidit_jax.runs.binding import origin

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(vae_folder: Path) -> Path:
    return vae_folder


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    return Codec(str(folder), slice=2)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Five clips of one frame, 16x24 pixels."""
    return np.random.default_rng(0).uniform(-1, 1, (5, 1, 16, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def moments(codec: Codec, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = codec.moments(x)
    return np.asarray(mean), np.asarray(std)


def test_slices_equal_the_whole(codec: Codec, x: np.ndarray, moments: tuple) -> None:
    model, params = codec._loaded
    mean, std = _moments(model, params, x[:, 0])
    assert moments[0].shape == moments[1].shape == (5, 1, 2, 3, 4)
    np.testing.assert_allclose(moments[0][:, 0], mean, atol=1e-6)
    np.testing.assert_allclose(moments[1][:, 0], std, atol=1e-6)
    images = np.asarray(_decode(model, params, mean, 1.0))
    decoded = codec.decode(moments[0] * codec.scale)
    assert decoded.shape == x.shape
    assert decoded.dtype == np.uint8
    assert np.abs(decoded[:, 0] - np.clip(127.5 * images + 127.5, 0, 255)).max() <= 0.51
    assert len(np.unique(decoded)) > 20


def test_frames_are_images(codec: Codec, x: np.ndarray, moments: tuple) -> None:
    clip = x[:4].reshape(2, 2, 16, 24, 3)
    mean, _ = codec.moments(clip)
    assert mean.shape == (2, 2, 2, 3, 4)
    np.testing.assert_allclose(mean.reshape(4, 1, 2, 3, 4), moments[0][:4], atol=1e-6)
    assert codec.decode(mean).shape == (2, 2, 16, 24, 3)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 2), (9, 4), (64, 4)])
def test_no_slice_is_larger_than_asked_and_all_are_alike(count: int, size: int) -> None:
    images = np.arange(1, count + 1)[:, None] * np.ones((1, 3))
    parts = list(_slices(images, size))
    assert len({part.shape for part in parts}) == 1
    assert len(parts[0]) <= size
    assert len(parts) == -(-count // size)
    np.testing.assert_array_equal(_joined(np, parts, count), images)


def test_a_key_draws_from_the_posterior(codec: Codec, x: np.ndarray, moments: tuple) -> None:
    mean, std = moments
    np.testing.assert_allclose(codec.encode(x), codec.scale * mean, rtol=1e-6)
    draws = np.stack([codec.encode(x, jax.random.key(i)) for i in range(64)])
    z = (draws / codec.scale - mean) / std
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size)
    np.testing.assert_array_equal(draws[3], codec.encode(x, jax.random.key(3)))


def test_a_draw_lies_as_many_deviations_from_the_mean_as_one_of_unit_deviation() -> None:
    codec, key = Codec("nowhere"), jax.random.key(0)
    mean = np.random.default_rng(0).normal(size=(3, 1, 2, 3, 4)).astype(np.float32)
    std = np.resize(np.float32([0.1, 1, 3]), mean.shape)
    unit = np.asarray(codec.draw(np.zeros_like(mean), np.ones_like(std), key)) / codec.scale
    assert abs(unit.std() - 1) < 0.3
    np.testing.assert_allclose(codec.draw(mean, std, key), codec.scale * (mean + std * unit), rtol=1e-5, atol=1e-6)


def test_bfloat16_files_and_products(codec: Codec, folder: Path, x: np.ndarray, moments: tuple, tmp_path: Path) -> None:
    state, _ = read_safetensors(folder / WEIGHTS)
    write_safetensors(tmp_path / WEIGHTS, {key: value.astype(ml_dtypes.bfloat16) for key, value in state.items()})
    shutil.copy(folder / "config.json", tmp_path)
    mean, _ = Codec(str(tmp_path / WEIGHTS), dtype="bfloat16").moments(x)
    assert mean.dtype == jnp.float32
    error = np.abs(mean - moments[0]).max() / np.abs(moments[0]).max()
    assert 1e-5 < error < 0.1


# ---------------------------------------------------------------- The decoder's dtype


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    """Three clips of one frame, 2x3 latents."""
    return np.random.default_rng(1).normal(size=(3, 1, 2, 3, 4)).astype(np.float32) * 0.18215


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_decodes_to_the_bits_of_that_dtype(folder: Path, latents: np.ndarray, dtype: str) -> None:
    codec = Codec(str(folder), dtype=dtype, decode_dtype=dtype)
    model, params = codec._loaded  # float32 parameters, cast in every call
    assert model.dtype == dtype
    padded = np.concatenate([latents[:, 0], np.zeros((1, 2, 3, 4), np.float32)])  # a slice of four
    expected = to_uint8(_decode(model, params, padded, codec.scale))[:3, None]
    np.testing.assert_array_equal(codec.decode(latents), expected)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
    np.testing.assert_array_equal(Codec(str(folder), dtype=other, decode_dtype=dtype).decode(latents), expected)


def test_bfloat16_images_differ_by_little(folder: Path, latents: np.ndarray) -> None:
    exact, rounded = (Codec(str(folder), decode_dtype=dtype).decode(latents) for dtype in ("float32", "bfloat16"))
    assert exact.dtype == rounded.dtype == np.uint8
    grey_levels = np.abs(exact.astype(int) - rounded)
    assert 0.05 < grey_levels.mean() < 0.5
    assert grey_levels.max() <= 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_and_products_run_in_it(folder: Path, latents: np.ndarray, dtype: str) -> None:
    other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
    model, params = Codec(str(folder), dtype=other, decode_dtype=dtype)._weights(latents, decoding=True)
    text = _decode.lower(model, params, latents[:, 0], 1.0).as_text()
    factors = re.findall(
        r"stablehlo\.(?:convolution|dot_general).*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", text
    )
    assert len(factors) > 20
    short = {"float32": "f32", "bfloat16": "bf16"}
    assert set(sum(factors, ())) == {short[dtype]}
    assert re.findall(r"-> \(?tensor<[^>]*x(\w+)>", text)[0] == "f32"  # what bytes are rounded from
    softmax = re.findall(r"stablehlo\.exponential.*tensor<[^>]*x(\w+)>", text)
    assert softmax and set(softmax) == {"f32"}


def test_kernels_are_cast_once_and_norms_stay(folder: Path, latents: np.ndarray) -> None:
    codec = Codec(str(folder), decode_dtype="bfloat16")
    weights = codec._weights(latents, decoding=True)[1]
    dtypes = {path: leaf.dtype for path, leaf in flatten(weights).items()}
    assert {path.split("/")[0] for path in dtypes} == {"decoder", "post_quant_conv"}
    for path, dtype in dtypes.items():
        assert dtype == (jnp.bfloat16 if path.endswith("/kernel") else jnp.float32), path
    codec.decode(latents)
    assert codec._weights(latents, decoding=True)[1] is weights


def test_latents_do_not_depend_on_it(codec: Codec, folder: Path, x: np.ndarray, moments: tuple) -> None:
    other = Codec(str(folder), slice=2, decode_dtype="bfloat16")
    for ours, theirs in zip(other.moments(x), moments, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert other.fingerprint() == codec.fingerprint()
    assert origin({}, "sd_vae", other) == origin({}, "sd_vae", codec)


def test_images_are_float32_unless_asked_otherwise(folder: Path, latents: np.ndarray) -> None:
    exact = Codec(str(folder), decode_dtype="float32").decode(latents)
    np.testing.assert_array_equal(Codec(str(folder), dtype="bfloat16").decode(latents), exact)


# ---------------------------------------------------------------- Configs and refusals


def test_a_config_builds_it_and_shapes_need_no_file() -> None:
    codec = build.part("flexidit_jax.codecs", "Codec", {"name": "sd_vae", "path": "nowhere"}, "codec")
    assert codec.latent_shape((1, 256, 128, 3)) == (1, 32, 16, 4)
    assert json.loads(json.dumps(dataclasses.asdict(codec))) == dataclasses.asdict(codec)


def test_a_missing_file_says_what_goes_where(dit: FlexiDiT, tmp_path: Path) -> None:
    wanted = (
        "the VAE's weights nowhere/diffusion_pytorch_model.safetensors do not exist; put diffusion_pytorch_model"
        ".safetensors of stabilityai/sd-vae-ft-ema (huggingface.co) there and its config.json beside it, or set"
        " codec.path to where they are"
    )
    model = dataclasses.replace(dit, codec=Codec("nowhere"))
    for call in (
        Codec("nowhere").check,
        lambda: Codec("nowhere").encode(np.zeros((1, 1, 8, 8, 3))),
        lambda: Codec("nowhere").decode(np.zeros((1, 1, 1, 1, 4))),
        lambda: model.sample([0], steps=2, noise=np.full((1, 1), np.nan)),  # said before anything is sampled
    ):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == wanted
    model.save(tmp_path)
    assert load(tmp_path).codec == Codec("nowhere")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.latent_shape((1, 60, 64, 3)), "sd_vae reads 3 channels and sides that 8 divides, got 60x64x3"),
        (lambda c: c.moments(np.zeros((2, 1, 8, 8, 1))), "sd_vae reads 3 channels and sides that 8 divides, got 8x8x1"),
        (lambda c: c.decode(np.zeros((2, 1, 8, 8, 3))), "sd_vae decodes latents [B, F, h, w, 4], got [2, 1, 8, 8, 3]"),
        (lambda c: Codec(slice=0), "codec.slice must be positive, got 0"),
        (lambda c: Codec(scale=-1.0), "codec.scale must be positive, got -1.0"),
        (lambda c: Codec(dtype="float16"), "codec.dtype must be 'float32' or 'bfloat16', got 'float16'"),
        (
            lambda c: Codec(decode_dtype="float16"),
            "codec.decode_dtype must be 'float32' or 'bfloat16', got 'float16'",
        ),
    ],
)
def test_refusals(codec: Codec, call, message: str) -> None:
    with pytest.raises(UserError) as error:
        call(codec)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scaling_factor": 0.13025}, "says scaling_factor is 0.13025, not 0.18215; set codec.scale to it"),
        ({"shift_factor": 0.1}, "says shift_factor is 0.1, not None"),
        ({"act_fn": "relu"}, "says act_fn is relu, not silu"),
        ({}, f"{WEIGHTS}: norm_num_groups=32 does not divide the widths 4, 4, 8, 8"),
    ],
)
def test_a_config_that_says_otherwise(folder: Path, tmp_path: Path, config: dict, message: str) -> None:
    shutil.copy(folder / WEIGHTS, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        _ = Codec(str(tmp_path))._loaded
    assert str(error.value).endswith(message)


def test_a_config_that_says_otherwise_is_refused_early(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / WEIGHTS, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"scaling_factor": 0.13025}))
    for early in (Codec.check, Codec.fingerprint):
        with pytest.raises(UserError, match=r"says scaling_factor is 0\.13025, not 0\.18215; set codec\.scale to it"):
            early(Codec(str(tmp_path)))


def test_half_a_file_and_another_vae(folder: Path, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(UserError, match="is the download complete"):
        _ = Codec(str(tmp_path))._loaded
    shapes = jax.eval_shape(VAE((32, 32)).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    write_safetensors(tmp_path / WEIGHTS, write_vae(jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)))
    with pytest.raises(
        UserError, match=r"a VAE of factor 2 with 3 image and 4 latent channels; sd_vae is for 8, 3 and 4$"
    ):
        _ = Codec(str(tmp_path))._loaded


def test_weights_as_files_hold_them(folder: Path, codec: Codec, tmp_path: Path) -> None:
    state, _ = read_safetensors(folder / WEIGHTS)
    (tmp_path / "vae").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "vae")
    half = tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    wrapped = {f"module.vae.{name}": value for name, value in state.items()}
    write_safetensors(half, {**wrapped, "module.loss.logvar": np.zeros(1, np.float32)})
    for path in (half, half.parent, tmp_path):  # the file, its folder, that of a pipeline
        found = Codec(str(path))
        found.check()
        jax.tree.map(np.testing.assert_array_equal, found._loaded[1], codec._loaded[1])
    names = sorted(state)
    for shard, keys in enumerate((names[::2], names[1::2]), 1):
        file = half.parent / f"diffusion_pytorch_model-0000{shard}-of-00002.safetensors"
        write_safetensors(file, {name: state[name] for name in keys})
    files = {name: f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    (half.parent / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    jax.tree.map(np.testing.assert_array_equal, Codec(str(tmp_path))._loaded[1], codec._loaded[1])
    assert Codec(str(tmp_path)).fingerprint() not in (Codec(str(half)).fingerprint(), codec.fingerprint())


def test_weights_of_a_vae_that_are_no_numbers(folder: Path, tmp_path: Path) -> None:
    state, _ = read_safetensors(folder / WEIGHTS)
    bad = state["decoder.conv_in.bias"] * np.float32(np.nan)
    write_safetensors(tmp_path / WEIGHTS, {**state, "decoder.conv_in.bias": bad})
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"^decoder\.conv_in\.bias of .* holds NaN or infinity"):
        _ = Codec(str(tmp_path))._loaded
    (tmp_path / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is a git-lfs pointer"):
        _ = Codec(str(tmp_path))._loaded


def test_both_codecs_take_the_same_calls() -> None:
    x = np.full((1, 1, 8, 8, 3), 0.5, np.float32)
    identity = Identity()
    identity.check()
    np.testing.assert_array_equal(identity.encode(x, jax.random.key(0)), x)
    assert set(dir(Identity)) - set(dir(Codec)) == set()


def test_weights_first_used_under_jit_stay_usable(codec: Codec) -> None:
    fresh, x = Codec(codec.path), np.zeros((1, 1, 8, 8, 3), np.float32)

    @jax.jit
    def under(x: jax.Array) -> jax.Array:
        model, params = fresh._weights(x)
        return model.apply({"params": params}, x[:, 0], method="moments")[0]

    mean = under(x)
    np.testing.assert_allclose(fresh.moments(x)[0][:, 0], mean, atol=1e-5)


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from flexidit_jax.codecs.sd_vae import Codec, _joined, _slices
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
batch = np.arange(24.0)[:, None, None] * np.ones((1, 3, 2))
placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
parts = list(_slices(placed.reshape(-1, 2), 2 * 3))
assert [part.sharding.shard_shape(part.shape) for part in parts] == [(6, 2)] * 3, [p.sharding for p in parts]
joined = _joined(jax.numpy, parts, 72).reshape(24, 3, 2)
assert joined.sharding.shard_shape(joined.shape)[0] == 6, joined.sharding
np.testing.assert_array_equal(joined, batch)

codec, images = Codec(sys.argv[1], slice=2), np.random.default_rng(0).random((8, 1, 16, 16, 3), np.float32)
placed = jax.device_put(images, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
one, four = codec.encode(images), codec.encode(placed)
assert np.abs(one - four).max() < 1e-5
weights = codec._weights(placed)[1]
assert all(leaf.is_fully_replicated and len(leaf.devices()) == 4 for leaf in jax.tree.leaves(weights))
assert codec._weights(placed + 1)[1] is weights  # sent once

half = Codec(sys.argv[1], slice=2, decode_dtype="bfloat16")
assert np.abs(half.decode(np.asarray(one)).astype(int) - half.decode(four)).max() <= 2
weights = half._weights(four, decoding=True)[1]
assert all(leaf.is_fully_replicated and len(leaf.devices()) == 4 for leaf in jax.tree.leaves(weights))
assert weights["decoder"]["conv_in"]["kernel"].dtype == "bfloat16"
"""


@pytest.mark.slow
def test_a_batch_split_over_devices_stays_so(on_devices: Callable[..., str], vae_folder: Path) -> None:
    on_devices(4, "-c", SHARDED, vae_folder)


def test_the_shape_of_data_and_of_latents(codec: Codec) -> None:
    assert codec.data_shape((2, 4, 6, 4)) == (2, 32, 48, 3)
    assert codec.latent_shape((2, 32, 48, 3)) == (2, 4, 6, 4)
    with pytest.raises(UserError, match=r"sd_vae decodes latents \[B, F, h, w, 4\], got \[1, 4, 4, 3\] a sample"):
        codec.data_shape((1, 4, 4, 3))


def test_a_fingerprint_is_of_the_file_and_of_the_groups(codec: Codec, folder: Path, tmp_path: Path) -> None:
    def fingerprint(**config: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return Codec(str(other)).fingerprint()

    other = tmp_path / "other.safetensors"
    content = (folder / WEIGHTS).read_bytes()
    other.write_bytes(content)
    assert fingerprint(_class_name="AutoencoderKL", norm_num_groups=2) == codec.fingerprint()  # not its bytes
    published = hashlib.sha256(content).hexdigest()[:16]  # as recorded before the groups counted
    assert fingerprint() == fingerprint(norm_num_groups=32, scaling_factor=0.18215) == published
    assert len({published, codec.fingerprint(), fingerprint(norm_num_groups=1)}) == 3
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint() != published
    with pytest.raises(UserError, match="do not exist"):
        Codec(str(tmp_path / "none")).fingerprint()


def test_a_scale_of_none_is_that_of_the_config(folder: Path, tmp_path: Path, x: np.ndarray) -> None:
    codec = dataclasses.replace(Codec(str(folder)), scale=None)
    np.testing.assert_array_equal(codec.encode(x[:1]), Codec(str(folder)).encode(x[:1]))
    shutil.copytree(folder, tmp_path / "sdxl")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "sdxl" / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}))
    latents = codec.encode(x[:1]) * np.float32(0.13025 / 0.18215)
    sdxl = Codec(str(tmp_path / "sdxl"), scale=None)
    np.testing.assert_allclose(sdxl.encode(x[:1]), latents, rtol=1e-5)
    assert np.abs(sdxl.decode(latents).astype(int) - codec.decode(codec.encode(x[:1]))).max() <= 1
    (tmp_path / "sdxl" / "config.json").write_text(json.dumps(config | {"scaling_factor": "large"}))
    with pytest.raises(UserError, match=r"config\.json says scaling_factor is 'large', and no positive number$"):
        Codec(str(tmp_path / "sdxl"), scale=None).check()


def test_large_images_are_fewer_at_once(codec: Codec, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(sd_vae, "_slices", lambda images, size: sizes.append(size) or _slices(images, size))
    monkeypatch.setattr(stripes, "WHOLE", 16 * 24)
    four = dataclasses.replace(codec, slice=4)
    four.moments(x)
    monkeypatch.setattr(stripes, "WHOLE", 16 * 24 // 2)
    four.moments(x)
    four.decode(np.zeros((1, 1, 2, 3, 4), np.float32))
    monkeypatch.setattr(stripes, "WHOLE", 1)
    assert four._at_once(16 * 24) == 1
    assert sizes == [4, 2, 2]
