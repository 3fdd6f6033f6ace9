"""Tokens over a mesh that does not divide the heads: the same numbers as on one device, and what is gathered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

N, WIDTH, RECORDS = 108, 48, 4


@pytest.fixture(scope="module")
def printed(on_devices: Callable[..., str]) -> dict[str, dict[str, Any]]:
    """What `token_meshes.py` printed."""
    return json.loads(on_devices(8, Path(__file__).with_name("token_meshes.py")))


def test_the_numbers_are_those_of_one_device(printed: dict[str, dict[str, Any]]) -> None:
    assert len(printed) == 5
    assert all(case["far"] < 1e-6 for case in printed.values()), printed
    assert printed["a step"]["loss"] < 1e-6


def test_keys_and_values_are_gathered_and_no_stream(printed: dict[str, dict[str, Any]]) -> None:
    """108 tokens are 112 on eight devices; q, the stream and the hidden layer of 120 stay where they are."""
    large = [count for count in printed["text"]["gathered"] if count > 3 * WIDTH * WIDTH]  # no kernel of the blocks
    assert not printed["text"]["whole"]  # [4, 108, 48], also where it begins
    assert large == [RECORDS * 112 * 16, *[RECORDS * 112 * WIDTH] * 2]  # the prediction, keys and values


def test_records_stay_where_they_are_though_their_tokens_come_in_pieces(printed: dict[str, dict[str, Any]]) -> None:
    assert printed["pieces"]["gathered"] == []
