"""PixArt (alpha and Sigma): pictures of texts.

    python -m flexidit_jax.main --config=configs/pixart.py:alpha512 --mode=sample --prompts="a red apple on a table"
    python -m flexidit_jax.main --config=configs/pixart.py:alpha512 --mode=generate --prompts=prompts.txt --out=pictures

The folder of a diffusers pipeline is read from ./weights/pixart. What lies apart is named apart: `init_from`,
`codec.path` (the VAE) and `config.text.path` (T5 v1.1 xxl). Nothing here was run with published weights.
"""

from ml_collections import ConfigDict

#: side of the latent, scale of positions, tokens of a text, micro-conditions
VARIANTS = {
    "": (32, 1.0, 120, False),
    "alpha256": (32, 1.0, 120, False),
    "alpha512": (64, 1.0, 120, False),
    "alpha1024": (128, 2.0, 120, True),
    "sigma256": (32, 0.5, 300, False),
    "sigma512": (64, 1.0, 300, False),
    "sigma1024": (128, 2.0, 300, False),
    "sigma2048": (256, 4.0, 300, False),
}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"configs/pixart.py has no variant {variant!r}; known: {', '.join(filter(None, VARIANTS))}")
    side, scale, length, micro = VARIANTS[variant]
    config = ConfigDict()
    config.seed = 0
    config.init_from = "./weights/pixart"
    config.profile_at = None
    config.dataset = None
    config.codec = {"name": "sd_vae", "path": "./weights/pixart", "scale": None, "slice": 1}
    config.text = {
        "name": "t5",
        "path": "./weights/pixart",
        "tokenizer": None,
        "length": None,
        "clean": "lower",
        "dtype": "bfloat16",
        "batch": 8,
        "devices": 1,
    }
    config.process = {"name": "gaussian", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    config.model = {
        "latent": (1, side, side, 4),
        "patch": 2,
        "size": "XL",
        "modulation": "single",
        "span": side / 2 / scale,
        "dtype": "bfloat16",
        "remat": "dots",
        "conditioner": {
            "name": "text",
            "features": 4096,
            "length": length,
            "resolution": (8 * side, 8 * side) if micro else None,
        },
    }
    config.train = {
        "batch": 256,
        "accumulate": 1,
        "preview_every": None,
        "spike": 10.0,
        "stages": ({"patches": (2, 4), "adapters": 32, "steps": 100_000, "learning_rate": 1e-4, "warmup": 1000},),
        "loss": {"name": "diffusion", "vlb_weight": 1.0},
        "optimizer": {"b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "clip": None},
        "ema": {"decay": 0.9999, "warmup": False},
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "log_every": 100,
        "checkpoint_every": 5000,
        "keep": 2,
        "workers": None,
    }
    config.sample = {
        "prompts": None,
        "labels": None,
        "negative": None,
        "images_per_prompt": 1,
        "steps": None,
        "budget": None,
        "latency_ms": None,
        "schedule": None,
        "guide": None,
        "guidance": None,
        "weak_guidance": None,
        "guidance_interval": None,
        "guidance_channels": None,
        "weak": None,
        "packing": "separate",
        "size": None,
        "aspect": None,
        "frames": None,
        "solver": None,
        "seed": 0,
        "first": 0,
        "batch": 4,
        "out": None,
        "files": {"grid": True, "images": True, "npz": False, "clips": None, "fps": 16},
    }
    config.generate = {"num": None, "out": None, "shard": None, "files": "png"}
    config.encode = {"out": None, "dtype": "float16", "shard": 1024, "batch": 128}
    config.export = {
        "out": None,
        "platforms": ("cpu", "cuda", "tpu"),
        "pairs": None,
        "tables": ({"solver": {"name": "dpmpp_2m", "grid": "diffusers"}, "steps": 20},),
        "guidance_channels": None,
    }
    config.compile = {"topology": None, "programs": ("train", "sample"), "out": None}
    return config
