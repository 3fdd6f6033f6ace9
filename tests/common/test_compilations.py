"""How much was compiled, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.program_cache import compiling_anew


@pytest.fixture
def no_cache() -> Iterator[None]:
    with compiling_anew():  # the option alone is not looked at again where the cache was in use before
        yield


def test_counts_what_is_compiled_inside(no_cache: None) -> None:
    with Compilations() as compiled:
        jax.jit(lambda x: 5 * x + 11)(np.ones(7))
    assert (compiled.count, compiled.from_cache) == (1, 0)
    assert compiled.seconds > 0
    jax.jit(lambda x: 5 * x + 12)(np.ones(7))
    assert compiled.count == 1
    assert re.fullmatch(r"compiling took \d+\.\d s, 0 of 1 programs came from the cache", str(compiled))
