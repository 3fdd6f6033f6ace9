"""A published DiT-XL/2 gets a weak mode as an adapter and stays what it is, to the bit.

    python -m flexidit_jax.main --config=configs/imagenet256_adapters.py --workdir=runs/xl2_adapters \\
        --config.init_from=DiT-XL-2-256x256.pt

Patch size 4 has its own embed, de-embed, norms and LoRA, distilled from the frozen model (FlexiDiT section
3.2). Constants as published there for text to image: rank 32, AdamW 8e-4 with decay 1e-2, clip 0.02, batch
512, EMA 0.9999; a few thousand images suffice. The number of steps is not published; 5,000 is a choice, and so are
the warm-ups of average and learning rate that a run so short wants.
docs/adapters.md says when to choose this and when `imagenet256.py`. Training without `init_from` is refused: there
would be nothing to adapt.

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads; as it has no
published model, it pre-trains its own first.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = imagenet256(variant)
    smoke = variant == "smoke"
    adapt = {
        "patches": (2, 4),
        "steps": 6 if smoke else 5_000,
        "learning_rate": 8e-4,
        "warmup": 1 if smoke else 1000,
        "adapters": 4 if smoke else 32,
    }
    diffusion = config.train.loss.to_dict()
    # fast enough that six steps leave something to imitate: a DiT begins as zero
    pretrain = {"patches": (2,), "steps": 6, "learning_rate": 1e-3, "warmup": 1, "loss": diffusion}
    config.train.stages = (pretrain, adapt) if smoke else (adapt,)
    config.train.loss = {"name": "distillation", "variance_weight": 1.0}
    config.train.optimizer.update(weight_decay=1e-2, clip=0.02)
    config.train.ema.warmup = True  # 5,000 steps at 0.9999 alone would leave 61 % of the untrained start
    if not smoke:
        config.train.batch = 512
        config.train.checkpoint_every = 500
    return config
