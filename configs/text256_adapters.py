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

text256 = run_path(str(Path(__file__).with_name("text256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = text256(variant)
    smoke = variant == "smoke"
    adapt = {
        "patches": (2, 4),
        "steps": 6 if smoke else 5_000,
        "learning_rate": 8e-4,
        "warmup": 1 if smoke else 1000,
        "adapters": 4 if smoke else 32,
    }
    pretrain = {**config.train.stages[0], "loss": config.train.loss.to_dict()}
    config.train.stages = (pretrain, adapt) if smoke else (adapt,)
    config.train.loss = {"name": "distillation", "variance_weight": 1.0}
    config.train.optimizer.update(weight_decay=1e-2, clip=0.02)
    config.train.ema.warmup = True  # 5,000 steps at 0.9999 alone would leave 61 % of the untrained start
    if not smoke:
        config.train.batch = 512
        config.train.checkpoint_every = 500
    return config
