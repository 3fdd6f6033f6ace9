"""A model is written over another one where that is asked for, and over itself at any time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import flexidit_jax as fd
from flexidit_jax.main import main

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bent(dit: fd.FlexiDiT) -> fd.FlexiDiT:
    """The golden DiT but for the table of classes."""
    trunk = dit.params["trunk"]
    table = trunk["conditioner"]["table"]
    return replace(dit, params={**dit.params, "trunk": {**trunk, "conditioner": {"table": table + 1}}})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("saved", "saved/model.safetensors"),
        ("model.safetensors", "model.safetensors"),
        ("diffusers", "diffusers/diffusion_pytorch_model.safetensors"),
        ("model.pt", "model.pt"),
    ],
)
def test_other_weights(dit: fd.FlexiDiT, bent: fd.FlexiDiT, tmp_path: Path, name: str, file: str) -> None:
    if name == "model.pt":
        pytest.importorskip("torch")
    write, other = (flex.save if name == "saved" else flex.export for flex in (dit, bent))
    write(tmp_path / name)
    write(tmp_path / name)  # itself
    before = contents(tmp_path)
    with pytest.raises(fd.UserError) as caught:
        other(tmp_path / name)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / file} is of another model (other values of ")
    assert line.endswith("); overwrite=True replaces it, or name another place")
    assert contents(tmp_path) == before
    other(tmp_path / name, overwrite=True)
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path) != before


def test_another_model_names_what_differs(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.flexify((2, 4)).save(tmp_path)
    with pytest.raises(fd.UserError) as caught:
        dit.save(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/config.json is of another model (patches is [[1, 2, 2], [1, 4, 4]] there, [[1, 2, 2]] here);"
        " overwrite=True replaces it, or name another place"
    )


def test_other_heads_are_another_model(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "a.safetensors")
    with pytest.raises(fd.UserError, match=r"\(num_heads is 4 there, 8 here\)"):
        replace(dit, model=dit.model.clone(num_heads=8)).export(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [("a thesis", "is there and describes no model"), ("[1]", "is of another model (format is missing there")],
)
def test_a_config_of_something_else(dit: fd.FlexiDiT, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(fd.UserError) as caught:
        dit.save(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.json {says}")
    assert (tmp_path / "config.json").read_text() == content


def test_a_file_that_holds_no_weights(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a thesis")
    for write in (dit.save, lambda path: dit.export(path / "model.safetensors")):
        with pytest.raises(fd.UserError, match=r"model\.safetensors is there and holds no weights; overwrite=True"):
            write(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_other_files_in_the_folder_are_no_matter(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    dit.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["patches"] == [[1, 2, 2]]


def test_the_job_takes_it_too(
    dit: fd.FlexiDiT, bent: fd.FlexiDiT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bent.export(tmp_path / "there.safetensors")
    dit.export(tmp_path / "new.safetensors")
    words = {"source": tmp_path / "new.safetensors", "target": tmp_path / "there.safetensors"}
    argv = [f"--config={ROOT / 'configs' / 'convert.py'}", "--mode=convert"]
    argv += [f"--config.convert.{key}={value}" for key, value in words.items()]
    assert main(argv) == 2
    assert "is of another model" in capsys.readouterr().err
    assert main([*argv, "--config.convert.overwrite=True"]) == 0
