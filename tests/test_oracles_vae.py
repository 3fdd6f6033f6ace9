"""Live parity of the autoencoder with diffusers' AutoencoderKL; `make test-oracles` runs this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexidit_jax.codecs.sd_vae import Codec, _decode

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

#: of the largest value; the bar is 1e-4, the implementation meets 2e-5
TOLERANCE = 5e-5


def random_vae(widths: tuple[int, ...], groups: int) -> Any:
    """diffusers' own model with nothing left at zero or one, and one tensor in each half so small that the
    norm behind it depends on its eps."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        norm_num_groups=groups,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        for resnet in (vae.encoder.down_blocks[1].resnets[0], vae.decoder.up_blocks[1].resnets[1]):
            resnet.conv1.weight *= 3e-3
            resnet.conv1.bias *= 3e-3
    return vae.eval()


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = theirs.permute(0, 2, 3, 1).numpy()
    ours = np.asarray(ours)[:, 0]
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize(
    ("widths", "groups", "height", "width"),
    [
        ((128, 256, 512, 512), 32, 64, 64),  # the published widths
        ((16, 32, 32, 64), 8, 256, 256),
        ((16, 32, 32, 64), 8, 48, 80),
    ],
)
def test_moments_and_decode(tmp_path: Path, widths: tuple[int, ...], groups: int, height: int, width: int) -> None:
    vae = random_vae(widths, groups)
    vae.save_pretrained(tmp_path)
    codec = Codec(str(tmp_path), slice=2)
    x = torch.rand(2, 3, height, width) * 2 - 1
    z = torch.randn(2, 4, height // 8, width // 8)
    with torch.no_grad():
        posterior, images = vae.encode(x).latent_dist, vae.decode(z).sample

    mean, std = codec.moments(x.permute(0, 2, 3, 1).numpy()[:, None])
    assert_close(mean, posterior.mean)
    assert_close(std, posterior.std)
    latents = z.permute(0, 2, 3, 1).numpy() * np.float32(codec.scale)
    assert_close(_decode(*codec._loaded, latents, codec.scale)[:, None], images)

    released = torch.clamp(127.5 * images + 128.0, 0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    decoded = codec.decode(latents[:, None])[:, 0]
    assert np.abs(decoded.astype(int) - released).max() <= 1
    assert np.mean(decoded != released) < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(tmp_path: Path, dtype: str) -> None:
    vae = random_vae((8, 8, 8, 8), 4).to(getattr(torch, dtype))
    vae.save_pretrained(tmp_path)
    model, params = Codec(str(tmp_path))._loaded
    assert model.widths == (8, 8, 8, 8)
    kernel = params["encoder"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, vae.encoder.conv_in.weight.detach().float().permute(2, 3, 1, 0).numpy())
