"""FlexiDiT-B/2 on your own images at 256x256: one folder per class, trained from scratch in both patch sizes.

    python -m flexidit_jax.main --config=configs/folder.py --workdir=runs/pets \\
        --config.dataset.path=pets/train --config.dataset.classes=37

reads `pets/train/<class>/<any name>.jpg` (or .png, .webp, ...); label 0 is the first class folder by name.
`dataset.classes=None` counts the class folders, which must be there for sampling then, too. The SD-VAE must be in
weights/sd-vae-ft-ema. `dataset.validation` names a second such folder, or `dataset.held_out_share` keeps a share of
every class from training. The rest is as in `imagenet256.py`, smaller (`model.size`: S, B, L, XL). Nothing was trained
with it yet; the number of steps is a guess.

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = imagenet256(variant)
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
        }
        config.model.size = "B"
        config.train.batch = 64
    config.model.conditioner = {"name": "classes", "classes": config.dataset.get_ref("classes"), "drop_rate": 0.1}
    config.sample.labels = (0, 1, 2, 3)
    return config
