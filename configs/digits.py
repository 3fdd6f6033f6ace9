"""FlexiDiT on the handwritten digits inside scikit-learn: pre-train, flexify, fine-tune, report.

    python -m flexidit_jax.main --config=configs/digits.py
    python -m flexidit_jax.main --config=configs/digits.py --mode=sample --config.sample.budget=0.56
    python -m flexidit_jax.main --config=configs/digits.py --mode=search

Two cores of an AMD EPYC, shared: 6.3 minutes and 2.1 GiB, the report 1.5 to 2.5 of them (9 on a slower one).
Expected (1,500 samples, floor 0.38):

    order                FLOPs %            FD                          accuracy
    full                 100                0.83                        0.963
    weak first           71 / 56 / 42 / 27  0.82 / 0.81 / 0.93 / 2.56   0.963 / 0.967 / 0.965 / 0.970
    weak last            71 / 56 / 42       2.59 / 2.58 / 2.56          0.967 / 0.969 / 0.969
    fewer steps          70 / 56 / 40 / 26  0.89 / 1.07 / 1.21 / 1.42   0.967 / 0.966 / 0.967 / 0.971
    SA-Solver, 20 steps  40 / 23            0.82 / 0.77                 0.937 / 0.941

`:smoke` is the same run shrunk to seconds; its pictures are noise.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        from flexidit_jax.common.errors import UserError

        raise UserError(f"configs/digits.py has no variant {variant!r}; known: smoke")
    config = ConfigDict()
    config.seed = 0
    config.init_from = None
    config.profile_at = None
    config.dataset = {"name": "digits", "held_out": 297}
    config.codec = {"name": "identity"}
    config.process = {"name": "gaussian", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    config.model = {
        "latent": (1, 8, 8, 1),
        "patch": 2,
        "width": 96,
        "depth": 4,
        "num_heads": 4,
        "unroll": 4,
        "conditioner": {"name": "classes", "classes": 10, "drop_rate": 0.1},
    }
    config.train = {
        "batch": 64,
        "accumulate": 1,
        "preview_every": None,
        "spike": 10.0,
        "stages": (
            {"patches": (2,), "steps": 2500, "learning_rate": 2e-3, "warmup": 100, "final_rate": 0.02},
            {"patches": (2, 4), "steps": 2500, "learning_rate": 1e-3, "warmup": 100, "final_rate": 0.02},
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
        "labels": tuple(range(10)) * 4,
        "steps": 50,
        "budget": 0.56,
        "latency_ms": None,
        "schedule": None,
        "guide": None,
        "guidance": 1.0,
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
        "batch": 500,
        "out": None,
        "files": {"grid": True, "images": False, "npz": False, "clips": None, "fps": 16},
    }
    config.generate = {"num": 50_000, "out": None, "labels": "uniform", "shard": None}
    config.evaluate = {
        "features": {"name": "mlp_classifier", "hidden": (128, 64), "alpha": 1e-3, "seed": 0},
        "samples": 1500,
        "out": None,
    }
    config.report = {
        "steps": 50,
        "seeds": (0,),
        "batch": 500,
        "weak_first": (0, 20, 30, 40, 50),
        "weak_last": (20, 30, 40),
        "fewer_steps": (35, 28, 20, 13),
        "solvers": (
            {"solver": "ddim", "steps": 20, "weak": 0},
            {"solver": "ddim", "steps": 20, "weak": 12},
            {"solver": "dpmpp_2m", "steps": 20, "weak": 0},
            {"solver": "dpmpp_2m", "steps": 20, "weak": 12},
            {"solver": "sa_solver", "steps": 20, "weak": 0},
            {"solver": "sa_solver", "steps": 20, "weak": 12},
        ),
        "guidance": (
            {"guide": "2:50", "guidance": 1.5},
            {"guide": "4:50", "guidance": 1.5},
            {"guide": "4:50", "guidance": 1.5, "packing": "packed"},
        ),
        "out": None,
    }
    config.export = {
        "out": None,
        "platforms": ("cpu", "cuda", "tpu"),
        "pairs": None,
        "tables": ({"solver": "ddpm", "steps": 50}, {"solver": "ddim", "steps": 20}),
        "guidance_channels": None,
    }
    config.compile = {"topology": None, "programs": ("train", "sample"), "out": None}
    config.search = {
        "budgets": (0.8, 0.65, 0.5, 0.4),
        "max_segments": 3,
        "guidance": (1.0, 1.25, 1.5),
        "scale_samples": 500,
        "seeds": (0, 1),
        "records": 500,
        "weight": "moved",
        "out": None,
    }
    if variant == "smoke":
        config.model.width = 32
        config.model.depth = 2
        config.train.batch = 16
        for stage in config.train.stages:
            stage["steps"], stage["warmup"] = 6, 2
        config.train.log_every, config.train.checkpoint_every = 2, 4
        config.sample.labels, config.sample.steps = (0, 1, 2, 3), 4
        config.evaluate.samples = 100
        config.report.update(steps=4, batch=50, weak_first=(0, 2, 4), weak_last=(2,), fewer_steps=(2,), seeds=(0, 1))
        config.report.solvers = ({"solver": "dpmpp_2m", "steps": 4, "weak": 2},)
        config.report.guidance = ({"guide": "4:4", "guidance": 1.5},)
        config.search.update(budgets=(0.7, 0.5), samples=50, scale_samples=50, records=50)
    return config
