"""Which keys may change between two starts of one run, that its images may not, and where it may write."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from flexidit_jax.common.config import load_config, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.jobs.parts.workdir import check_images, claim, out_folder

CONFIG = f"{Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"


def test_the_machine_may_change_and_the_mathematics_may_not(tmp_path: Path) -> None:
    config = plain(load_config(CONFIG))
    claim(tmp_path, config)
    machine = {"accumulate": 4, "mesh": {"data": 1, "fsdp": -1, "tensor": 1}}
    claim(tmp_path, {**config, "train": {**config["train"], **machine}, "model": {**config["model"], "remat": "full"}})
    for section, key, value in (("train", "batch", 32), ("model", "dtype", "bfloat16")):
        with pytest.raises(UserError, match=rf"another config: {section}\.{key} is .* there, .* here"):
            claim(tmp_path, {**config, section: {**config[section], key: value}})


def test_images_may_not_change_and_runs_without_their_hash_go_on(tmp_path: Path) -> None:
    for recorded, images in (("ab", "ab"), (None, "ab"), ("ab", None), (None, None)):
        check_images(tmp_path, recorded, images)
    with pytest.raises(UserError, match=rf"^--workdir={tmp_path} was trained on images of other names than"):
        check_images(tmp_path, "ab", "cd")


def test_where_to_write_is_said_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert out_folder(None, tmp_path / "default") == tmp_path / "default"
    assert out_folder(f"{tmp_path}/a/b", Path("default")) == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"^--out is empty; name a folder, or leave it out for run/default$"):
        out_folder("", Path("run/default"))

    def refused(dir: Path) -> None:  # as /proc does, to which root may write
        raise FileNotFoundError(2, "No such file or directory", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(UserError) as error:
        out_folder(f"{tmp_path}/a", Path("default"))
    assert (
        str(error.value) == f"cannot write to {tmp_path}/a ({tmp_path}: No such file or directory); name another --out"
    )
