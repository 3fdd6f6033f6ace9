"""FlexiDiT-XL/2 on ImageNet at 256x256: a published DiT learns patch size 4 beside its own 2.

    python -m flexidit_jax.main --config=configs/imagenet256.py --workdir=runs/xl2 \\
        --config.init_from=DiT-XL-2-256x256.pt
    python -m flexidit_jax.main --config=configs/imagenet256.py --workdir=runs/xl2 --mode=sample \\
        --config.sample.budget=0.64 --config.sample.labels="golden retriever, goldfish, volcano"

Without `init_from` both modes train from scratch. Before a run there must be: ImageNet, prepared by
tensorflow-datasets (the first start says from which files), and the SD-VAE in weights/sd-vae-ft-ema.
Corrupt images are named and skipped; a share of more than `dataset.max_corrupt` stops the run. `train.workers`
threads decode, None meaning one per core. Before training, `--mode=sample` with `init_from` draws from the
published model itself.

Constants of FlexiDiT section 3.1 and DiT: all parameters shared, AdamW 1e-4 without decay, batch 256,
EMA 0.9999, 250 DDPM steps, guidance on three channels. Published there, best scale per budget, 50,000
samples (the paper's numbers, not this code's): FID 2.25 at 100 %, 2.25 at 64 %, 2.64 at 46 %, 3.24 at 29 %
of the FLOPs. The number of steps is not published; 100,000 is a choice, and so are 1,000 of warm-up.

`imagenet256_latents.py` encodes ImageNet once and trains on what it kept.

`:smoke` is the same run shrunk to seconds, on images made on the spot, in pixels and without downloads.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"this config has no variant {variant!r}; known: smoke")
    config = ConfigDict()
    config.seed = 0
    config.init_from = None
    config.profile_at = None
    config.dataset = {"name": "imagenet", "size": 256, "data_dir": None, "max_corrupt": 0.001}
    config.codec = {
        "name": "sd_vae",
        "path": "./weights/sd-vae-ft-ema",
        "dtype": "bfloat16",
        "decode_dtype": "float32",
        "slice": 16,
    }
    config.process = {"name": "gaussian", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    config.model = {
        "latent": (1, 32, 32, 4),
        "patch": 2,
        "size": "XL",
        "dtype": "bfloat16",
        "remat": "dots",
        "conditioner": {"name": "classes", "classes": 1000, "drop_rate": 0.1, "names": "imagenet"},
    }
    config.train = {
        "batch": 256,
        "accumulate": 1,
        "preview_every": None,
        "spike": 10.0,
        "stages": ({"patches": (2, 4), "steps": 100_000, "learning_rate": 1e-4, "warmup": 1000},),
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
        "labels": (207, 360, 387, 974, 88, 979, 417, 279),
        "steps": 250,
        "budget": None,
        "latency_ms": None,
        "schedule": None,
        "guide": None,
        "guidance": 1.5,
        "weak_guidance": None,
        "guidance_interval": None,
        "guidance_channels": 3,
        "weak": None,
        "packing": "separate",
        "size": None,
        "aspect": None,
        "frames": None,
        "solver": "ddpm",
        "seed": 0,
        "first": 0,
        "batch": 8,
        "out": None,
        "files": {"grid": True, "images": True, "npz": False, "clips": None, "fps": 16},
    }
    config.generate = {"num": 50_000, "out": None, "labels": "uniform", "shard": None}
    config.encode = {
        "out": None,
        "dtype": "float16",
        "flipped": None,
        "held_out": False,
        "shard": 1024,
        "batch": 128,
    }
    config.reference = {
        "part": "train",
        "features": {"name": "inception"},
        "keep": 10_000,
        "seed": 0,
        "batch": 32,
        "out": None,
    }
    config.export = {
        "out": None,
        "platforms": ("cpu", "cuda", "tpu"),
        "pairs": None,
        "tables": ({"solver": "ddpm", "steps": 250}, {"solver": "ddim", "steps": 50}),
        "guidance_channels": 3,
    }
    config.compile = {"topology": None, "programs": ("train", "sample"), "out": None}
    config.search = {
        "budgets": (0.8, 0.64, 0.46, 0.3),
        "max_segments": 3,
        "records": 64,
        "weight": "moved",
        "out": None,
    }
    if variant == "smoke":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """The same run in seconds: synthetic pixels, a tiny model, a few steps."""
    config.dataset = {"name": "synthetic", "shape": (1, 16, 16, 3), "classes": 1000}
    config.codec = {"name": "identity"}
    del config.model.size
    config.model.update(latent=(1, 16, 16, 3), width=32, depth=2, num_heads=2, dtype="float32")
    config.train.update(batch=8, log_every=2, checkpoint_every=4)
    for stage in config.train.stages:
        stage["steps"], stage["warmup"] = 6, 1
    config.train.ema.warmup = True
    config.sample.update(labels=(207, 360, 387, 974), steps=4, batch=2)
    config.search.update(budgets=(0.7,), records=4)
