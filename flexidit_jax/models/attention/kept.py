"""Keys and values of a source that were made before the calls that read them."""

from __future__ import annotations

from typing import NamedTuple

from flexidit_jax.common.types import Array


class Kept(NamedTuple):
    """What queries read, [R, M, h, e] each; no query enters it."""

    k: Array
    v: Array
