"""What latents made once save: arithmetic of the SD-VAE's encoder beside that of training, and bytes on disk.

    python benchmarks/encoder.py

Nothing runs: the encoder's FLOPs are XLA's count of its program, a backward pass counts as two forward ones.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from flexidit_jax.common.config import load_config
from flexidit_jax.data.latents import layout, record_dtype
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.models.pretrained.autoencoder_kl import VAE

IMAGES = 1_281_167  # of ImageNet's training set


def main() -> None:
    experiment = build_experiment(load_config(str(Path(__file__).parents[1] / "configs" / "imagenet256.py")))
    image = jax.ShapeDtypeStruct(experiment.dataset.shape, "float32")
    vae = VAE()
    params = jax.eval_shape(vae.init, jax.random.key(0), image)
    encoder = jax.jit(lambda params, x: vae.apply(params, x, method="moments")).lower(params, image)
    encoder = encoder.cost_analysis()["flops"] / 1e9
    print(f"encoder: {encoder:.0f} GFLOP an image")
    forward = [forward_flops(experiment.model, patch) / 1e9 for patch in experiment.train.stages[0].patches]
    training = 3 * np.mean(forward)
    print(f"training step, mean of the modes: {training:.0f} GFLOP an image")
    print(f"the encoder's share of both: {100 * encoder / (encoder + training):.0f} %")
    for dtype in ("float16", "float32"):
        record = record_dtype(layout(experiment.model.latent, dtype, True, {"label": np.int32(0)})).itemsize
        print(f"latents, {dtype}: {record} bytes an image, {record * IMAGES / 1e9:.1f} GB for ImageNet")


if __name__ == "__main__":
    main()
