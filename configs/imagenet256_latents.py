"""`imagenet256.py` on latents made once, with the mirrored images': no encoder runs and no picture is read in training.

    python -m flexidit_jax.main --config=configs/imagenet256_latents.py --mode=encode
    python -m flexidit_jax.main --config=configs/imagenet256_latents.py --workdir=runs/xl2 \\
        --config.init_from=DiT-XL-2-256x256.pt

The first command goes on where it was stopped; with several processes each writes its share. Latents lie in
`dataset.path`, 32,772 bytes an image (float16, which moves a mean or a deviation by 2^-11 of itself at most;
65,540 with `encode.dtype=float32`): 42 GB for the 1,281,167 training images. What is drawn from them in training
is distributed as what `imagenet256.py` draws. Sampling needs no latents, only the VAE.

`:smoke` is the same run shrunk to seconds, on images made on the spot; it wants the VAE (`codec.path`).
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config, images = imagenet256(variant), imagenet256().dataset
    if variant == "smoke":
        images = {"name": "synthetic", "shape": (1, 64, 64, 3), "classes": 1000, "records": 64}
        config.codec = imagenet256().codec
        config.model.latent = (1, 8, 8, 4)
        config.encode.update(shard=24, batch=8)
    config.dataset = {"name": "latents", "path": f"latents/{'smoke' if variant else 'imagenet256'}", "of": images}
    return config
