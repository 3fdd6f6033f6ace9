"""Where weights are looked for, what is refused without being run, what a name promises."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.common.weights import Network
from flexidit_jax.metrics.features import weights

PUBLISHED = weights.Published(
    "tiny",
    [Network("Tiny", "old.weight", ("old",)), Network("Tiny", "first.weight", ("first",), unread=r"\.count$")],
    files=("tiny.safetensors", "tiny-0123abcd.safetensors"),
    fetch="tiny-0123abcd.safetensors into {path}",
    instead="tiny-0123abcd.safetensors",
)
STATE = {"first.weight": np.ones((2, 3), np.float32), "first.count": np.arange(3)}


def test_a_file_or_the_folder_that_holds_it(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tiny-0123abcd.safetensors", "tiny.safetensors"):  # from the least preferred
        write_safetensors(tmp_path / name, STATE)
        assert weights.read(tmp_path, PUBLISHED).file == tmp_path / name
        assert weights.read(str(tmp_path / name), PUBLISHED).file == tmp_path / name
    assert weights.read(tmp_path, PUBLISHED).state.keys() == {"first.weight"}  # the count is of whole numbers


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no", tmp_path / "tiny.pb"):
        folder = path.parent if path.suffix else path
        with pytest.raises(UserError) as caught:
            weights.read(path, PUBLISHED)
        assert str(caught.value) == (
            f"the weights of tiny are not at {path}; put tiny-0123abcd.safetensors into {folder},"
            " or set path to where they are"
        )


def test_a_name_with_the_hash_of_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny-0123abcd.safetensors"
    write_safetensors(file, STATE)
    sha256 = weights.read(file, PUBLISHED).sha256
    assert capsys.readouterr().err == (
        f"note: {file} is named for a SHA-256 of 0123abcd.. and has {sha256[:8]}..; it is another file, or damaged\n"
    )
    file = file.rename(tmp_path / f"tiny-{sha256[:8]}.safetensors")
    weights.read(file, PUBLISHED)
    assert capsys.readouterr().err == ""


def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    pickled, script = tmp_path / "img512.pkl", tmp_path / "inception-2015-12-05.pt"
    pickled.write_bytes(pickle.dumps({"mu": 1}))
    with zipfile.ZipFile(script, "w") as archive:
        for name in ("inception/code/__torch__.py", "inception/constants.pkl", "inception/data.pkl"):
            archive.writestr(name, b"")
    for file, kind in ((pickled, "a pickle"), (script, "a TorchScript program")):
        with pytest.raises(UserError) as caught:
            weights.read(file, PUBLISHED)
        assert str(caught.value) == (f"{file} is {kind}, which is code and is not run; take tiny-0123abcd.safetensors")


def test_written_weights_say_where_they_come_from(tmp_path: Path) -> None:
    source, once, twice = (tmp_path / name for name in ("s.safetensors", "1.safetensors", "2.safetensors"))
    write_safetensors(source, STATE, {"config": '{"heads": 3}'})
    read = weights.read(source, PUBLISHED)
    weights.write(once, read, dict)
    again = weights.read(once, PUBLISHED)
    assert again.source_sha256 == read.source_sha256 == read.sha256 != again.sha256
    assert again.config == read.config == {"heads": 3}
    weights.write(twice, again, dict)
    assert weights.read(twice, PUBLISHED).source_sha256 == read.sha256
    before = once.read_bytes()
    with pytest.raises(UserError) as caught:
        weights.write(once, again, dict)
    assert str(caught.value) == f"{once} is there; overwrite=True replaces it, or name another place"
    assert once.read_bytes() == before
    weights.write(once, again, dict, overwrite=True)
    with pytest.raises(UserError, match=r"are written as one \.safetensors file, not as .*w\.pth$"):
        weights.write(tmp_path / "w.pth", again, dict)
    with pytest.raises(UserError, match=r"^cannot write to "):
        weights.write(source / "below" / "w.safetensors", again, dict)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "t.safetensors", STATE, {"config": "{"})
    with pytest.raises(UserError, match=r"^the metadata of .*t\.safetensors hold a config that is no JSON$"):
        weights.read(tmp_path / "t.safetensors", PUBLISHED)
