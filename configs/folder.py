"""FlexiDiT-B/2 on your own images at 256x256: one folder per class, trained from scratch in both patch sizes.

    python -m flexidit_jax.main --config=configs/folder.py:pixels --workdir=runs/pets --config.dataset.path=pets/train
    python -m flexidit_jax.main --config=configs/folder.py --workdir=runs/pets \\
        --config.dataset.path=pets/train --config.dataset.classes=37

read `pets/train/<class>/<any name>.jpg` (or .png, .webp, .avif, ...), also deeper ones. Label 0 is the first class
folder by name, and names are labels: `--config.sample.labels=beagle,pug`. `dataset.classes=None` counts the class
folders. A line says how many images were found and what is left out. `dataset.validation` names a second such folder,
or `dataset.held_out_share` keeps a share of every class from training.

`:pixels` wants nothing else: crops of 32x32 pixels without a VAE, a small model, patches 4 and 8. Where images are held
out, `--mode=evaluate` scores samples by a small classifier fitted on the training images, which tells digits apart
better than photographs. Another size takes two keys: `--config.dataset.size=64 --config.model.latent=1,64,64,3`.

Without a variant the SD-VAE must be in weights/sd-vae-ft-ema. The rest is as in `imagenet256.py`, smaller
(`model.size`: S, B, L, XL). Nothing was trained with it yet; the number of steps is a guess.

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


VARIANTS = ("", "pixels", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"configs/folder.py has no variant {variant!r}; known: pixels, smoke")
    config = imagenet256(variant if variant == "smoke" else "")
    if variant == "smoke":
        config.dataset.classes = 10
    else:
        config.dataset = {
            "name": "folder",
            "size": 256,
            "path": "images",
            "classes": 10,
            "validation": None,
            "held_out_share": 0.0,
            "max_corrupt": 0.001,
            "max_pixels": 178_956_970,
        }
        config.model.size = "B"
        config.train.batch = 64
    config.model.conditioner = {"name": "classes", "classes": config.dataset.get_ref("classes"), "drop_rate": 0.1}
    config.sample.labels = (0, 1, 2, 3)
    if variant == "pixels":
        in_pixels(config)
    return config


def in_pixels(config: ConfigDict) -> None:
    """Small crops of any folder, and a model that a laptop trains."""
    with config.dataset.ignore_type():
        config.dataset.update(size=32, classes=None)
    config.codec = {"name": "identity"}
    del config.model.size
    config.model.update(latent=(1, 32, 32, 3), patch=4, width=128, depth=6, num_heads=4)
    config.model.update(dtype="float32", remat="none")
    config.train.stages = (
        {"patches": (4,), "steps": 4000, "learning_rate": 1e-3, "warmup": 200, "final_rate": 0.1},
        {"patches": (4, 8), "steps": 4000, "learning_rate": 5e-4, "warmup": 200, "final_rate": 0.02},
    )
    config.train.ema = {"decay": 0.999, "warmup": True}
    config.train.checkpoint_every = 1000
    config.sample.update(labels=(0, 0, 0, 0, 1, 1, 1, 1), steps=50, batch=100)  # of one class, 1 is none
    config.evaluate = {
        "features": {"name": "mlp_classifier", "hidden": (128, 64), "alpha": 1e-3, "seed": 0},
        "samples": 500,
    }
