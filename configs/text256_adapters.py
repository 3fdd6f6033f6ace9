"""A PixArt of 256 pixels gets a weak mode as an adapter, distilled from it on a few thousand captioned images.

    python -m flexidit_jax.main --config=configs/text256_adapters.py --mode=encode
    python -m flexidit_jax.main --config=configs/text256_adapters.py --workdir=runs/text256_adapters

What lies where, and what the first command keeps, is as in `text256.py`. The model stays what it is, to the bit: patch
size 4 has its own embed, de-embed, norms and LoRA; cross-attention, the caption's layers, the embedded time and its
tables are frozen and shared. Constants of FlexiDiT section 3.2: rank 32, AdamW 8e-4 with decay 1e-2, clip 0.02, batch
512, EMA 0.9999. One caption in ten is dropped, or the weak mode as its own guide would never be trained. The number of
steps is not published; 5,000 is a choice, and so are the warm-ups of average and learning rate.

`:smoke` is the same run shrunk to seconds, on scenes of two digits in two shapes; as it has no published model, it
pre-trains its own first.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

beside = (run_path(str(Path(__file__).with_name(f"{name}.py"))) for name in ("text256", "imagenet256_adapters"))
text256, adapters = (config["get_config"] for config in beside)


def get_config(variant: str = "") -> ConfigDict:
    config = text256(variant)
    train = adapters(variant).train  # the paper's constants, as for classes
    if variant != "smoke":
        config.train = train
        return config
    pretrain = {**config.train.stages[0], "loss": config.train.loss.to_dict()}
    config.train.stages = (pretrain, train.stages[1])
    config.train.loss, config.train.optimizer = train.loss, train.optimizer
    return config
