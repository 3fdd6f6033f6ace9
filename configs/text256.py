"""A PixArt of 256 pixels learns patch size 4 beside its own 2, all parameters shared, on captioned images.

    python -m flexidit_jax.main --config=configs/text256.py --mode=encode
    python -m flexidit_jax.main --config=configs/text256.py --workdir=runs/text256

Captioned images lie in ./data/captions (docs/text_training.md says how), the folder of a diffusers pipeline, or of a
transformer, in ./weights/pixart, T5 v1.1 xxl in ./weights/t5-v1_1-xxl. The first command keeps latents and features of
all captions in `dataset.path`: of an image and a caption of 25 tokens about 0.24 MB. Training then runs neither VAE nor
T5, and reads no picture.

Constants of FlexiDiT section 3.1: the diffusion loss, AdamW 1e-4 without decay, EMA 0.9999; one caption in ten is
dropped, as PixArt was trained. The number of steps is not published; 100,000 is a choice, and so are 1,000 of warm-up.
`text256_adapters.py` leaves the model as it is, to the bit. Nothing here was run with published weights.

`:smoke` is the same run shrunk to seconds, on scenes of two digits in two shapes, from scratch: one stage trains patch
2, the next both.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

VARIANTS = ("", "smoke")


def beside(name: str, variant: str) -> ConfigDict:
    return run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"](variant)


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"this config has no variant {variant!r}; known: smoke")
    diffusion = {"name": "diffusion", "vlb_weight": 1.0}
    if variant == "smoke":
        config = beside("scenes", "smoke")
        config.train.stages[1].update(adapters=None, loss=diffusion)
        return config
    config = beside("pixart", "alpha256")
    images = {"name": "captioned", "path": "./data/captions", "size": 256, "bins": False}
    config.dataset = {"name": "latents", "path": "latents/text256", "of": images}
    config.text.path = "./weights/t5-v1_1-xxl"
    config.model.conditioner.update(null_length=120, null_mask="caption", drop_rate=0.1)
    config.train.stages = ({"patches": (2, 4), "steps": 100_000, "learning_rate": 1e-4, "warmup": 1000},)
    config.train.loss = diffusion
    return config
