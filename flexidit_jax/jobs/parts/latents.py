"""Latents of records: encoded where records hold data, drawn where they hold a posterior made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.jobs.parts.workdir import FREE_WITHIN, without

DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Encoding:
    """The `encode` section.

    Attributes:
      out: the folder; by default the `path` of a `latents` dataset, else `<workdir>/latents`; also `--out`.
      dtype: of what is kept, "float16" (relative error 2^-11, half the bytes) or "float32".
      flipped: whether the mirrored images too, of those that are trained on; None: where the dataset augments.
      held_out: whether the held-out images too; scores and reports read them.
      shard: images a file, and what a kill may cost.
      batch: images at once, over all devices of a process; of several processes each takes as many.
    """

    out: str | None = None
    dtype: str = "float16"
    flipped: bool | None = None
    held_out: bool = False
    shard: int = 1024
    batch: int = 128

    def __post_init__(self) -> None:
        build.positive("encode", shard=self.shard, batch=self.batch)
        if self.dtype not in DTYPES:
            raise UserError(f"encode.dtype must be {' or '.join(map(repr, DTYPES))}, got {self.dtype!r}")


def latents_of(codec: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
    """Scaled latents [B, F, h, w, C] of a batch of records.

    Args:
      codec: see `codecs`.
      batch: `x` [B, F, H, W, C] in [-1, 1], or `mean` and `std` [B, F, h, w, C]. Data and the posterior that
        the codec made of it give, with one key, the same latents.
      key: a sample of the posterior; without, its mean.
    """
    if "x" in batch:
        return codec.encode(batch["x"], key)
    return codec.draw(batch["mean"], batch["std"], key)


def stacked(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Records as one batch."""
    return {key: np.stack([record[key] for record in records]) for key in records[0]}


def origin(experiment: Any) -> dict[str, Any]:
    """What the latents of a config depend on, wherever its files are: dataset, codec and the codec's weights.

    Which images a dataset finds there its `fingerprint` tells, where it has one.

    Raises:
      UserError: the weights are missing.
    """
    raw, codec = experiment.raw, experiment.codec
    kept = {key: value for key, value in asdict(codec).items() if key not in FREE_WITHIN["codec"]}
    return {
        "dataset": without(raw["dataset"].get("of", raw["dataset"]), FREE_WITHIN["dataset"]),
        "codec": {"name": raw["codec"]["name"], **kept, "weights": codec.fingerprint()},
    }
