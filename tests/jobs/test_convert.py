"""`--mode=convert` of an extractor's weights: one file, known by where it comes from; what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.main import main
from flexidit_jax.metrics.features.clip import Features

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "golden" / "clip_tiny.safetensors"
COMMAND = ["--mode=convert", f"--config={ROOT / 'configs' / 'convert.py'}"]


def run(*words: str) -> int:
    return main([*COMMAND, *(f"--config.convert.{word}" for word in words)])


def test_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "weights" / "clip.safetensors"
    words = "features=clip", f"source={FILE}", f"target={target}", "num_heads=3"
    assert run(*words) == 0
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert capsys.readouterr().out == f"read: {FILE}: SHA-256 {sha256}\nwritten: {target}\n"
    tensors, metadata = read_safetensors(target)
    assert metadata == {"source": FILE.name, "source_sha256": sha256, "format": "pt"}
    there, _ = read_safetensors(FILE)
    assert tensors.keys() == there.keys()
    assert all(np.array_equal(tensors[name], there[name]) for name in there)
    assert Features(str(target), num_heads=3).protocol["weights_sha256"] == sha256
    assert run(*words) == 2
    assert capsys.readouterr().err == f"error: {target} is there; overwrite=True replaces it, or name another place\n"
    assert run(*words, "overwrite=True") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features=clop", "source=x"], "no 'clop' in features/; did you mean 'clip'?"),
        (["features=clip"], "convert.source is not set; name the file to read"),
        (["features=clip", f"source={FILE}"], "convert.target is not set; name the file to write"),
        (
            ["features=mlp_classifier"],
            "convert.features=mlp_classifier is fitted on data, and has no weights to convert",
        ),
        (["features=clip", "patch=2"], "convert.patch is for models, not for convert.features=clip; leave it out"),
        (
            ["features=inception", f"source={FILE}", "target=x.safetensors", "num_heads=3"],
            "convert.num_heads is a key of clip and dinov2, not of inception; leave it out",
        ),
        (
            ["features=clip", f"source={FILE}", "target=x.pt", "num_heads=3"],
            "the weights of an extractor are written as one .safetensors file, not as x.pt",
        ),
    ],
)
def test_bad_words(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert capsys.readouterr().err.removeprefix("error: ").startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("typed", "modes"), [("2,4", ((1, 2, 2), (1, 4, 4))), ("1x2x2,1x4x8", ((1, 2, 2), (1, 4, 8)))])
def test_patches_as_they_are_typed(tmp_path: Path, typed: str, modes: tuple[Any, ...]) -> None:
    words = f"source={FILE.with_name('dit_tiny.safetensors')}", f"target={tmp_path / 'flex'}", "layout=flexidit_jax"
    assert run(*words, f"patches={typed}") == 0
    assert fd.load(tmp_path / "flex").patches == modes
