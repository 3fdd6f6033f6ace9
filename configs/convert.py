"""Between weight files. From a published DiT to diffusers' layout, or to a flexible model:

    python -m flexidit_jax.main --mode=convert --config=configs/convert.py \\
        --config.convert.source=DiT-XL-2-256x256.pt \\
        --config.convert.target=flex/ --config.convert.layout=flexidit_jax --config.convert.patches=2,4

Without a source the newest checkpoint of --workdir is taken.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.convert = {
        "source": None,
        "target": None,
        "layout": "published",
        "patch": None,
        "patches": None,
        "num_heads": None,
        "process": None,
        "weights": None,
        "overwrite": False,
    }
    return config
