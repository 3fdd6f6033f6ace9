"""Latents of samples as a file: read as they were written, by the codec that they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.runs.latents_file import FILE, read_latents, write_latents

LATENTS = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)


def test_there_and_back(tmp_path: Path) -> None:
    write_latents(tmp_path / "new", LATENTS, "0123")
    for path in (tmp_path / "new", tmp_path / "new" / FILE):
        np.testing.assert_array_equal(read_latents(path, "0123"), LATENTS)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^no latents in {tmp_path}; --mode=sample of clips writes {FILE} into"):
        read_latents(tmp_path, "0123")
    write_latents(tmp_path, LATENTS, "0123")
    with pytest.raises(UserError, match=r"of another codec: its weights are 0123 there, 4567 here; set codec\.path to"):
        read_latents(tmp_path, "4567")
    for tensors, words in (
        ({"x": LATENTS}, {"codec": "0123"}),
        ({"latents": LATENTS}, None),
        ({"latents": LATENTS[0]}, {"codec": "0123"}),
    ):
        write_safetensors(tmp_path / FILE, tensors, words)
        with pytest.raises(UserError, match=r"holds no latents of samples, which --mode=sample of clips writes$"):
            read_latents(tmp_path, "0123")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"^cannot write to .*file"):
        write_latents(tmp_path / "file", LATENTS, "0123")
