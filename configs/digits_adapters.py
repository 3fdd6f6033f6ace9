"""FlexiDiT with adapters on the digits: a plain DiT is pre-trained, then kept as it is.

    python -m flexidit_jax.main --config=configs/digits_adapters.py

The new mode gets its own embed, de-embed, norms and LoRA, and learns by distillation to predict what
the pre-trained mode predicts. `configs/digits.py` trains all weights for both modes instead.
`:smoke` is the same run shrunk to seconds; its pictures are noise.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

digits = run_path(str(Path(__file__).with_name("digits.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = digits(variant)
    pretrain, finetune = config.train.stages
    distillation = {"name": "distillation", "variance_weight": 1.0}
    config.train.stages = (pretrain, {**finetune, "adapters": 16, "loss": distillation})
    # adapters give each mode kernels of its own, so two modes share no rows
    config.report.guidance = tuple(row for row in config.report.guidance if "packing" not in row)
    return config
