"""FlexiDiT of texts on scenes of two handwritten digits: pre-train, add a weak mode by distillation, report.

    python -m flexidit_jax.main --config=configs/scenes.py
    python -m flexidit_jax.main --config=configs/scenes.py --mode=sample --prompts="a bold three left of a faint seven"
    python -m flexidit_jax.main --config=configs/scenes.py --mode=sample --config.sample.size=16,8 \\
        --prompts="a faint two above a bold five"

Scenes lie side by side on canvases of 8x16 pixels and one above the other on such of 16x8: one model, whose positions
span both. The pre-trained mode is kept as it is; the weak one has adapters.

Two shared cores of an AMD EPYC: 10.3 minutes of training and 4.3 of the report. Expected (800 captions, three seeds,
unguided, floor 8.9; all words right, of captions that are trained on and of those that never are):

    order           FLOPs %            FD                           all words right          never trained on
    full            100                8.18                         0.923                    0.938
    weak first      71 / 57 / 43       8.23 / 8.97 / 13.69          0.922 / 0.907 / 0.826    0.938 / 0.925 / 0.875
    weak last       57                 30.15                        0.619                    0.625
    fewer steps     70 / 55 / 40       9.82 / 12.43 / 15.51         0.931 / 0.938 / 0.949    0.933 / 0.946 / 0.933

With guidance 1.5 full compute has 0.994 and 0.988 right, at 57 % 0.992 and 0.988.
`:smoke` is the same run shrunk to seconds; its pictures are noise.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"configs/scenes.py has no variant {variant!r}; known: smoke")
    config = ConfigDict()
    config.seed = 0
    config.init_from = None
    config.profile_at = None
    config.dataset = {"name": "scenes", "records": 36_000, "held_out": 800, "digits_held_out": 297}
    config.codec = {"name": "identity"}
    config.text = {"name": "hashed_words", "length": None, "width": 256, "seed": 0}
    config.process = {"name": "gaussian", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    config.model = {
        "latent": (1, 8, 16, 1),
        "patch": 2,
        "width": 96,
        "depth": 4,
        "num_heads": 4,
        "unroll": 4,
        "modulation": "single",
        "span": 4.0,
        "conditioner": {"name": "text", "features": 256, "length": 9, "null_length": 1, "drop_rate": 0.1},
    }
    config.train = {
        "batch": 32,
        "accumulate": 1,
        "preview_every": None,
        "spike": 10.0,
        "stages": (
            {"patches": (2,), "steps": 6000, "learning_rate": 2e-3, "warmup": 100, "final_rate": 0.02},
            {
                "patches": (2, 4),
                "adapters": 24,
                "loss": {"name": "distillation", "variance_weight": 1.0},
                "steps": 2000,
                "learning_rate": 2e-3,
                "warmup": 100,
                "final_rate": 0.02,
            },
        ),
        "loss": {"name": "diffusion", "vlb_weight": 1.0},
        "optimizer": {"b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "clip": None},
        "ema": {"decay": 0.998, "warmup": True},
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "log_every": 50,
        "checkpoint_every": 500,
        "keep": 2,
        "workers": None,
    }
    config.sample = {
        "prompts": ("a bold three left of a faint seven", "a faint zero left of a bold eight"),
        "labels": None,
        "negative": None,
        "images_per_prompt": 8,
        "steps": 20,
        "budget": 0.58,
        "latency_ms": None,
        "schedule": None,
        "guide": None,
        "guidance": 1.5,
        "weak_guidance": None,
        "guidance_interval": None,
        "guidance_channels": None,
        "weak": None,
        "packing": "separate",
        "size": None,
        "aspect": None,
        "frames": None,
        "solver": "ddpm",
        "seed": 0,
        "first": 0,
        "batch": None,
        "out": None,
        "files": {"grid": True, "images": False, "npz": False, "clips": None, "fps": 16},
    }
    config.generate = {"num": None, "out": None, "shard": None, "files": "png"}
    config.encode = {"out": None, "dtype": "float16", "shard": 1024, "batch": 128}
    config.evaluate = {
        "features": {"name": "mlp_classifier", "hidden": (128, 64), "alpha": 1e-3, "seed": 0},
        "samples": 800,
        "out": None,
    }
    config.report = {
        "steps": 20,
        "seeds": (0, 1, 2),
        "batch": 400,
        "weak_first": (0, 8, 12, 16),
        "weak_last": (12,),
        "fewer_steps": (14, 11, 8),
        "scales": (1.25, 1.5, 2.0),
        "out": None,
    }
    config.export = {
        "out": None,
        "platforms": ("cpu", "cuda", "tpu"),
        "pairs": None,
        "tables": ({"solver": "ddpm", "steps": 20},),
        "guidance_channels": None,
    }
    config.compile = {"topology": None, "programs": ("train", "sample"), "out": None}
    if variant == "smoke":
        config.dataset.update(records=1440, held_out=40)
        config.model.width = 32
        config.model.depth = 1
        config.train.batch = 16
        for stage in config.train.stages:
            stage["steps"], stage["warmup"] = 6, 2
        config.train.log_every, config.train.checkpoint_every = 2, 4
        config.sample.update(steps=4, images_per_prompt=2)
        config.evaluate.samples = 100
        config.evaluate.features.hidden = (64, 16)
        config.report.update(steps=4, batch=50, weak_first=(0, 2, 4), weak_last=(2,), fewer_steps=(2,), seeds=(0, 1))
        config.report.scales = (1.5,)
    return config
