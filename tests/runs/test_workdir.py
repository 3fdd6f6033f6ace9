"""What may change between two starts of one run, where it may write, and that there is one at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flexidit_jax.common.cluster import messages
from flexidit_jax.common.config import load_config, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.digits import Dataset
from flexidit_jax.main import main
from flexidit_jax.runs import workdir
from flexidit_jax.runs.binding import check_images
from flexidit_jax.runs.checkpoints import Checkpoints
from flexidit_jax.runs.workdir import claimed, out_folder, record

FILE = f"{Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"
CONFIG = f"--config={FILE}"


def test_the_machine_may_change_and_the_mathematics_may_not(tmp_path: Path) -> None:
    config = plain(load_config(FILE))
    machine = {"accumulate": 4, "mesh": {"data": 1, "fsdp": -1, "tensor": 1}}
    elsewhere = {**config, "train": {**config["train"], **machine}, "model": {**config["model"], "remat": "full"}}
    for allowed in (config, elsewhere):
        with claimed(tmp_path, allowed):
            record(tmp_path, allowed)
        assert json.loads((tmp_path / "config.json").read_text()) == allowed
    others = [
        (section, key, {**config, section: {**config[section], key: value}})
        for section, key, value in (("train", "batch", 32), ("model", "dtype", "bfloat16"))
    ]
    for *_, other in others:
        with claimed(tmp_path, other):  # nothing is saved that would not fit it
            pass
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    for section, key, other in others:
        with (
            pytest.raises(UserError, match=rf"another config: {section}\.{key} is .* there, .* here"),
            claimed(tmp_path, other),
        ):
            pass
    (tmp_path / "config.json").unlink()  # as where the checkpoints alone were copied
    with claimed(tmp_path, config):
        pass


def test_the_look_for_a_shared_folder_leaves_nothing_nor_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".0123456789abcdef", ".flexidit_jax-notes", ".flexidit_jax-0123456789abcdef"):
        (tmp_path / name).touch()
    monkeypatch.setattr(workdir.cluster, "several", lambda: True)
    for module in (workdir, messages):
        monkeypatch.setattr(module, "gathered", lambda what, told, patience=0: [told])
    with claimed(tmp_path, {}):
        assert {path.name for path in tmp_path.iterdir()} == {".0123456789abcdef", ".flexidit_jax-notes"}


def test_images_may_not_change_and_runs_without_their_hash_go_on(tmp_path: Path) -> None:
    for recorded, images in (("ab", "ab"), (None, "ab"), ("ab", None), (None, None)):
        check_images(tmp_path, recorded, images)
    with pytest.raises(UserError, match=rf"^--workdir={tmp_path} was trained on images of other names or captions"):
        check_images(tmp_path, "ab", "cd")


@pytest.mark.parametrize("why", ["other images", "no room"])
def test_a_start_that_is_refused_rewrites_nothing(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "12")
    meta = Checkpoints.meta
    if why == "other images":
        monkeypatch.setattr(Dataset, "fingerprint", lambda self: "cd", raising=False)
        monkeypatch.setattr(Checkpoints, "meta", lambda self, number: meta(self, number) | {"images": "ab"})
    else:
        monkeypatch.setattr("flexidit_jax.runs.disk._free", lambda folder: 0)
    before = contents(run)
    assert main([CONFIG, f"--workdir={run}", "--config.train.log_every=3", "--config.sample.seed=7"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    said = {"other images": f"--workdir={run} was trained on images of other", "no room": "no room for a single check"}
    assert error.startswith(f"error: {said[why]}")
    assert contents(run) == before


def test_where_to_write_is_said_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert out_folder(None, tmp_path / "default") == tmp_path / "default"
    assert out_folder(f"{tmp_path}/a/b", Path("default")) == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"^--out is empty; name a folder, or leave it out$"):
        out_folder("", Path("run/default"))

    def refused(dir: Path) -> None:  # as /proc does, to which root may write
        raise FileNotFoundError(2, "No such file or directory", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(UserError) as error:
        out_folder(f"{tmp_path}/a", Path("default"))
    assert (
        str(error.value) == f"cannot write to {tmp_path}/a ({tmp_path}: No such file or directory); name another --out"
    )


def test_one_training_at_a_time_and_readers_beside_it(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    (run / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir()  # the save under way
    with claimed(run, plain(load_config(FILE))):
        before = contents(run)
        assert main([CONFIG, f"--workdir={run}"]) == 2
        assert capsys.readouterr().err == (
            f"error: another process is at work in {run}; wait for its end, or name another --workdir\n"
        )
        assert contents(run) == before
        for mode in ("sample", "evaluate"):
            assert main([CONFIG, f"--workdir={run}", f"--mode={mode}"]) == 0
    with claimed(run, plain(load_config(FILE))):
        pass


#: trains until it is killed
HOLDING = """
import sys
from pathlib import Path
from flexidit_jax.runs.workdir import claimed
with claimed(Path(sys.argv[1]), {"seed": 1}):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_kill_lets_go(tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], **pipes) as child:
        assert child.stdout.readline() == b"claimed\n"
        with pytest.raises(UserError, match="another process is at work"), claimed(tmp_path, {"seed": 1}):
            pass
        child.kill()
        child.wait()
    with claimed(tmp_path, {"seed": 1}):
        pass


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """When everything there was written, and how long it is."""
    stats = {str(path): path.stat() for path in (folder, *folder.rglob("*"))}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}
