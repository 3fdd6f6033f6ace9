"""Which process a model is for: recorded, asked for, or guessed at by a name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.convert.which_process import SIT
from flexidit_jax.diffusion import flow, gaussian, sit
from flexidit_jax.main import main

GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"
CONVERT = f"--config={Path(__file__).parents[2] / 'configs' / 'convert.py'}"


@pytest.fixture(scope="module")
def diffusers(dit: fd.FlexiDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers") / "dit"
    dit.export(folder)
    return folder


@pytest.mark.parametrize(
    ("asked", "process"),
    [
        (None, gaussian.Process()),
        ("gaussian", gaussian.Process()),
        ({"name": "gaussian", "steps": 500}, gaussian.Process(500)),
        ("sit", sit.Process()),
        ({"name": "flow", "shift": 3.0}, flow.Process(shift=3.0)),
    ],
)
def test_weights_by_themselves_are_for_what_is_asked(diffusers: Path, asked: Any, process: Any) -> None:
    assert fd.load(GOLDEN, process=asked).process == process
    assert fd.load(diffusers, process=asked).process == process


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("sitt", r"^no 'sitt' in diffusion/; did you mean 'sit'\?$"),
        ({"name": "sit", "steps": 1000}, r"^process\.steps is a key of flow and gaussian, not of sit; leave it out$"),
        ({"shift": 3.0}, r"^config key 'process\.name' is missing$"),
        (5, r"^process must be a name such as \"sit\", or a section with a name, got 5$"),
        (["sit"], r"^process must be a name such as \"sit\", or a section with a name, got \['sit'\]$"),
    ],
)
def test_what_is_no_process_is_refused_before_anything_is_read(tmp_path: Path, asked: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fd.load(tmp_path / "absent.pt", process=asked)


def test_what_is_recorded_holds(tmp_path: Path) -> None:
    shifted = fd.load(GOLDEN, process={"name": "flow", "shift": 3.0})
    shifted.save(tmp_path)
    for agreeing in (None, "flow", {"name": "flow", "shift": 3.0}):  # what is not said is what was recorded
        assert fd.load(tmp_path, process=agreeing).process == flow.Process(shift=3.0)
    here = "{'name': 'flow', 'steps': 1000, 'shift': 3.0}"
    for other, there in (
        ("sit", "{'name': 'sit', 'shift': 1.0}"),
        ({"name": "flow", "shift": 1.0}, "{'name': 'flow', 'steps': 1000, 'shift': 1.0}"),
    ):
        with pytest.raises(UserError) as caught:
            fd.load(tmp_path, process=other)
        assert str(caught.value) == (
            f"{tmp_path} records the process {here}, but {there} is asked for; the one recorded would do"
        )


# ---------------------------------------------------------------- Names


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("SiT-XL-2-256.pt", True),
        ("sit_base.safetensors", True),
        ("my.SIT", True),
        ("SiT2", True),
        ("visit", False),
        ("situation", False),
        ("transit-XL.pt", False),
        ("DiT-XL-2.pt", False),
    ],
)
def test_names(name: str, is_one: bool) -> None:
    assert bool(SIT.search(name)) == is_one


def test_such_a_name_is_noted_once(
    diffusers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, within, folder = tmp_path / "SiT-XL-2-256.safetensors", tmp_path / "my_sit" / "ema.safetensors", "sit-b"
    within.parent.mkdir()
    for file in (beside, within, tmp_path / "visit.safetensors"):
        shutil.copyfile(GOLDEN, file)
    shutil.copytree(diffusers, tmp_path / folder)
    monkeypatch.chdir(tmp_path / "my_sit")  # a folder counts that the path does not show
    for named in (beside, within, tmp_path / folder, Path("ema.safetensors")):
        fd.load(named, process="sit")
        assert capsys.readouterr().err == ""
        fd.load(named)
        fd.load(named)
        assert capsys.readouterr().err == (
            f"note: {named} is named like a SiT, which its tensors do not tell, and is read for the gaussian process;"
            ' if it is one, say process="sit" (in a config, config.process = {"name": "sit"})\n'
        )
    assert (
        fd.load(shutil.copyfile(GOLDEN, tmp_path / "sit.safetensors"), process="gaussian").process == gaussian.Process()
    )
    assert "sit.safetensors is named like a SiT" in capsys.readouterr().err  # a config always says one
    fd.load(tmp_path / "visit.safetensors")
    fd.load(beside, process="sit").save(tmp_path / "SiT")
    fd.load(tmp_path / "SiT")  # a saved model records what it is
    assert capsys.readouterr().err == ""


def test_a_base_lends_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "SiT-base.safetensors"
    shutil.copyfile(GOLDEN, base)
    fd.load(base, process="sit").flexify((2, 4), adapters=2).save(tmp_path / "adapters", adapters_only=True)
    assert fd.load(tmp_path / "adapters", base=base).process == sit.Process()
    assert capsys.readouterr().err == ""


def test_convert_records_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--mode=convert", CONVERT, f"--config.convert.source={GOLDEN}", "--config.convert.layout=flexidit_jax"]
    assert main([*words, f"--config.convert.target={tmp_path / 'to'}", "--config.convert.process=sit"]) == 0
    assert fd.load(tmp_path / "to").process == sit.Process()
    capsys.readouterr()
    assert main([*words, f"--config.convert.target={tmp_path / 'no'}", "--config.convert.process=sid"]) == 2
    assert capsys.readouterr().err == "error: no 'sid' in diffusion/; did you mean 'sit'?\n"
    assert not (tmp_path / "no").exists()
