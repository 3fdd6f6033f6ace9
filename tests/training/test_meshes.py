"""The same run on one device, on eight in several meshes, and in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ONE = "(None, 1)"
Runs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def printed(on_devices: Callable[..., str]) -> dict[str, Runs]:
    """What `meshes.py` printed, by stage, then by case: mesh and accumulate."""
    return json.loads(on_devices(8, Path(__file__).with_name("meshes.py")))


@pytest.fixture(scope="module")
def runs(printed: dict[str, Runs]) -> Runs:
    """Of modes that share all weights."""
    return printed["shared"]


def assert_steps_agree(runs: Runs, steps: int) -> None:
    wanted = runs[ONE]["metrics"]
    assert len({row["loss"] for row in wanted}) == len(wanted) == steps
    for case, run in runs.items():
        for number, (ours, theirs) in enumerate(zip(run["metrics"], wanted, strict=True)):
            for name in ("loss", "mse", "vlb"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (case, number, name)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4), (case, number)
            assert ours["quartile_counts"] == theirs["quartile_counts"], (case, number)
            np.testing.assert_allclose(ours["quartile_sums"], theirs["quartile_sums"], rtol=1e-4, err_msg=case)


def test_twenty_steps_agree(runs: Runs) -> None:
    assert len(runs) == 6
    assert_steps_agree(runs, 20)


def test_an_adapter_is_stored_alike_wherever_heads_are_split(printed: dict[str, Runs]) -> None:
    """The first step reads one that was made elsewhere, the others what was learnt here."""
    adapted = printed["adapters"]
    assert len(adapted) == 2 and all(run["stayed"] for run in adapted.values())
    assert_steps_agree(adapted, 3)


def test_texts_and_what_stands_for_none(printed: dict[str, Runs]) -> None:
    texts = printed["texts"]
    assert len(texts) == 2 and all(run["stayed"] for run in texts.values())
    assert_steps_agree(texts, 1)
    assert texts["((2, 2, 2), 1)"]["held"] / texts[ONE]["held"] < 0.45
    assert texts["((2, 2, 2), 1)"]["moved"] == []


def test_the_state_is_split_and_stays_where_it_is(runs: Runs) -> None:
    assert all(run["stayed"] for run in runs.values())
    whole = runs[ONE]["held"]
    shares = {case: run["held"] / whole for case, run in runs.items()}
    assert shares["((8, 1, 1), 1)"] == 1
    assert shares["((2, 4, 1), 1)"] < 0.32  # a quarter, and the small leaves
    assert 0.25 < shares["((2, 2, 2), 1)"] < 0.40  # kernels of the blocks in four, others in two


def test_no_activation_and_no_record_is_gathered(printed: dict[str, Runs]) -> None:
    every = {(name, case): run for name, runs in printed.items() for case, run in runs.items()}
    assert {case: run["moved"] for case, run in every.items() if run["moved"]} == {}
