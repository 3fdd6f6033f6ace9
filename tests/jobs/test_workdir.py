"""Which keys may change between two starts of one run, and that its images may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.common.config import load_config, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.jobs.parts.workdir import check_images, claim

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
