"""What is kept off standard error, and what is not."""

from __future__ import annotations

import gc
import sys
import warnings

import pytest

from flexidit_jax.runs.orbax_noise import quiet_orbax


async def write_fragment() -> None:
    pass


def test_writes_that_were_not_begun_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back afterwards
    gc.collect()  # what other tests left has its own to say
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_orbax.__wrapped__()
        write_fragment()
        gc.collect()
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]
