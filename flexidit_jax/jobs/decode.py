"""`--mode=decode --latents=DIR`: the files of samples of clips, made again from latents that sampling left.

Sampling of clips writes `latents.safetensors` before it decodes. Where decoding was stopped, or other files are wanted
(`sample.files`), this does it alone: neither the model nor prompts are read.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.codecs.streamed import Streamed
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.runs.latents_file import read_latents
from flexidit_jax.runs.workdir import out_folder

FLAGS = {"latents": "decode.latents", "out": "decode.out"}
#: of what may change between two starts, the sections and keys that it reads
READS = ("decode", "sample.files")


def run(config: ConfigDict, workdir: Path) -> int:
    """Decodes `decode.latents` with the config's codec into `decode.out`, or the folder where they lie."""
    experiment = build_experiment(config, workdir)
    section, codec = experiment.decode, experiment.codec
    if section.latents is None:
        raise UserError("nothing is said of which latents; --latents=DIR names a folder that --mode=sample wrote")
    if not hasattr(codec, "pieces"):
        name = experiment.raw["codec"]["name"]
        raise UserError(f"codec {name!r} decodes pictures, which is done as they are sampled; decode is for clips")
    codec.check()
    place = Path(section.latents).expanduser()
    latents = read_latents(place, codec.fingerprint())
    folder = out_folder(section.out, place if place.is_dir() else place.parent)
    with Progress(len(latents), "decoding", unit="clips") as bar:
        written = experiment.sample.files.write(folder, Streamed(codec, latents, bar.advance))
    print(f"written: {folder}/{', '.join(written)}")
    return 0
