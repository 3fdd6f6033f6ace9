"""Weight files: what is read, what is refused in one line, what is left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.convert.weight_files import read_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "b": np.arange(5),
        "half": rng.normal(size=(2, 2)).astype(np.float16),
        "scalar": np.float32(2.5).reshape(()),
    }


def test_written_tensors_are_read_back(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    tensors["transposed"] = tensors["a.weight"].T  # not contiguous
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)
    back, metadata = read_safetensors(path)
    assert metadata == {}
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array, err_msg=name, strict=True)


def test_writing_leaves_nothing_beside(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"old": np.zeros(3)})
    write_safetensors(path, tensors)  # replaces
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert read_safetensors(path)[0].keys() == tensors.keys()


def test_a_failed_write_keeps_the_file_that_was_there(
    tmp_path: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)

    def half(tensors: dict[str, np.ndarray], target: Path, metadata: object) -> None:
        Path(target).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr("flexidit_jax.common.tensor_files.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, {"new": np.zeros(3)})
    assert read_safetensors(path)[0].keys() == tensors.keys()


def test_heads_come_from_the_metadata(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    assert read_state_dict(GOLDEN)[1] == {"num_heads": 4}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, {"num_heads": "6"})
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 3, "input_size": 16}))
    assert read_state_dict(path)[1] == {"num_heads": 6, "input_size": 16}  # before the config beside it


def test_heads_come_from_the_config_beside(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)
    assert read_state_dict(path)[1] == {}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_heads": 3}))
    assert read_state_dict(path)[1] == {"num_heads": 3}
    config.write_text(json.dumps({"hidden_size": 3}))
    assert read_state_dict(path)[1] == {}
    config.write_text("[1, 2]")
    assert read_state_dict(path)[1] == {}
    config.write_text("{")
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert str(caught.value).startswith(f"{config} is not valid JSON (")


def test_heads_that_nothing_tells_come_from_the_argument(tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    write_safetensors(bare, read_safetensors(GOLDEN)[0])
    with pytest.raises(UserError, match="width 64 is not a published one"):
        fd.load(bare)
    assert fd.load(bare, num_heads=2).model.num_heads == 2
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 8}))
    assert fd.load(bare).model.num_heads == fd.load(bare, num_heads=8).model.num_heads == 8


def test_heads_that_contradict_are_refused(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.save(tmp_path / "saved")
    dit.export(tmp_path / "diffusers")
    assert fd.load(GOLDEN, num_heads=4).model.num_heads == 4
    for path in (GOLDEN, tmp_path / "saved", tmp_path / "diffusers"):
        with pytest.raises(UserError) as caught:
            fd.load(path, num_heads=2)
        assert str(caught.value) == f"{path} is a model of 4 heads, but num_heads=2; leave that out"


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(GOLDEN.read_bytes()[:kept])
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a readable safetensors file (")
    assert message.endswith("); is the download complete?")
    assert "\n" not in message


def test_metadata_that_is_no_number_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, {"num_heads": "many"})
    with pytest.raises(UserError, match="says num_heads='many', which is not a positive whole number"):
        read_state_dict(path)
    write_safetensors(path, tensors)
    for bad in (0, -1, 2.5, True, [4]):
        (tmp_path / "config.json").write_text(json.dumps({"input_size": bad}))
        with pytest.raises(UserError, match=r"config\.json says input_size=.* not a positive whole number"):
            read_state_dict(path)


@pytest.mark.parametrize("name", ["DiT-XL-2.pt", "weights.pth"])
def test_a_torch_file_without_torch(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_state_dict(tmp_path / name)
    assert str(caught.value) == (f"{name} needs torch (pip install -e '.[convert]'); a .safetensors file does not")
