"""Between weight files. From a published DiT to diffusers' layout, or to a flexible model:

    python -m flexidit_jax.main --mode=convert --config=configs/convert.py \\
        --config.convert.source=DiT-XL-2-256x256.pt \\
        --config.convert.target=flex/ --config.convert.layout=flexidit_jax --config.convert.patches=2,4

The weights of a feature extractor as one file, which needs neither torch nor TensorFlow to be read:

    python -m flexidit_jax.main --mode=convert --config=configs/convert.py --config.convert.features=inception \\
        --config.convert.source=weights-inception-2015-12-05-6726825d.pth \\
        --config.convert.target=weights/inception-2015-12-05.safetensors

The adapters of a mode as a folder of PEFT:

    python -m flexidit_jax.main --mode=convert --config=configs/convert.py --config.convert.source=adapted/ \\
        --config.convert.target=lora/ --config.convert.layout=peft --config.convert.patch=4

With --config.convert.target=lora.safetensors and --config.convert.layout=lora they are one file.

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
        "features": None,
        "base": None,
        "input_size": None,
        "interpolation_scale": None,
    }
    return config
