"""`--mode=reference --out=FILE`: statistics of a dataset or of any images, once; stopped at any moment, it goes on.

The file has ADM's form, `mu`, `sigma`, `mu_s`, `sigma_s` of all images and a few of these in `arr_0`, and serves
`--mode=evaluate --reference=FILE`. Without a `--config`, `--config.reference.images=DIR` says which images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.common import build
from flexidit_jax.common.array_files import ArrayFile, Pieces
from flexidit_jax.common.config import difference, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_named
from flexidit_jax.data.image_set import ImageSet, open_images
from flexidit_jax.data.record_images import of_dataset
from flexidit_jax.evaluation.extraction import Extractor, Halted
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import Referencing
from flexidit_jax.metrics.statistics_file import write_statistics
from flexidit_jax.runs.workdir import check_writable

FLAGS = {"out": "reference.out"}
#: where no --config is given
CONFIG = {
    "reference": {
        "images": None,
        "crop": None,
        "side": None,
        "part": "train",
        "features": {"name": "inception"},
        "keep": 10_000,
        "seed": 0,
        "batch": 32,
        "out": None,
    }
}
#: of what may change between two starts, the sections and keys that it reads
READS = ("reference",)
#: images that are written at a time
PIECE = 256


def run(config: ConfigDict, workdir: Path) -> int:
    """Writes the statistics of `config.reference` into `reference.out`.

    Returns:
      0 when they are there, else what `Halted` says.
    """
    raw = plain(config)
    section = build.call(Referencing, raw.get("reference") or {}, "reference")
    out = workdir / "reference.npz" if section.out is None else folder_named(section.out, "--out")
    if out.suffix != ".npz":
        raise UserError(f"--out={out} is written as one .npz file; name such a file")
    check_writable(out.parent, "--out")
    images = _images(section, raw)
    if images.count < 2:
        raise UserError(f"{images.path} holds {images.count} image, and a covariance is one of two or more")
    extractor = Extractor.of(section.features, section.batch, "reference.features")
    words = {**extractor.words(images), "of": str(images.path), "kept": min(section.keep, images.count)}
    words |= {"seed": section.seed} if 0 < words["kept"] < images.count else {}
    if out.exists():
        _check_same(out, words)
        print(f"all there already: {out}")
        return 0
    part = out.with_name(f"{out.name}.part")
    try:
        moments = {kind: stream.moments for kind, stream in extractor.moments(images, part).items()}
    except Halted as halted:
        print(halted)
        return halted.status
    numbers = np.sort(np.random.default_rng(section.seed).permutation(images.count)[: section.keep])
    shape = (len(numbers), *images.shape)
    kept = Pieces(shape, np.dtype(np.uint8), images.numbered(numbers, PIECE)) if len(numbers) else None
    write_statistics(out, moments, words, kept)
    part.unlink(missing_ok=True)
    print(f"written: {out}, statistics of {images.count:,} images{_beside(len(numbers))}")
    return 0


def check(config: ConfigDict) -> None:
    """Refuses keys and values before anything is read."""
    if "model" in config:
        build_experiment(config)
    else:
        build.call(Referencing, plain(config).get("reference") or {}, "reference")


def _images(section: Referencing, raw: Mapping[str, Any]) -> ImageSet:
    if section.images is not None:
        return open_images(section.images, section.crop, section.side)
    if "dataset" not in raw:
        raise UserError("no images are named; --config.reference.images=DIR, or a --config with a dataset would do")
    if (section.crop, section.side) != (None, None):
        raise UserError("reference.crop is for reference.images; a dataset has its own crop and size")
    said = raw["dataset"]
    said = said.get("of", said) if isinstance(said, dict) else said  # of latents, the images that they were made of
    dataset = build.part("flexidit_jax.data", "Dataset", said, "dataset")
    images = of_dataset(dataset, said, section.part)
    say_found(dataset)
    return images


def _check_same(out: Path, words: Mapping[str, Any]) -> None:
    there = ArrayFile(out).words()
    there.pop("images", None)
    if (differs := difference(words, there)) is not None:
        key, ours, theirs = differs
        raise UserError(
            f"{out} is there, and holds others: {key} is {theirs!r} there, {ours!r} here; name another --out"
        )


def _beside(count: int) -> str:
    return f", with {count:,} of them" if count else ""
