"""`--mode=encode`: posteriors on disk are those of the codec, whatever happens on the way; training reads them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from flexidit_jax.codecs.latents import latents_of, stacked
from flexidit_jax.codecs.sd_vae import Codec
from flexidit_jax.common.config import load_config, override
from flexidit_jax.common.errors import UserError
from flexidit_jax.data import latent_writer as latent_shards
from flexidit_jax.data.latents import HELD_OUT, TRAIN, Records, record_dtype
from flexidit_jax.data.synthetic import Dataset as Synthetic
from flexidit_jax.experiment.encoding import Part, _fill
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.runs import record_shards, shards
from flexidit_jax.runs.recovery import newest_step
from flexidit_jax.runs.shards import of_host

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "imagenet256_latents.py"
NUM, SHARD, SIDE = 11, 4, 32  # shards of 4, 4 and 3, encoded in batches of 3 and 1
WORDS = {
    "encode.shard": SHARD,
    "encode.batch": 3,
    "encode.flipped": True,
    "dataset.of.records": NUM,
    "dataset.of.shape": (1, SIDE, SIDE, 3),
    "model.latent": (1, 4, 4, 4),
    "codec.dtype": "float32",
    "codec.slice": 2,
}
#: what training needs beside: one step program, compiled quickly
TRAINING = {
    "train.stages[0].patches": (2,),
    "train.stages[0].steps": 2,
    "train.batch": 4,
    "model.depth": 1,
}
IMAGES = Synthetic((1, SIDE, SIDE, 3), classes=1000, records=NUM)

Encode = Callable[..., int]


@pytest.fixture(scope="module")
def command(vae_folder: Path) -> Callable[..., list[str]]:
    def make(path: Path, *more: str) -> list[str]:
        words = {**WORDS, "codec.path": vae_folder, "dataset.path": path}
        flags = [f"--config.{key}={value}" for key, value in words.items()]
        return [f"--config={CONFIG}:smoke", f"--workdir={path}_run", *flags, *more]

    return make


@pytest.fixture(scope="module")
def encode(command: Callable[..., list[str]]) -> Encode:
    return lambda path, *more: main(command(path, "--mode=encode", *more))


@pytest.fixture(scope="module")
def unbroken(encode: Encode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder, held-out images too. Do not write into it."""
    path = tmp_path_factory.mktemp("latents") / "unbroken"
    assert encode(path, "--config.encode.held_out=True") == 0
    return path


@pytest.fixture(scope="module")
def precise(encode: Encode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float32. Do not write into it."""
    path = tmp_path_factory.mktemp("latents") / "precise"
    assert encode(path, "--config.encode.dtype=float32") == 0
    return path


@pytest.fixture
def broken(unbroken: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(unbroken, tmp_path / "copy")


@pytest.fixture(scope="module")
def codec(vae_folder: Path) -> Codec:
    return Codec(str(vae_folder), slice=2)


def files(folder: Path, part: str = "") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / part).rglob("*") if path.is_file()}


def shard(folder: Path, number: int) -> Path:
    return folder / "train" / "shards" / f"{number:06d}.array_record"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("encoding ", "checking "))]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("error: ")


# ---------------------------------------------------------------- What is kept


def test_posteriors_are_the_codecs(unbroken: Path, precise: Path, codec: Codec) -> None:
    for images, part in ((IMAGES.source(), "train"), (IMAGES.held_out(), "held_out")):
        records, batch = Records(unbroken / part), stacked(images)
        assert len(records) == NUM
        kept = stacked(records)
        np.testing.assert_array_equal(kept["label"], batch["label"])
        mirrored = {"flipped_": batch["x"][:, :, :, ::-1]} if part == "train" else {}
        assert len(kept) == 3 + 2 * len(mirrored)
        for prefix, x in {"": batch["x"], **mirrored}.items():
            for name, moment in zip(("mean", "std"), codec.moments(x), strict=True):
                assert kept[prefix + name].dtype == np.float16
                error = np.abs(kept[prefix + name] - moment)
                assert (error <= 2**-11 * np.abs(moment) + 1e-6).all()  # float16's half unit in the last place
                assert error.max() > 1e-5
        if mirrored:
            assert np.abs(kept["mean"] - kept["flipped_mean"]).max() > 0.01
    kept = stacked(Records(precise / "train"))
    for prefix, x in (("", 1), ("flipped_", -1)):
        for name, moment in zip(
            ("mean", "std"), codec.moments(stacked(IMAGES.source())["x"][..., ::x, :]), strict=True
        ):
            np.testing.assert_allclose(kept[prefix + name], moment, rtol=1e-6, atol=1e-6)


def test_draws_are_those_of_encoding_on_the_fly(unbroken: Path, precise: Path, codec: Codec) -> None:
    images = stacked(IMAGES.source())
    for key in (None, jax.random.key(3)):
        expected = latents_of(codec, images, key)
        drawn = latents_of(codec, stacked(Records(precise / "train")), key)
        np.testing.assert_allclose(drawn, expected, atol=1e-6)
        assert drawn.dtype == np.float32
        half = latents_of(codec, stacked(Records(unbroken / "train")), key)
        assert 1e-7 < np.abs(half - expected).max() <= 1e-3 * np.abs(expected).max()


def test_the_manifest_says_what_there_is(unbroken: Path) -> None:
    manifest = json.loads((unbroken / "train" / "manifest.json").read_text())
    assert (manifest["num"], manifest["shard"], manifest["flipped"]) == (NUM, SHARD, True)
    assert (manifest["shape"], manifest["classes"]) == ([1, SIDE, SIDE, 3], 1000)
    moments = [[name, "<f2", [1, 4, 4, 4]] for name in ("mean", "std", "flipped_mean", "flipped_std")]
    assert manifest["record"] == [*moments, ["label", "<i4", []]]
    assert manifest["dataset"]["name"] == "synthetic"
    assert manifest["codec"] == {"name": "sd_vae", "scale": 0.18215, "dtype": "float32"} | {
        "weights": manifest["codec"]["weights"]
    }
    assert re.fullmatch(r"\w{16}", manifest["codec"]["weights"])
    assert set(files(unbroken, "train")) == {
        f"train/{name}" for name in ("manifest.json", *(f"shards/{number:06d}.array_record" for number in range(3)))
    }


@pytest.mark.parametrize(("dtype", "size"), [("float16", 32_772), ("float32", 65_540)])
def test_bytes_an_image_of_imagenet(dtype: str, size: int) -> None:
    config = load_config(str(CONFIG))
    override(config, "encode.dtype", dtype)
    experiment = build_experiment(config)
    source = [{"x": np.zeros(experiment.dataset.shape, np.float32), "label": np.int32(1)}]
    words = Part(TRAIN, source, experiment.dataset.shape).words(experiment, experiment.dataset.of)
    assert record_dtype(words["record"]).itemsize == size
    assert words["flipped"]  # as the dataset augments
    words = Part(HELD_OUT, source, experiment.dataset.shape).words(experiment, experiment.dataset.of)
    assert record_dtype(words["record"]).itemsize == size // 2 + 2  # nobody flips them
    assert not words["flipped"]


def test_any_config_is_encoded_and_does_not_flip_where_its_dataset_does_not(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plain.py"
    file.write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(CONFIG)!r})['get_config']('smoke')\n"
        "    config.dataset = config.dataset.of\n"
        "    return config\n"
    )
    words = [word.replace("dataset.of", "dataset") for word in command(tmp_path / "x") if "dataset.path" not in word]
    words = [f"--config={file}", "--mode=encode", *words[1:], "--config.encode.flipped=None"]
    assert main(words) == 0
    folder = tmp_path / "x_run" / "latents"
    assert f"written: {folder}, 11 images of 260 bytes\n" in capsys.readouterr().out
    assert set(Records(folder / "train")[0]) == {"mean", "std", "label"}
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 0
    assert files(tmp_path / "out") == files(folder)


# ---------------------------------------------------------------- Whatever happens on the way


def fails(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[], None]) -> None:
    """At the call-th batch; images and their mirror images are encoded in turn."""
    moments, calls = Codec.moments, iter(range(1, 1000))

    def counted(self: Codec, x: np.ndarray) -> tuple:
        if next(calls) == call:
            act()
        return moments(self, x)

    monkeypatch.setattr(Codec, "moments", counted)


class Killed(BaseException):
    """Nothing catches it."""


def die() -> None:
    raise Killed


def test_a_kill_leaves_neither_a_hole_nor_a_duplicate(
    encode: Encode, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fails(patch, 7, die)  # shard 1 of 3 is in the making
        with pytest.raises(Killed):
            encode(out)
    assert set(files(out)) == {"train/manifest.json", "train/shards/000000.array_record"}
    (out / "train" / "shards" / "000001.array_record.tmp").write_bytes(b"half")
    kept = shard(out, 0).stat().st_mtime_ns
    assert encode(out) == 0
    assert f"{out}/train: resuming, 4 of 11 images are there\n" in capsys.readouterr().out
    assert files(out) == files(unbroken, "train")
    assert shard(out, 0).stat().st_mtime_ns == kept


def test_a_signal_stops_after_the_shard(
    encode: Encode, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        fails(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert encode(tmp_path / "out", "--config.encode.held_out=True") == 130
    assert "out: stopped, 4 of 22 images are there; the same command goes on\n" in capsys.readouterr().out
    assert not (tmp_path / "out" / "held_out").exists()
    assert encode(tmp_path / "out", "--config.encode.held_out=True") == 0
    assert capsys.readouterr().out.endswith("/out, 11 images of 516 bytes and held out 11 images of 260 bytes\n")
    assert files(tmp_path / "out") == files(unbroken)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-70_000]), lambda path: path.write_bytes(b"")],
)
def test_what_is_missing_or_cut_off_is_made_again(
    encode: Encode, unbroken: Path, broken: Path, damage: Callable[[Path], object]
) -> None:
    damage(shard(broken, 1))
    assert encode(broken) == 0
    assert files(broken) == files(unbroken)


def test_what_is_damaged_within_is_named_and_made_again(
    encode: Encode, unbroken: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shard(broken, 1)
    content = bytearray(file.read_bytes())
    content[content.index(stacked(Records(broken / "train"))["mean"][SHARD + 1].tobytes())] ^= 4  # one bit
    file.write_bytes(content)
    assert encode(broken) == 0
    out, err = capsys.readouterr()
    first, *_, last = out.splitlines()
    assert re.fullmatch(rf"{file} is damaged \(.+\); it is made again", first)
    assert f"{broken}/train: resuming, 7 of 11 images are there\n" in out
    assert last.startswith(f"written: {broken}, 11 images")
    assert "checking train: 11/11 (100 %)" in err
    assert files(broken) == files(unbroken)


def test_a_signal_stops_the_check(
    encode: Encode, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(self: latent_shards.LatentShards, number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    shard(broken, 2).unlink()
    monkeypatch.setattr(latent_shards.LatentShards, "damage", damage)
    assert encode(broken, "--config.encode.held_out=True") == 130
    said = f"{broken}: stopped, 8 of 22 images are there, 11 unchecked; the same command goes on\n"
    assert capsys.readouterr().out == said


def test_again_makes_nothing(
    encode: Encode, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(broken)
    fails(monkeypatch, 1, die)
    assert encode(broken) == 0
    assert files(broken) == before
    assert capsys.readouterr().out == f"all there already: {broken}, 11 images of 516 bytes\n"


def test_a_disk_that_fills_up_leaves_whole_shards(
    encode: Encode, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, real = tmp_path / "out", record_shards.ArrayRecordWriter

    class Full:
        def __init__(self, path: str, options: str) -> None:
            # the device that is always full, in place of the second file
            self._writer = real("/dev/full" if "000001" in path else path, options)
            self.write, self.close = self._writer.write, self._writer.close

    with monkeypatch.context() as patch:
        patch.setattr(record_shards, "ArrayRecordWriter", Full)
        assert encode(out) == 2
    message = f"cannot write to {out}/train ({os.strerror(errno.ENOSPC)}); whole shards stay, and once that is mended"
    assert said(capsys) == f"{message} the same command goes on"
    assert set(files(out)) == {"train/manifest.json", "train/shards/000000.array_record"}
    assert encode(out) == 0
    assert files(out) == files(unbroken, "train")


def test_a_disk_too_full_is_refused_before_anything_is_written(
    encode: Encode, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = SimpleNamespace(free=3 * 2**18)  # the least that three files take
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: free)
    assert encode(tmp_path / "deep" / "out") == 2
    needs = "needs 793.5 kB more for latents of 11 images, and 786.4 kB are free; make room, or name another --out"
    assert said(capsys) == f"{tmp_path / 'deep' / 'out' / 'train'} {needs}"
    assert encode(tmp_path / "deep" / "out", "--config.encode.dtype=float32") == 2
    assert said(capsys).endswith("; make room, or name another --out or encode.dtype=float16")
    assert not (tmp_path / "deep").exists()
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # they fill the same disk
    assert encode(tmp_path / "deep" / "out") == 2
    assert needs in said(capsys)
    monkeypatch.undo()
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert encode(broken) == 0  # nothing is missing, nothing is needed


def test_no_file_is_larger_than_was_asked_of_the_disk(unbroken: Path) -> None:
    words = json.loads((unbroken / "train" / "manifest.json").read_text())
    part = latent_shards.LatentShards(unbroken / "train", words)
    assert sum(shard(unbroken, number).stat().st_size for number in part.all) <= part.size(part.all)


# ---------------------------------------------------------------- Many hosts, many devices


@pytest.mark.parametrize("hosts", [1, 2, 3, 5, 12])
def test_every_shard_is_one_hosts(hosts: int) -> None:
    everything, missing = range(11), [0, 3, 4, 8]
    own = [of_host(everything, host, hosts) for host in range(hosts)]
    assert sorted(shard for part in own for shard in part) == list(everything)
    assert max(map(len, own)) - min(map(len, own)) <= 1
    for host in range(hosts):  # and stays so, whatever is there already
        assert of_host(missing, host, hosts) == [shard for shard in missing if shard in own[host]]


def test_two_hosts_make_what_one_makes(
    encode: Encode, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host, there in ((1, [1]), (0, [0, 1, 2])):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        with shards.Shards.claimed(_at(out / "train", unbroken), 1 - host, 2):  # the other is at work meanwhile
            assert encode(out) == 0
        assert [number for number in range(3) if shard(out, number).exists()] == there
    assert files(out) == files(unbroken, "train")
    monkeypatch.undo()
    with shards.Shards.claimed(_at(out / "train", unbroken), 1, 2):
        assert encode(out) == 2
    assert said(capsys) == f"another process is at work in {out}/train; name another --out"


def _at(folder: Path, like: Path) -> latent_shards.LatentShards:
    return latent_shards.LatentShards(folder, json.loads((like / "train" / "manifest.json").read_text()))


#: two images a device, the last batch not full
FOUR = """
import sys
import jax
from flexidit_jax.main import main

assert jax.device_count() == 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_four_devices_make_what_one_makes(
    on_devices: Callable[..., str], command: Callable[..., list[str]], precise: Path, tmp_path: Path
) -> None:
    more = ["--mode=encode", "--config.encode.dtype=float32", "--config.encode.shard=8", "--config.encode.batch=7"]
    on_devices(4, "-c", FOUR, *command(tmp_path / "out", *more))
    ours, theirs = (stacked(Records(folder / "train")) for folder in (tmp_path / "out", precise))
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- Refusals


@pytest.mark.parametrize(
    ("word", "differs"),
    [
        ("encode.shard=5", "shard is 4 there, 5 here"),
        ("encode.dtype=float32", "dtype is 'float16' there, 'float32' here"),
        ("encode.flipped=False", "flipped is True there, False here"),
        ("dataset.of.records=12", "num is 11 there, 12 here"),
        ("codec.dtype=bfloat16", "codec.dtype is 'float32' there, 'bfloat16' here"),
    ],
)
def test_other_words_are_refused(
    encode: Encode,
    broken: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    differs: str,
) -> None:
    fails(monkeypatch, 1, die)
    assert encode(broken, f"--config.{word}") == 2
    assert said(capsys).startswith(f"{broken}/train holds latents made with other words: {differs}")


def test_words_that_an_older_manifest_leaves_out_mean_their_defaults(
    encode: Encode, command: Callable[..., list[str]], broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scale` of the codec and `seed` of the dataset: by encoding, and by training on what was made."""
    file = broken / "train" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["codec"]["scale"]
    manifest["dataset"]["seed"] = 0  # which this config leaves out
    file.write_text(json.dumps(manifest))
    flags = [f"--config.{key}={value}" for key, value in TRAINING.items()]
    assert encode(broken) == 0
    file.write_text(json.dumps(manifest))
    experiment = build_experiment(_config(command(broken, *flags)))
    experiment.check()
    file.write_text(json.dumps(manifest | {"codec": manifest["codec"] | {"scale": 0.5}}))
    with pytest.raises(UserError, match=r"codec\.scale is 0\.5 there, 0\.18215 here"):
        experiment.check()


def _config(words: list[str]) -> ConfigDict:
    config = load_config(words[0].removeprefix("--config="))
    for word in words[1:]:
        if word.startswith("--config."):
            key, _, value = word.removeprefix("--config.").partition("=")
            override(config, key, value)
    return config


def other_weights(vae_folder: Path, to: Path) -> Path:
    folder = shutil.copytree(vae_folder, to)
    [weights] = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return folder


def other_groups(vae_folder: Path, to: Path) -> Path:
    folder = shutil.copytree(vae_folder, to)
    (folder / "config.json").write_text(json.dumps({"norm_num_groups": 4}))
    return folder


@pytest.mark.parametrize("other_vae", [other_weights, other_groups])
def test_another_vae_is_refused_by_encoding_and_by_training(
    encode: Encode,
    command: Callable[..., list[str]],
    broken: Path,
    vae_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other_vae: Callable[[Path, Path], Path],
) -> None:
    before, other = files(broken), other_vae(vae_folder, tmp_path / "vae")
    assert encode(broken, f"--config.codec.path={other}") == 2
    words = r"holds latents made with other words: codec.weights is '\w{16}' there, '\w{16}' here; "
    assert re.fullmatch(rf"{broken}/train {words}name another --out, or go back to that value", said(capsys))
    assert main(command(broken, f"--config.codec.path={other}")) == 2
    expected = rf"{broken} {words}go back to that value, or encode into another dataset.path"
    assert re.fullmatch(expected, said(capsys))
    assert files(broken) == before
    assert not Path(f"{broken}_run/checkpoints").exists()


def test_what_cannot_be_encoded(
    encode: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert encode(out, "--config.encode.dtype=bfloat16") == 2
    assert said(capsys) == "encode.dtype must be 'float16' or 'float32', got 'bfloat16'"
    assert encode(out, "--config.encode.shard=0") == 2
    assert said(capsys) == "encode.shard must be positive, got 0"
    assert encode(out, "--config.codec.path=nowhere") == 2
    assert said(capsys).startswith("the VAE's weights nowhere/diffusion_pytorch_model.safetensors do not exist")
    assert main([f"--config={ROOT / 'configs' / 'digits.py'}", "--mode=encode", f"--workdir={out}"]) == 2
    assert said(capsys) == (
        "codec 'identity' has no posterior to keep; encode is for codecs that draw, such as 'sd_vae'"
    )
    (tmp_path / "file").touch()
    assert encode(tmp_path / "file") == 2
    assert said(capsys) == f"cannot write to {tmp_path / 'file'}; name another --out"
    assert encode(out, "--out=/proc/x") == 2
    # root may write there, says the system
    assert re.fullmatch(r"cannot write to /proc/x( \(/proc: .*\))?; name another --out", said(capsys))
    assert encode(out, "--out=") == 2
    assert said(capsys) == "--out is empty; name a folder, or leave it out"
    assert not out.exists()


def test_numbers_that_do_not_fit_are_refused(codec: Codec) -> None:
    mean = np.ones((3, 1, 2, 2, 4))
    mean[1, 0, 1, 1, 2] = 7e4
    large = SimpleNamespace(moments=lambda x: (mean, mean))
    fields = [["mean", "<f2", [1, 2, 2, 4]], ["std", "<f2", [1, 2, 2, 4]], ["label", "<i4", []]]
    rows, batch = np.empty(3, record_dtype(fields)), stacked(list(IMAGES.source())[:3])
    with pytest.raises(
        UserError, match=r"^the posterior of image 21 is not finite in float16; set encode.dtype=float32$"
    ):
        _fill(rows, large, batch, 3, None, 20)


def test_text_is_no_number() -> None:
    experiment = dataclasses.replace(build_experiment(load_config(str(CONFIG))))
    with pytest.raises(
        UserError, match=r"^encode keeps numbers beside latents; 'text' of the dataset's records is none$"
    ):
        Part(TRAIN, [{"x": np.zeros(1), "text": "a cat"}], IMAGES.shape).words(experiment, IMAGES)
    with pytest.raises(UserError, match=r"^there is nothing to encode: the dataset is empty$"):
        Part(TRAIN, [], IMAGES.shape).words(experiment, IMAGES)


# ---------------------------------------------------------------- Training


@pytest.mark.slow
def test_training_reads_latents_and_runs_no_encoder(
    command: Callable[..., list[str]],
    broken: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(broken / "held_out")
    words = command(broken, *(f"--config.{key}={value}" for key, value in TRAINING.items()))
    drawn = []

    def draw(self: Codec, mean: np.ndarray, std: np.ndarray, key: np.ndarray) -> np.ndarray:
        drawn.append((np.asarray(mean), key))
        return real(self, mean, std, key)

    with monkeypatch.context() as patch:
        real = Codec.draw
        patch.setattr(Codec, "draw", draw)
        patch.setattr(Codec, "moments", None)
        assert main(words) == 0
    assert newest_step(Path(f"{broken}_run")).name == "2"
    assert [mean.shape for mean, _ in drawn] == [(4, 1, 4, 4, 4)] * 2
    kept = stacked(Records(broken / "train"))
    is_plain, is_flipped = (
        [(mean == kept[name]).all((1, 2, 3, 4)).any() for batch, _ in drawn for mean in batch]
        for name in ("mean", "flipped_mean")
    )
    assert all(a or b for a, b in zip(is_plain, is_flipped, strict=True))
    assert 0 < sum(is_flipped) < 8

    shutil.rmtree(broken)  # sampling wants the VAE alone
    capsys.readouterr()
    sample = ["--mode=sample", "--config.sample.labels=(1,)", "--config.sample.steps=1", "--config.sample.batch=1"]
    assert main([*words, *sample, "--config.sample.guidance=1.0"]) == 0
    assert main(words) == 2
    assert said(capsys) == f"no latents in {broken}/train; the same command with --mode=encode makes them"
