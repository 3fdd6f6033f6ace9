"""Wan 2.1: clips of texts, and weak modes in time and space.

    python -m flexidit_jax.main --config=configs/wan.py:1.3b --mode=sample --prompts="a cat on a sofa"
    python -m flexidit_jax.main --config=configs/wan.py:1.3b --mode=generate --prompts=prompts.txt --out=clips
    python -m flexidit_jax.main --config=configs/wan.py:1.3b --mode=compile --topology=gpu:h100
    python -m flexidit_jax.main --config=configs/wan.py:1.3b --mode=compile --topology=v5e:4x4 \\
        --config.train.mesh.tensor=16

The folder of a diffusers pipeline is read from ./weights. What lies apart is named apart: `init_from`, `codec.path`
(the VAE) and `config.text.path` (UMT5). Clips are 81 frames of 480x832. Adapters of the modes (2, 2, 2) and (1, 4, 4)
learn to predict what the frozen model does, from a `dataset` of clips and texts, which is not named here. Nothing here
was run with published weights.
"""

from ml_collections import ConfigDict

#: folder, width, depth, heads, hidden layer of the MLP
VARIANTS = {
    "": ("1.3B", 1536, 30, 12, 8960),
    "1.3b": ("1.3B", 1536, 30, 12, 8960),
    "14b": ("14B", 5120, 40, 40, 13824),
}


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"configs/wan.py has no variant {variant!r}; known: {', '.join(filter(None, VARIANTS))}")
    name, width, depth, heads, hidden = VARIANTS[variant]
    weights = f"./weights/Wan2.1-T2V-{name}-Diffusers"
    config = ConfigDict()
    config.seed = 0
    config.init_from = weights
    config.profile_at = None
    config.dataset = None
    config.codec = {"name": "wan_vae", "path": weights, "whole": False}
    config.text = {
        "name": "umt5",
        "path": weights,
        "tokenizer": None,
        "length": None,
        "clean": "wan",
        "dtype": "bfloat16",
        "batch": 8,
        "devices": 1,
    }
    config.process = {"name": "flow", "shift": 3.0}
    config.model = {
        "latent": (21, 60, 104, 16),
        "patch": (1, 2, 2),
        "width": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": hidden / width,
        "learn_variance": False,
        "modulation": "single",
        "positions": "rope",
        "qk_norm": "rms",
        "cross_norm": True,
        "dtype": "bfloat16",
        "remat": "full",
        "conditioner": {"name": "text", "features": 4096, "length": 512, "null_length": 1, "mask": False},
    }
    config.train = {
        "batch": 16,
        "accumulate": 1,
        "preview_every": None,
        "spike": 10.0,
        "stages": (
            {
                "patches": ((1, 2, 2), (2, 2, 2), (1, 4, 4)),
                "adapters": 64,
                "steps": 5000,
                "learning_rate": 8e-4,
                "warmup": 500,
            },
        ),
        "loss": {"name": "distillation", "variance_weight": 1.0},
        "optimizer": {"b1": 0.9, "b2": 0.999, "weight_decay": 1e-2, "clip": 0.02},
        "ema": {"decay": 0.9999, "warmup": True},
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "log_every": 10,
        "checkpoint_every": 250,
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
        "batch": 1,
        "out": None,
        "files": {"grid": True, "images": False, "npz": False, "clips": "mp4", "fps": 16},
    }
    config.generate = {"num": None, "out": None, "shard": None, "files": "png"}
    config.encode = {"out": None, "dtype": "float16", "shard": 64, "batch": 8}
    config.export = {
        "out": None,
        "platforms": ("cpu", "cuda", "tpu"),
        "pairs": None,
        "tables": ({"solver": {"name": "unipc", "grid": "diffusers"}, "steps": 50},),
        "guidance_channels": None,
    }
    config.compile = {"topology": None, "programs": ("train", "sample"), "out": None}
    return config
