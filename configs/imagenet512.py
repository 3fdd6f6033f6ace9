"""FlexiDiT-XL/2 on ImageNet at 512x512, latents of 64x64; otherwise `imagenet256.py`.

    python -m flexidit_jax.main --config=configs/imagenet512.py --workdir=runs/xl2_512 \\
        --config.init_from=DiT-XL-2-512x512.pt

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = imagenet256(variant)
    side = 2 * config.model.latent[1]
    config.model.latent = (1, side, side, config.model.latent[-1])
    if variant == "smoke":
        config.dataset.shape = config.model.latent
    else:
        config.dataset.size = 8 * side
        config.codec.slice = 4
        config.model.remat = "full"
    return config
