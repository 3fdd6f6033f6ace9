"""Every way a step folder can differ from what was written is seen and named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flexidit_jax.runs.checksums import CHECKSUMS, problem, record, recorded

FILES = {"ema/d/weights": b"e" * 300, "ema/manifest": b"", "params/d/weights": b"p" * 300}


@pytest.fixture
def step(tmp_path: Path) -> Path:
    step = tmp_path / "12"
    meta = json.dumps({"stage": 0, "checksums": CHECKSUMS}).encode()
    for name, content in {**FILES, "meta/metadata": meta, "stamp": b"orbax's own"}.items():
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        (step / name).write_bytes(content)
    record(step)
    return step


def test_a_step_as_it_was_written(step: Path) -> None:
    assert recorded(step)
    assert problem(step) is None
    files = json.loads((step / CHECKSUMS).read_text())["files"]
    assert sorted(files) == sorted([*FILES, "meta/metadata"])
    for name, content in FILES.items():
        assert files[name] == [len(content), hashlib.sha256(content).hexdigest()]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 4  # one bit
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda step: flip(step / "ema/d/weights"), "ema/d/weights is not what was written"),
        (lambda step: (step / "ema/d/weights").write_bytes(b"e" * 299), "ema/d/weights has 299 of 300 bytes"),
        (lambda step: (step / "ema/d/weights").write_bytes(b""), "ema/d/weights has 0 of 300 bytes"),
        (lambda step: (step / "ema/manifest").unlink(), "ema/manifest is missing"),
        (lambda step: shutil.rmtree(step / "params"), "params/d/weights is missing"),
        (lambda step: flip(step / "params/d/weights"), "params/d/weights is not what was written"),
        (lambda step: (step / CHECKSUMS).unlink(), f"{CHECKSUMS} is missing"),
        (lambda step: (step / CHECKSUMS).write_text('{"files": {"ema'), f"{CHECKSUMS} cannot be read"),
        (lambda step: (step / CHECKSUMS).write_text("[]"), f"{CHECKSUMS} cannot be read"),
        (lambda step: (step / CHECKSUMS).write_bytes(b"\xff\xfe"), f"{CHECKSUMS} cannot be read"),
    ],
)
def test_damage_is_named(step: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(step)
    assert problem(step) == reason


@pytest.mark.parametrize("copied", ["nothing", "the weights", "meta begun"])
def test_a_half_copied_folder(step: Path, tmp_path: Path, copied: str) -> None:
    half = tmp_path / "half" / "12"
    (half / "meta").mkdir(parents=True)
    if copied != "nothing":
        shutil.copytree(step / "ema", half / "ema")
    if copied == "meta begun":
        (half / "meta/metadata").write_text('{"sta')
    assert problem(half) == "meta/metadata is missing or cannot be read"


def test_a_reader_asks_only_for_what_it_reads(step: Path) -> None:
    flip(step / "params/d/weights")
    assert problem(step, ("ema", "meta")) is None
    assert problem(step, ("params",)) is not None


def test_a_step_of_an_earlier_version_has_nothing_to_compare(step: Path) -> None:
    (step / CHECKSUMS).unlink()
    (step / "meta/metadata").write_text('{"stage": 0}')
    assert not recorded(step)
    assert problem(step) is None
