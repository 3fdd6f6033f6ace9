"""A published SiT-XL/2 learns patch size 4 beside its own 2: `imagenet256.py` with the process, loss and solver of SiT.

    python -m flexidit_jax.main --config=configs/imagenet256_sit.py --workdir=runs/sit_xl2 \\
        --config.init_from=SiT-XL-2-256x256.pt
    python -m flexidit_jax.main --config=configs/imagenet256_sit.py --workdir=runs/sit_xl2 --mode=sample \\
        --config.sample.budget=0.64 --config.sample.labels="golden retriever, goldfish, volcano"

Nothing in a file of weights tells a SiT from a DiT; `config.process` does. The network has 2C channels, as the
published one, and the second half stays as it is. What a budget costs a SiT in quality was not measured.

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict

imagenet256 = run_path(str(Path(__file__).with_name("imagenet256.py")))["get_config"]


def get_config(variant: str = "") -> ConfigDict:
    config = imagenet256(variant)
    config.process = {"name": "sit", "shift": 1.0}
    config.train.loss = {"name": "flow", "times": "uniform"}
    config.sample.solver = "euler"
    config.export.tables = ({"solver": "euler", "steps": 250}, {"solver": "heun", "steps": 50})
    return config
