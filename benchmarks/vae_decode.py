"""Peak memory and time of decoding with the SD-VAE at its published size, and what bfloat16 changes in the images.

python benchmarks/vae_decode.py --images 64 --side 256 --slice 4
python benchmarks/vae_decode.py --images 2 --slice 2 --dtype bfloat16

Weights are random (Flax's initialisation), since the published ones are not at hand everywhere.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.codecs.sd_vae import DTYPES, FACTOR, WEIGHTS, Codec
from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.autoencoder_kl_layout import write_vae


def peak() -> float:
    """The largest resident set of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--slice", type=int, default=4, help="images decoded at once")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="codec.decode_dtype; bfloat16 is compared with float32"
    )
    args = parser.parse_args()
    side = args.side // FACTOR
    latents = np.random.default_rng(0).standard_normal((args.images, 1, side, side, 4), np.float32) * Codec.scale
    with tempfile.TemporaryDirectory() as folder:
        params = jax.jit(VAE().init)(jax.random.key(0), jnp.zeros((1, FACTOR, FACTOR, 3)))["params"]
        write_safetensors(Path(folder) / WEIGHTS, write_vae(params))
        del params
        codec = Codec(folder, slice=args.slice, decode_dtype=args.dtype)
        codec.decode(latents[: args.slice])
        print(f"weights read, one slice decoded: peak {peak():.2f} GiB", flush=True)
        start = time.perf_counter()
        images = codec.decode(latents)
        seconds = time.perf_counter() - start
        print(f"{images.shape} in {seconds:.1f} s on {jax.devices()[0].device_kind}: peak {peak():.2f} GiB", flush=True)
        if args.dtype != "float32":
            exact = Codec(folder, slice=args.slice).decode(latents).astype(int)
            off = np.abs(images - exact)
            print(
                f"beside float32, of images with a deviation of {exact.std():.0f} grey levels: at most {off.max()},"
                f" {off.mean():.2f} in the mean, {100 * np.mean(off > 1):.1f} % of the values off by more than 1"
            )


if __name__ == "__main__":
    main()
