"""Means and covariances of a reference in one file, as ADM publishes them (`VIRTUAL_*.npz`), or ours.

    mu [2048], sigma, mu_s [2023], sigma_s     of Inception's `pool` and `spatial`, over the whole training set
    arr_0 uint8 [10000, H, W, 3]               images for precision and recall alone; read by `data.image_set`
    words                                      ours alone: which features of which images

Where a file has `mu`, that counts, and its images do not: they are fewer, and their mean is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.array_files import ArrayFile, Pieces, write_arrays
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.moments import Gaussian, Moments

#: a kind of features -> its two arrays
NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
#: how far rounding may take a covariance from being symmetric, of its largest entry; and its eigenvalues below 0, of
#: its Frobenius norm, in float16 too
ASYMMETRY, BELOW = 1e-6, 1e-3


@dataclass(frozen=True)
class Statistics:
    """What is known of a reference without its images.

    Attributes:
      gaussians: of every kind of features that there is.
      words: of what they are; {} in a file of ADM.
    """

    gaussians: Mapping[str, Gaussian]
    words: Mapping[str, Any]


def has_statistics(path: Path) -> bool:
    """Whether a `.npz` file holds a mean and a covariance.

    Raises:
      UserError: it is none, or not whole.
    """
    file = ArrayFile(path)
    return any(mean in file and covariance in file for mean, covariance in NAMES.values())


def read_statistics(path: Path, features: str, widths: Mapping[str, int]) -> Statistics:
    """Those of a file.

    Args:
      features: name of the extractor that the samples are compared in, for messages.
      widths: of its kinds of features.

    Raises:
      UserError: they are of another width, are no finite real numbers, or there are none; a covariance that cannot be
        one.
    """
    file = ArrayFile(path)
    words = file.words()
    found = {}
    for kind, (mean, covariance) in NAMES.items():
        if mean in file and covariance in file and kind in widths:
            found[kind] = _gaussian(file, mean, covariance, widths[kind], features, words.get("images"))
    if not found:
        raise UserError(f"{path} holds {', '.join(file) or 'nothing'}; statistics are mu and sigma")
    return Statistics(found, words)


def write_statistics(
    path: Path, moments: Mapping[str, Moments], words: Mapping[str, Any], images: np.ndarray | Pieces | None = None
) -> None:
    """Writes what `read_statistics` reads, and ADM's evaluator too.

    Args:
      moments: by kind of features, all of the same images.
      words: JSON-ready; `features` among them, the name of the extractor.
      images: uint8 [M, H, W, 3], kept for precision and recall.

    Raises:
      UserError: fewer than two images, or it cannot be written.
    """
    arrays: dict[str, Any] = {} if images is None else {"arr_0": images}
    for kind, (mean, covariance) in NAMES.items():
        if kind in moments:
            arrays |= {mean: moments[kind].mean, covariance: moments[kind].covariance}
    [count] = {one.count for one in moments.values()}
    write_arrays(path, arrays, {**words, "images": count})


def write_moments(path: Path, moments: Mapping[str, Moments], words: Mapping[str, Any]) -> None:
    """Keeps what an interrupted pass over images goes on from (`MomentStream.whole`).

    Raises:
      UserError: it cannot be written.
    """
    arrays = {}
    for kind, one in moments.items():
        arrays |= {f"{kind}.mean": one.mean, f"{kind}.scatter": one.scatter, f"{kind}.count": np.array(one.count)}
    write_arrays(path, arrays, words)


def read_moments(path: Path) -> tuple[dict[str, Moments], dict[str, Any]]:
    """What `write_moments` kept, and its words.

    Raises:
      UserError: it cannot be read, or is not whole.
    """
    file = ArrayFile(path)
    found = {}
    for kind in (name.removesuffix(".mean") for name in file if name.endswith(".mean")):
        count, mean, scatter = (file.read(f"{kind}.{part}") for part in ("count", "mean", "scatter"))
        found[kind] = Moments(int(count), mean, scatter)
    return found, file.words()


def _gaussian(file: ArrayFile, mean: str, covariance: str, width: int, features: str, count: Any) -> Gaussian:
    shapes = file[mean].shape, file[covariance].shape
    if shapes != ((width,), (width, width)):
        raise UserError(
            f"{mean} of {file.path} is {list(shapes[0])} and {covariance} {list(shapes[1])}, and features of {features}"
            f" are {width} wide; it is of another extractor"
        )
    for name in (mean, covariance):
        if (dtype := file[name].dtype).kind not in "fiu":
            raise UserError(f"{name} of {file.path} is {dtype}; statistics are real numbers")
    arrays = [file.read(name).astype(np.float64) for name in (mean, covariance)]
    for name, array in zip((mean, covariance), arrays, strict=True):
        if not np.isfinite(array).all():
            raise UserError(f"{name} of {file.path} holds NaN or infinity")
    _check_covariance(f"{covariance} of {file.path}", arrays[1])
    return Gaussian(*arrays, count if isinstance(count, int) else None)


def _check_covariance(what: str, array: np.ndarray) -> None:
    if np.abs(array - array.T).max() > ASYMMETRY * np.abs(array).max():
        raise UserError(f"{what} is not symmetric, as a covariance is; it is damaged, or something else")
    try:  # a few times as quick as eigenvalues
        np.linalg.cholesky(array + (BELOW * np.linalg.norm(array) or 1.0) * np.eye(len(array)))
    except np.linalg.LinAlgError:
        raise UserError(f"{what} has negative eigenvalues, and a covariance has none; it is damaged") from None
