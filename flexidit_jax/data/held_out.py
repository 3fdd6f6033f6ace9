"""What data sets of anybody's files keep from training: a share of them, or a second folder of others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from flexidit_jax.common.errors import UserError

#: what a summary says where nothing is
NONE = "none held out to evaluate with (dataset.held_out_share or dataset.validation does)"


def check_held_out(share: float, validation: Any) -> None:
    """Refuses a `dataset.held_out_share` that is no share, or that speaks of what `dataset.validation` does.

    Raises:
      UserError: saying what would do.
    """
    if not 0 <= share < 1:
        raise UserError(f"dataset.held_out_share is a share in [0, 1), such as 0.02, got {share!r}")
    if share and validation is not None:
        raise UserError("dataset.validation and dataset.held_out_share are both set; one of them is enough")


def kept_out(i: int, share: float) -> bool:
    """Whether the i-th image is kept from training: those at which the share times i passes a whole number."""
    return int((i + 1) * share) > int(i * share)


def nothing_kept(path: str, share: float, like: str) -> UserError:
    """What is said where no image is held out; `like` what a validation folder must be."""
    return UserError(
        f"no image of {path} is kept from training (dataset.held_out_share={share:g}); set that to a larger share, or"
        f" dataset.validation to {like}"
    )


def digest(lines: Iterable[str]) -> str:
    """16 hex digits of what tells images from others."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
