"""FlexiDiT on the digits, each mode fine-tuned only where one schedule uses it.

    python -m flexidit_jax.main --config=configs/digits_restricted.py

`configs/digits.py` with one difference: in the second stage the weak mode trains at times 400..999 of
1,000 and the powerful one at 0..399, as the schedule 4:30,2:20 of 50 steps uses them. docs/search.md
compares the two. `:smoke` is the same run shrunk to seconds; its pictures are noise.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

digits = run_path(str(Path(__file__).with_name("digits.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = digits(variant)
    pretrain, finetune = config.train.stages
    config.train.stages = (pretrain, {**finetune, "times": {"2": (0.0, 0.4), "4": (0.4, 1.0)}})
    return config
