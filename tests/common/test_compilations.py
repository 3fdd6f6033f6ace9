"""How much was compiled, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from flexidit_jax.common import compilations
from flexidit_jax.common.compilations import COMPILED, Compilations, Waiting, waiting
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


def test_what_lies_within_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([10.0, 13.0, 20.0, 30.0])
    monkeypatch.setattr(compilations, "time", SimpleNamespace(monotonic=lambda: next(ends)))
    heard = Waiting()
    heard.heard("/jax/core/compile/jaxpr_trace_duration", 2)  # 8..10
    heard.heard("/jax/core/compile/jaxpr_trace_duration", 1)  # 12..13
    assert heard.seconds == 3
    heard.heard("/jax/core/compile/jaxpr_trace_duration", 9)  # 11..20, around the second
    assert heard.seconds == 11
    heard.heard("/jax/some/other_duration", 5)
    heard.heard(COMPILED, 4)
    assert heard.seconds == 15


def test_this_process_is_listened_to(no_cache: None) -> None:
    before = waiting().seconds
    jax.jit(lambda x: jax.jit(lambda y: 3 * y)(x) + 13)(np.ones(7))
    assert waiting().seconds > before
    assert waiting() is waiting()
