"""Weight files: where the number of heads comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensors import write_safetensors
from flexidit_jax.convert.files import read_state_dict


def test_heads_from_the_metadata_then_from_the_config(tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    write_safetensors(path, {"a": np.ones(2)})
    assert read_state_dict(path)[1] is None
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 3}))
    assert read_state_dict(path)[1] == 3
    write_safetensors(path, {"a": np.ones(2)}, {"num_heads": "6"})
    assert read_state_dict(path)[1] == 6


def test_heads_that_are_no_number(tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    write_safetensors(path, {"a": np.ones(2)}, {"num_heads": "many"})
    with pytest.raises(UserError, match=r"says num_heads='many', which is not a number$"):
        read_state_dict(path)


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    write_safetensors(path, {"a": np.ones(2)})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        read_state_dict(path)
