"""`--mode=generate`: many images, the same whatever happens on the way."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

import flexidit_jax as fd
from flexidit_jax.codecs.sd_vae import Codec
from flexidit_jax.common.trees import fingerprint
from flexidit_jax.evaluation.requests import labels_of
from flexidit_jax.jobs.generate import _going_on, _manifest
from flexidit_jax.main import main
from flexidit_jax.runs import shards as shards_module
from flexidit_jax.runs.image_shards import ImageShards

ROOT = Path(__file__).parents[2]
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
GOLDEN = ROOT / "tests" / "golden" / "dit_tiny.safetensors"  # latents of four channels
#: both kinds of guided step: one length, whose batch is doubled, and two
WORDS = {"steps": 4, "schedule": "4:2,2:2", "guide": "4:4", "guidance": 1.5, "seed": 3}
BATCH, NUM = 8, 22  # shards of 8, 8 and 6


def command(workdir: Path, out: Path, *more: str) -> list[str]:
    words = {**WORDS, "budget": None, "batch": BATCH}
    flags = [f"--config.sample.{key}={value}" for key, value in words.items()]
    return [SMOKE, f"--workdir={workdir}", "--mode=generate", f"--num={NUM}", f"--out={out}", *flags, *more]


Generate = Callable[..., int]


@pytest.fixture(scope="module")
def generate(smoke_run: Path) -> Generate:
    return lambda out, *more: main(command(smoke_run, out, *more))


@pytest.fixture(scope="module")
def unbroken(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder. Do not write into it."""
    out = tmp_path_factory.mktemp("generated") / "unbroken"
    assert generate(out) == 0
    return out


@pytest.fixture
def broken(unbroken: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(unbroken, tmp_path / "copy")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shard(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:06d}.npy"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("generating:")]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("error: ")


# ---------------------------------------------------------------- What is left behind


def test_images_are_those_of_sample(unbroken: Path, smoke_run: Path) -> None:
    assert set(files(unbroken)) == {"manifest.json", "samples.npz", *(f"shards/00000{i}.npy" for i in range(3))}
    arrays = np.load(unbroken / "samples.npz")
    images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.dtype, images.shape, labels.shape) == (np.uint8, (NUM, 8, 8, 1), (NUM,))
    np.testing.assert_array_equal(labels, labels_of("uniform", 3, np.arange(NUM), 10))
    flex = fd.load(smoke_run)
    for i in range(3):
        of_shard = np.load(shard(unbroken, i))
        np.testing.assert_array_equal(of_shard, images[8 * i : 8 * i + 8])
        asked = labels_of("uniform", 3, np.arange(8 * i, 8 * i + 8), 10)
        drawn = flex.sample(asked, first=8 * i, progress=False, **WORDS)
        np.testing.assert_array_equal(of_shard, drawn[: len(of_shard)])
    assert len(np.unique(images.reshape(NUM, -1), axis=0)) == NUM


def test_the_manifest_holds_every_word(unbroken: Path) -> None:
    manifest = json.loads((unbroken / "manifest.json").read_text())
    assert (manifest["num"], manifest["shard"], manifest["image"]) == (NUM, BATCH, [8, 8, 1])
    assert manifest["labels"] == "uniform"
    assert manifest["plan"] == "4:2,2:2; guide: 4:4"
    assert WORDS.items() <= manifest["sample"].items()
    assert not {"labels", "batch", "self"} & set(manifest["sample"])
    assert len(manifest["weights"]) == 16
    assert manifest["process"]["steps"] == 1000


def test_again_makes_nothing(
    generate: Generate, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(broken)
    for part in ("write", "join"):
        monkeypatch.setattr(ImageShards, part, None)
    assert generate(broken) == 0
    assert files(broken) == before
    assert f"written: {broken}/samples.npz, 22 images and their classes" in capsys.readouterr().out


def test_cost_is_said(generate: Generate, broken: Path, smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard(broken, 1).unlink()
    assert generate(broken) == 0
    out, err = capsys.readouterr()
    cost = fd.load(smoke_run).flops(**{key: value for key, value in WORDS.items() if key != "seed"})
    assert f"{broken}: resuming, 14 of 22 images are there\n" in out
    assert f"FLOPs: {cost.total / 1e9:.3f} G per sample, {cost.shares}\n" in out
    assert re.search(r"^seconds: \d+\.\d for 8 samples on 1 device\(s\)", out, re.MULTILINE)
    assert re.search(r"^generating: 22/22 \(100 %\), \d+\.\d images/s, \S+ TFLOP/s, took \d+:\d\d$", err, re.MULTILINE)


def test_a_latency_is_planned_once(
    generate: Generate, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fickle(latency_ms: float, engine: object, table: object, batch: int, *_: object) -> Callable:
        asked.append(batch)
        return lambda make: make(len(asked))  # another plan every time

    monkeypatch.setattr("flexidit_jax.sampling.sampler.chooser", fickle)
    words = ["schedule=None", "guide=4:4", "latency_ms=5.0", "batch=64"]
    assert generate(tmp_path / "out", "--config.generate.shard=8", *(f"--config.sample.{word}" for word in words)) == 0
    assert asked == [BATCH]  # what a call runs is no larger than a shard
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["plan"], manifest["sample"]["latency_ms"]) == ("4:1,2:3; guide: 4:4", 5.0)
    images, labels = np.load(tmp_path / "out" / "samples.npz").values()
    drawn = fd.load(smoke_run).sample(labels, progress=False, batch=BATCH, **{**WORDS, "schedule": "4:1,2:3"})
    np.testing.assert_array_equal(images, drawn)


def test_images_have_the_shape_of_the_models(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = [f"--config.init_from={GOLDEN}", "--num=2", "--config.sample.schedule=2:4", "--config.sample.guide=None"]
    assert main(command(tmp_path / "none", out, *flags, "--config.sample.guidance=1.0")) == 0
    assert np.load(out / "samples.npz")["arr_0"].shape == (2, 8, 8, 4)


def test_the_manifest_knows_the_codecs_weights_wherever_they_are(
    dit: fd.FlexiDiT, vae_folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(vae_folder, tmp_path / "moved")
    [weights] = moved.glob("*.safetensors")

    def manifest(folder: Path, **words: object) -> dict:
        flex = dataclasses.replace(dit, codec=Codec(str(folder), **words))
        return _manifest(flex, "uniform", None, fd.SampleSpec(), flex.plan(steps=4))

    first = manifest(vae_folder)
    assert manifest(moved, slice=1) == first
    (moved / "config.json").write_text('{"norm_num_groups": 2}')  # which binds no scale
    assert manifest(moved) == first != manifest(moved, scale=0.5)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert manifest(moved) != first


def test_images_are_bound_by_the_dtype_they_were_decoded_in(
    vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        flags = [f"codec.path={vae_folder}", "codec.dtype=float32", f"init_from={GOLDEN}", "sample.batch=1", *words]
        flags += ["sample.steps=2", "sample.guidance=1.0"]
        config = f"--config={ROOT / 'configs' / 'imagenet256.py'}"
        place = [f"--workdir={tmp_path / 'run'}", "--mode=generate", "--num=2", f"--out={out}"]
        return main([config, *place, *(f"--config.{word}" for word in flags)])

    out = tmp_path / "out"
    assert run() == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["codec"].pop("decode_dtype") == "float32"
    (out / "manifest.json").write_text(json.dumps(manifest))  # as before there was the key
    shard(out, 1).unlink()
    capsys.readouterr()
    assert run("codec.decode_dtype=bfloat16") == 2
    refusal = f"{out} holds images made with other words: codec.decode_dtype is 'float32' there, 'bfloat16' here;"
    assert said(capsys) == f"{refusal} name another --out, or go back to that value"
    assert run() == 0  # decoded in the codec's own dtype then
    assert "resuming, 1 of 2 images are there" in capsys.readouterr().out
    assert run("codec.decode_dtype=float16") == 2
    assert said(capsys).startswith("codec.decode_dtype must be 'float32' or 'bfloat16', got 'float16'")


# ---------------------------------------------------------------- Whatever happens on the way


def foreign(path: Path) -> None:
    np.save(path, np.zeros((BATCH, 4, 16, 1), np.uint8))  # as many bytes


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


@pytest.mark.parametrize("damage", [Path.unlink, cut, longer, foreign, lambda path: path.write_bytes(b"")])
def test_what_is_missing_or_damaged_is_made_again(
    generate: Generate, unbroken: Path, broken: Path, damage: Callable[[Path], object]
) -> None:
    damage(shard(broken, 1))
    (broken / "samples.npz").unlink()
    (broken / "shards" / "000002.npy.tmp").write_bytes(b"left by a kill")
    kept = shard(broken, 0).stat().st_mtime_ns
    assert generate(broken) == 0
    assert files(broken) == files(unbroken)
    assert shard(broken, 0).stat().st_mtime_ns == kept


def one_fewer(path: Path) -> None:
    arrays = np.load(path)
    np.savez(path, arr_0=arrays["arr_0"][:-1], arr_1=arrays["arr_1"])


def no_classes(path: Path) -> None:
    np.savez(path, arr_0=np.load(path)["arr_0"])


@pytest.mark.parametrize("damage", [cut, one_fewer, no_classes])
def test_an_array_that_is_not_whole_is_written_again(
    generate: Generate, unbroken: Path, broken: Path, damage: Callable[[Path], object]
) -> None:
    damage(broken / "samples.npz")
    assert generate(broken) == 0
    assert files(broken) == files(unbroken)


def test_the_array_is_on_the_disk_before_its_name(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        names.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        names.append((target.name, self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    size = (broken / "samples.npz").stat().st_size
    words, labels = json.loads((broken / "manifest.json").read_text()), np.load(broken / "samples.npz")["arr_1"]
    ImageShards(broken, words).join(labels)
    assert names == [("fsync", size), ("samples.npz", size)]


def test_files_of_somebody_else_stay(generate: Generate, broken: Path) -> None:
    theirs = ["notes.tmp", "shards/notes.tmp", "shards/000003.npy.tmp"]  # there is no shard 3
    ours = ["manifest.json.tmp", "samples.npz.tmp", "shards/000002.npy.tmp"]
    for name in [*theirs, *ours]:
        (broken / name).write_text("years")
    assert generate(broken) == 0
    assert {name for name in files(broken) if name.endswith(".tmp")} == set(theirs)


def test_files_of_other_numbers_and_another_batch(generate: Generate, unbroken: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "a", "--config.generate.shard=12") == 0  # a call of 8 and one of 4 and padding
    arrays, reference = (np.load(folder / "samples.npz") for folder in (tmp_path / "a", unbroken))
    np.testing.assert_array_equal(arrays["arr_0"], reference["arr_0"])
    shard(tmp_path / "a", 0).unlink()
    assert generate(tmp_path / "a", "--config.sample.batch=3") == 0  # shards are as large as before
    again = np.load(tmp_path / "a" / "samples.npz")
    np.testing.assert_array_equal(again["arr_1"], reference["arr_1"])
    assert np.abs(again["arr_0"].astype(int) - reference["arr_0"]).max() <= 1


# ---------------------------------------------------------------- More images than there were


@pytest.fixture(scope="module")
def larger(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30, begun as such. Do not write into it."""
    out = tmp_path_factory.mktemp("generated") / "larger"
    assert generate(out, "--num=30") == 0
    return out


def test_more_images_are_added_to_those_that_are_there(
    generate: Generate, broken: Path, larger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [shard(broken, i).stat().st_mtime_ns for i in (0, 1)]
    assert generate(broken, "--num=30") == 0
    assert f"{broken}: resuming, 22 of 30 images are there\n" in capsys.readouterr().out
    assert files(broken) == files(larger)
    assert [shard(broken, i).stat().st_mtime_ns for i in (0, 1)] == kept
    assert generate(broken) == 2
    asked = f"{broken} was asked for 30 images, and --num=22 is fewer"
    assert said(capsys) == f"{asked}; go on with --num=30 or more, or name another --out"
    assert files(broken) == files(larger)


def test_images_that_are_there_are_copied_and_not_drawn_again(
    generate: Generate, broken: Path, larger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = bytearray(shard(broken, 2).read_bytes())
    mark[-1] ^= 1  # as another batch may have rounded the last pixel of image 21
    shard(broken, 2).write_bytes(mark)
    drawn, sample = [], fd.FlexiDiT.sample

    @functools.wraps(sample)
    def counted(self: fd.FlexiDiT, labels: np.ndarray, **words: object) -> np.ndarray:
        drawn.append((words["first"], len(labels)))
        return sample(self, labels, **words)

    monkeypatch.setattr(fd.FlexiDiT, "sample", counted)
    assert generate(broken, "--num=30", "--config.sample.batch=3") == 0
    assert drawn == [(19, 5), (24, 8)]  # from the batch on in which an image is missing
    images, reference = (np.load(folder / "samples.npz")["arr_0"] for folder in (broken, larger))
    assert shard(broken, 2).read_bytes()[: len(mark)][-6 * 64 :] == bytes(mark[-6 * 64 :])
    assert images[21, -1, -1, 0] == reference[21, -1, -1, 0] ^ 1
    np.testing.assert_array_equal(images[:21], reference[:21])
    assert np.abs(images[22:].astype(int) - reference[22:]).max() <= 1


class Killed(BaseException):
    """Nobody catches it."""


@pytest.mark.parametrize("moment", ["shard 2", "shard 3", "the array", "the manifest"])
def test_a_kill_while_images_are_added_leaves_those_of_before(
    generate: Generate, unbroken: Path, broken: Path, larger: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write, record, begun = ImageShards.write, ImageShards._record, []

    def written(self: ImageShards, number: int, images: np.ndarray) -> None:
        if moment == f"shard {number}":
            raise Killed
        write(self, number, images)

    def recorded(self: ImageShards, host: int) -> None:
        begun.append(host)
        if moment == "the manifest" and len(begun) == 2:
            raise Killed
        record(self, host)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ImageShards, "write", written)
        patch.setattr(ImageShards, "_record", recorded)
        if moment == "the array":
            patch.setattr(ImageShards, "join", killed)
        with pytest.raises(Killed):
            generate(broken, "--num=30")
    found, before = files(broken), files(unbroken)
    assert found["manifest.json"] == before["manifest.json"]
    for name in ("shards/000000.npy", "shards/000001.npy"):
        assert found[name] == before[name]
    np.testing.assert_array_equal(np.load(shard(broken, 2))[:6], np.load(shard(unbroken, 2)))
    if moment != "the manifest":
        assert found["samples.npz"] == before["samples.npz"]
    assert generate(broken) == 0  # the 22, which are whole
    assert files(broken)["samples.npz"] == before["samples.npz"]
    assert generate(broken, "--num=30") == 0
    assert files(broken) == files(larger)


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_after_the_shard(
    generate: Generate,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sign: signal.Signals,
    status: int,
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sample = fd.FlexiDiT.sample

    @functools.wraps(sample)  # a config's words are held against its signature
    def press(self: fd.FlexiDiT, *args: object, **words: object) -> np.ndarray:
        if words["first"] == 8:
            os.kill(os.getpid(), sign)
        return sample(self, *args, **words)

    monkeypatch.setattr(fd.FlexiDiT, "sample", press)
    assert generate(tmp_path / "out") == status
    printed = capsys.readouterr()
    assert "finishing this shard before stopping" in printed.err
    assert "stopped, 16 of 22 images are there; the same command goes on\n" in printed.out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    monkeypatch.undo()
    assert generate(tmp_path / "out") == 0
    assert files(tmp_path / "out") == files(unbroken)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_leaves_whole_shards(
    generate: Generate,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, write = tmp_path / "out", ImageShards.write

    def fills(self: ImageShards, number: int, images: np.ndarray) -> None:
        if number == 1:
            monkeypatch.setattr(os, "fsync", full)
        write(self, number, images)

    monkeypatch.setattr(ImageShards, "write", fills)
    assert generate(out) == 2
    message = f"cannot write to {out} (No space left on device); whole shards stay, and once that is mended the"
    assert said(capsys) == f"{message} same command goes on"
    assert set(files(out)) == {"manifest.json", "shards/000000.npy"}
    monkeypatch.undo()
    with monkeypatch.context() as patch:  # and in the middle of the last file
        patch.setattr(shards_module.shutil, "copyfileobj", full)
        assert generate(out) == 2
    assert said(capsys).startswith(f"cannot write to {out} (No space left on device)")
    assert set(files(out)) == {"manifest.json", *(f"shards/00000{i}.npy" for i in range(3))}
    assert generate(out) == 0
    assert files(out) == files(unbroken)


#: kills itself with half of shard 1 on the disk
KILLED = """
import os, signal, sys
from flexidit_jax.runs.image_shards import ImageShards
from flexidit_jax.main import main

write = ImageShards.write

def write_and_die(self, number, images):
    if number == 1:
        half = self.folder / "shards" / "000001.npy.tmp"
        half.write_bytes(images.tobytes()[: images.size // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, images)

ImageShards.write = write_and_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_kill_9_leaves_neither_a_hole_nor_a_duplicate(
    generate: Generate, unbroken: Path, smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *command(smoke_run, out)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert set(files(out)) == {"manifest.json", "shards/000000.npy", "shards/000001.npy.tmp"}
    assert generate(out) == 0
    assert "resuming, 8 of 22 images are there" in capsys.readouterr().out
    assert files(out) == files(unbroken)


#: 64 images on eight devices, eight on each; then what is missing of a folder begun on one
EIGHT = """
import sys
import jax
from flexidit_jax.main import main

assert jax.device_count() == 8
own, begun, *words = sys.argv[1:]
assert main([*words, f"--out={own}", "--num=64", "--config.sample.batch=64"]) == 0
assert main([*words, f"--out={begun}", "--config.sample.batch=5"]) == 0
"""


@pytest.mark.slow
def test_eight_devices_make_the_images_of_one(
    on_devices: Callable[..., str], unbroken: Path, broken: Path, smoke_run: Path, tmp_path: Path
) -> None:
    for number in (0, 2):
        shard(broken, number).unlink()
    words = [word for word in command(smoke_run, tmp_path) if not word.startswith("--out")]
    assert "for 64 samples on 8 device(s)" in on_devices(8, "-c", EIGHT, tmp_path / "own", broken, *words)
    reference = np.load(unbroken / "samples.npz")
    own, continued = (np.load(folder / "samples.npz") for folder in (tmp_path / "own", broken))
    assert len(own["arr_0"]) == 64
    for key in ("arr_0", "arr_1"):
        np.testing.assert_array_equal(own[key][:NUM], reference[key])  # eight images a device there and here
    np.testing.assert_array_equal(continued["arr_1"], reference["arr_1"])
    assert np.abs(continued["arr_0"].astype(int) - reference["arr_0"]).max() <= 1


# ---------------------------------------------------------------- Refusals


@pytest.mark.parametrize(
    ("word", "differs"),
    [
        ("--config.sample.seed=4", "sample.seed is 3 there, 4 here"),
        ("--config.sample.guidance=1.7", "sample.guidance is 1.5 there, 1.7 here"),
        ("--config.sample.negative=7", "sample.negative is None there, 7 here"),
        ("--config.sample.schedule=4:1,2:3", "plan is '4:2,2:2; guide: 4:4' there, '4:1,2:3; guide: 4:4' here"),
        ("--config.generate.labels=balanced", "labels is 'uniform' there, 'balanced' here"),
        ("--config.generate.shard=9", "shard is 8 there, 9 here"),
    ],
)
def test_other_words_are_refused(
    generate: Generate, broken: Path, capsys: pytest.CaptureFixture[str], word: str, differs: str
) -> None:
    before = files(broken)
    assert generate(broken, word) == 2
    message = f"{broken} holds images made with other words: {differs}; name another --out, or go back to that"
    assert said(capsys) == f"{message} value"
    assert generate(broken, word, "--num=30") == 2
    assert said(capsys) == f"{message} value"
    assert files(broken) == before


def test_words_that_an_older_manifest_leaves_out_mean_their_defaults(
    generate: Generate, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((broken / "manifest.json").read_text())
    del (
        manifest["sample"]["packing"],
        manifest["sample"]["negative"],
        manifest["process"]["steps"],
        manifest["model"]["mlp_ratio"],
    )
    (broken / "manifest.json").write_text(json.dumps(manifest))
    shard(broken, 1).unlink()
    assert generate(broken) == 0
    assert "resuming, 14 of 22 images are there" in capsys.readouterr().out
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert generate(broken, "--config.sample.packing=joined") == 2
    assert "sample.packing is 'separate' there, 'joined' here" in said(capsys)


def test_other_weights_are_refused(
    generate: Generate, broken: Path, smoke_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = next(path for path in (smoke_run / "checkpoints").iterdir() if path.name == "8")
    words = [f"--workdir={broken}/none", f"--config.init_from={older}"]
    assert generate(broken, *words) == 2
    assert re.search(r"other words: weights is '\w{16}' there, '\w{16}' here", said(capsys))


def test_a_disk_too_full_is_refused_before_anything_is_written(
    generate: Generate,
    broken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    free = SimpleNamespace(free=2 * NUM * 64 - 1)
    monkeypatch.setattr(shards_module.shutil, "disk_usage", lambda path: free)
    assert generate(tmp_path / "deep" / "out") == 2
    needs = (
        "needs 2.8 kB more for 22 images, as files and as one array, and 2.8 kB are free; make room, or name another"
    )
    assert said(capsys) == f"{tmp_path / 'deep' / 'out'} {needs} --out or a smaller --num"
    assert not (tmp_path / "deep").exists()
    shard(broken, 0).unlink()  # 8 images, and 22 of the array
    free.free = 30 * 64 - 1
    assert generate(broken) == 2
    assert "needs 1.9 kB more" in said(capsys)
    free.free = 30 * 64
    assert generate(broken) == 0
    free.free = 0  # nothing is missing, nothing is needed
    assert generate(broken) == 0


def test_numbers_and_folders_that_cannot_be(
    generate: Generate, broken: Path, smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for num in (0, -3):
        assert generate(tmp_path / "out", f"--num={num}") == 2
        assert said(capsys) == f"generate.num must be positive, got {num}"
    assert generate(tmp_path / "out", "--num=many") == 2
    assert said(capsys).startswith("argument --num: invalid int value: 'many'")
    assert generate(tmp_path / "out", "--config.generate.shard=0") == 2
    assert said(capsys) == "generate.shard must be positive, got 0"
    assert generate(tmp_path / "out", "--config.generate.labels=balance") == 2
    assert said(capsys) == "no generate.labels 'balance'; did you mean 'balanced'?"
    assert generate(tmp_path / "out", "--config.sample.negative=1,2") == 2
    assert said(capsys) == "negative must be one for all samples, got 2"
    assert main([SMOKE, f"--workdir={smoke_run}", "--mode=sample", "--num=3"]) == 2
    assert said(capsys) == "--num is for --mode=generate, not for --mode=sample"
    (tmp_path / "file").touch()
    assert generate(tmp_path / "file") == 2
    assert said(capsys) == f"cannot write to {tmp_path / 'file'}; name another --out"
    (broken / "manifest.json").write_text("{")
    assert generate(broken) == 2
    assert said(capsys).startswith(f"{broken / 'manifest.json'} cannot be read (")
    for size in ("0", "-8", "true"):
        (broken / "manifest.json").write_text(f'{{"shard": {size}}}')
        assert generate(broken) == 2
        assert said(capsys) == f"{broken / 'manifest.json'} is no manifest of images; name another --out"
    (broken / "manifest.json").unlink()
    assert generate(broken) == 2
    assert said(capsys) == f"{broken} holds images without a manifest.json; name another --out"
    assert not (tmp_path / "out").exists()


def test_one_process_at_a_time(generate: Generate, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = os.open(broken, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert generate(broken) == 2
        assert said(capsys) == f"another process is at work in {broken}; name another --out"
    finally:
        os.close(other)
    assert generate(broken) == 0


# ---------------------------------------------------------------- Images that are lost, a seed that is drawn


def test_a_shard_with_a_lost_image_is_tried_again(
    generate: Generate,
    unbroken: Path,
    smoke_run: Path,
    spoilt: Callable[..., fd.FlexiDiT],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, model = tmp_path / "out", fd.load(smoke_run)
    labels = labels_of("uniform", 3, np.arange(24), 10)
    lost = next(label for label in range(10) if {i // 8 for i in np.flatnonzero(labels == label)} == {1})
    numbers = np.flatnonzero(labels == lost).tolist()
    monkeypatch.setattr("flexidit_jax.jobs.generate.trained_model", lambda *words: spoilt(model, lost))
    monkeypatch.setattr("flexidit_jax.jobs.generate.fingerprint", lambda params: fingerprint(model.params))
    assert generate(out) == 1
    said = capsys.readouterr()
    named = ", ".join(f"number {number} after 1 of 4 steps" for number in numbers)
    assert f"images 8..15 are not written: {len(numbers)} of 8 samples became NaN or infinite: {named}; the" in said.out
    assert said.out.endswith(f"{out}: 14 of 22 images are there; the same command tries the others again\n")
    assert said.err.splitlines()[-1].startswith(f"error: {len(numbers)} of 22 samples became NaN or infinite: {named};")
    assert set(files(out)) == {"manifest.json", "shards/000000.npy", "shards/000002.npy"}
    monkeypatch.setattr("flexidit_jax.jobs.generate.trained_model", lambda *words: model)
    assert generate(out) == 0
    assert "resuming, 14 of 22 images are there" in capsys.readouterr().out
    assert files(out) == files(unbroken)


def test_what_only_fills_a_shard_up_may_be_lost(
    generate: Generate,
    unbroken: Path,
    smoke_run: Path,
    spoilt: Callable[..., fd.FlexiDiT],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, few = fd.load(smoke_run), 9  # 7 of the second shard are left
    labels = labels_of("uniform", 3, np.arange(16), 10)
    filling = next(int(label) for label in labels[few:] if label not in labels[:few])
    monkeypatch.setattr("flexidit_jax.jobs.generate.trained_model", lambda *words: spoilt(model, filling))
    assert generate(tmp_path / "out", f"--num={few}") == 0
    made, sound = (np.load(folder / "samples.npz")["arr_0"] for folder in (tmp_path / "out", unbroken))
    np.testing.assert_array_equal(made, sound[:few])


def test_a_seed_that_was_drawn_is_gone_on_with(
    generate: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert generate(out, "--config.sample.seed=None") == 0
    seed = int(re.search(r"^seed: drew (\d+);", capsys.readouterr().err, re.MULTILINE)[1])
    assert json.loads((out / "manifest.json").read_text())["sample"]["seed"] == seed
    before = files(out)
    shard(out, 1).unlink()
    assert generate(out, "--config.sample.seed=None") == 0
    assert f"{out}: going on with seed {seed}, which was drawn for the images there\n" in capsys.readouterr().out
    assert files(out) == before


@pytest.mark.parametrize("odd", [{"generate": 5}, {"sample": 5}, {"generate": {"out": 5}}])
def test_a_seed_to_be_drawn_beside_odd_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: dict) -> None:
    monkeypatch.chdir(tmp_path)
    config = ConfigDict({"sample": {"seed": None}, "generate": {}} | odd)
    assert _going_on(config, tmp_path / "run") is config  # `build_experiment` says what is wrong
