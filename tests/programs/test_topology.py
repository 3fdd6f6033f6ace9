"""What `--topology` may name."""

from __future__ import annotations

import re

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.programs.topology import described


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100", "no TPU slice and no GPU 'h100'; did you mean 'gpu:h100'?"),
        ("cuda:a100", "no TPU slice and no GPU 'cuda:a100'; did you mean 'gpu:a100'?"),
        (
            "v9:2x2",
            "no TPU slice and no GPU 'v9:2x2'; known: v4:8x8x8, v5e:8x8, v5p:8x8x8, v6e:8x8, gpu:a100, gpu:a100x8,"
            " gpu:h100, gpu:h100x8, gpu:h200, gpu:h200x8 and other shapes",
        ),
        ("gpu:h1000", "no GPU 'gpu:h1000'; did you mean 'gpu:h100'?"),
        ("v5e:4x5x6", "no TPU slice 'v5e:4x5x6'; did you mean 'v5e:4x8' or 'v5e:4x4' or 'v5e:8x16'?"),
    ],
)
def test_nothing_of_that_name(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        described(name)


@pytest.mark.parametrize(("name", "maker"), [("gpu:h100", "gpu_target.gpus"), ("v5e:2x2", "slices.tpu_slice")])
def test_each_kind_has_its_maker(monkeypatch: pytest.MonkeyPatch, name: str, maker: str) -> None:
    monkeypatch.setattr(f"flexidit_jax.programs.{maker}", lambda name: f"made {name}")
    assert described(name) == f"made {name}"
