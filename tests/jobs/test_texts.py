"""Pictures of texts by the command line: `sample`, `generate` and `encode` with `--prompts`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.config import load_config
from flexidit_jax.data.text_features import TextFeatures
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.jobs import generate
from flexidit_jax.main import main
from flexidit_jax.runs.picture_shards import PictureShards
from flexidit_jax.text.t5 import Encoder

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PROMPTS = ["a red apple", "two dogs play", "a caf\u00e9 at night"]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(texts: fd.FlexiDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of texts, whose latents are pictures of 16x16 pixels. Do not write into it."""
    folder = tmp_path_factory.mktemp("texts") / "model"
    dataclasses.replace(texts, codec=Codec(), text=None).save(folder)
    return folder


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Run:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "tiny.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'pixart.py')!r})['get_config']()\n"
        "    config.codec = {'name': 'identity'}\n"
        "    return config\n"
    )
    words = {"init_from": model, "text.path": GOLDEN / "t5_tiny.safetensors"}
    words |= {"text.tokenizer": GOLDEN / "t5_tiny_spiece.model", "text.dtype": "float32", "sample.steps": 2}
    words |= {"model.conditioner.features": 32}

    def start(mode: str, *more: str, **changed: object) -> int:
        flags = [f"--config.{key}={value}" for key, value in (words | changed).items()]
        place = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", f"--mode={mode}"]
        return main([*place, *flags, *more])

    return start


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


@pytest.fixture
def loaded(model: Path, texts: fd.FlexiDiT) -> fd.FlexiDiT:
    return dataclasses.replace(fd.load(model), text=texts.text)


# ---------------------------------------------------------------- Sample


def test_pictures_say_what_makes_them_again(run: Run, loaded: fd.FlexiDiT, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.txt"
    words = {"sample.budget": 0.6, "sample.images_per_prompt": 2, "sample.negative": "blurry", "sample.seed": 7}
    assert run("sample", f"--prompts={file}", f"--out={out}", **words) == 0
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [line["number"] for line in lines] == list(range(6))
    for line in (lines[0], lines[5]):
        with Image.open(out / line["file_name"]) as image:
            said = dict(image.text)
            drawn = np.asarray(image)
        assert said["prompt"] == line["text"] and json.loads(said["spec"]) == line["spec"]
        assert (said["negative"], said["seed"], said["number"]) == ("blurry", "7", str(line["number"]))
        spec = fd.SampleSpec.of_record(line["spec"])
        assert (spec.steps, spec.seed, spec.guidance) == (2, 7, 5.0) and spec.solver_section["name"] == "dpmpp_2m"
        again = loaded.sample([line["text"]], spec, negative="blurry", first=line["number"], progress=False)
        assert np.abs(again[0].astype(int) - drawn).max() <= 1
    record = json.loads((out / "sample.json").read_text())
    assert record["prompts"] == PROMPTS and record["guidance"] == 5.0


def test_one_prompt_by_itself(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", "--prompts=a red apple, on a table", f"--out={tmp_path / 'out'}") == 0
    assert "guidance: 4.5\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "sample.json").read_text())["prompts"] == ["a red apple, on a table"]
    assert json.loads((tmp_path / "out" / "metadata.jsonl").read_text())["text"] == "a red apple, on a table"


# ---------------------------------------------------------------- Kept features


def test_features_are_kept_and_sampled_from(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, prompts = tmp_path / "kept", f"--prompts={tmp_path / 'prompts.txt'}"
    assert run("encode", prompts, f"--out={kept}", **{"encode.dtype": "float32", "encode.shard": 2}) == 0
    assert f"written: {kept}, 3 texts, " in capsys.readouterr().out
    there = TextFeatures(kept)
    assert there.prompts == PROMPTS and there.made["length"] == 120
    shard = kept / "shards" / "000001.array_record"
    content = shard.read_bytes()
    shard.unlink()
    assert run("encode", prompts, f"--out={kept}", **{"encode.dtype": "float32", "encode.shard": 2}) == 0
    assert f"{kept}: resuming, 2 of 3 texts are there\n" in capsys.readouterr().out
    assert shard.read_bytes() == content
    words = {"text.length": 16, "encode.dtype": "float32"}
    again = tmp_path / "again"
    assert run("encode", prompts, f"--out={again}", **words) == 0
    assert run("sample", prompts, f"--out={tmp_path / 'a'}", **words) == 0
    monkeypatch.setattr(Encoder, "encode", None)  # nobody reads a text again
    assert run("sample", f"--prompts={again}", f"--out={tmp_path / 'b'}", **words) == 0
    for i in range(3):
        np.testing.assert_array_equal(
            pixels(tmp_path / "a" / f"00000{i}.png"), pixels(tmp_path / "b" / f"00000{i}.png")
        )
    capsys.readouterr()
    assert run("sample", f"--prompts={kept}", f"--out={tmp_path / 'c'}") == 2
    assert refusal(capsys) == (
        f"{kept} holds features of another text encoder: length is 120 there, 16 here; encode the prompts again, into"
        " another folder"
    )
    assert run("sample", f"--prompts={again}", f"--out={tmp_path / 'c'}", **{"text.clean": "none"}) == 2
    assert "clean is 'lower' there, 'none' here" in refusal(capsys)
    assert run("sample", f"--prompts={again}", f"--out={tmp_path / 'b'}", **{"text.path": tmp_path / "gone"}) == 0


# ---------------------------------------------------------------- Generate


def test_many_prompts_are_streamed_and_gone_on_with(
    run: Run, loaded: fd.FlexiDiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, prompts = tmp_path / "out", f"--prompts={tmp_path / 'prompts.txt'}"
    words = {"sample.images_per_prompt": 2, "sample.batch": 2, "sample.negative": "blurry", "encode.dtype": "float32"}
    assert run("generate", prompts, f"--out={out}", **words) == 0
    assert f"written: {out}/images, 6 pictures\n" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == ["images", "manifest.json", "metadata.jsonl", "texts"]
    files = sorted((out / "images").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(6)]
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert lines[4]["file_name"] == "images/000004.png" and lines[4]["negative"] == "blurry"
    drawn = loaded.sample(PROMPTS, negative="blurry", steps=2, images_per_prompt=2, batch=2, progress=False)
    for file, image in zip(files, drawn, strict=True):
        assert np.abs(pixels(file).astype(int) - image).max() <= 1
    with Image.open(files[5]) as image:
        assert (image.text["prompt"], image.text["number"]) == (PROMPTS[2], "5")
    content = files[3].read_bytes()
    kept = files[0].stat().st_mtime_ns
    files[3].unlink()
    files[5].unlink()
    (out / "metadata.jsonl").unlink()
    assert run("generate", prompts, f"--out={out}", **words) == 0
    assert f"{out}: resuming, 4 of 6 images are there\n" in capsys.readouterr().out
    assert files[3].read_bytes() == content and files[0].stat().st_mtime_ns == kept
    assert [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()] == lines
    monkeypatch.setattr(fd.FlexiDiT, "sample", None)  # nothing is drawn again
    assert run("generate", prompts, f"--out={out}", **words) == 0
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS[:2], "another"]))
    capsys.readouterr()
    assert run("generate", prompts, f"--out={out}", **words) == 2
    assert refusal(capsys).startswith(f"{out} holds images made with other words: labels is '3 prompts, ")


def test_pictures_lie_as_a_judge_reads_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []

    def made(*args: object, fps: int, **words: object) -> PictureShards:
        told.append(fps)
        return PictureShards(*args, fps=fps, **words)

    monkeypatch.setattr(generate, "PictureShards", made)
    out, file = tmp_path / "out", tmp_path / "evaluation_metadata.jsonl"
    lines = [json.dumps({"tag": "colors", "include": [], "prompt": prompt}) for prompt in PROMPTS[:2]]
    file.write_text("\n".join(lines))
    flags, words = [f"--prompts={file}", f"--out={out}"], {"generate.files": "geneval", "sample.images_per_prompt": 2}
    words["sample.files.fps"] = 8  # of clips
    assert run("generate", *flags, **words, **{"sample.seed": 3}) == 0
    assert f"written: {out}/images, 4 pictures\n" in capsys.readouterr().out
    assert told == [8]
    monkeypatch.setattr(generate, "PictureShards", PictureShards)
    for p in range(2):
        assert json.loads((out / "images" / f"0000{p}" / "metadata.jsonl").read_text()) == json.loads(lines[p])
        samples = sorted((out / "images" / f"0000{p}" / "samples").iterdir())
        assert [sample.name for sample in samples] == ["0000.png", "0001.png"]
        with Image.open(samples[1]) as image:
            assert (image.text["prompt"], image.text["number"]) == (PROMPTS[p], str(2 * p + 1))
    content = samples[1].read_bytes()
    samples[1].unlink()
    assert run("generate", *flags, **words, **{"sample.seed": 3}) == 0  # whose features are kept by now
    assert f"{out}: resuming, 3 of 4 images are there\n" in capsys.readouterr().out
    assert samples[1].read_bytes() == content
    for more, says in (
        ({"generate.files": "png"}, f"{out} holds images made with other words: files is 'geneval' there, 'png' here;"),
        ({"generate.files": "genevl"}, "no generate.files 'genevl'; did you mean 'geneval'?"),
        ({"generate.num": 5}, "generate.files='geneval' has places for 4 pictures, 2 of each prompt, and --num is 5"),
        (
            {"sample.prompts": out / "texts"},
            "generate.files='geneval' wants the judge's own file of prompts; --prompts",
        ),
    ):
        capsys.readouterr()
        given = flags[1:] if "sample.prompts" in more else flags
        assert run("generate", *given, **{**words, "sample.seed": 3, **more}) == 2
        assert refusal(capsys).startswith(says)


def test_kept_features_as_one_array(run: Run, tmp_path: Path) -> None:
    """Where there are features, nobody asks for the encoder."""
    out, kept, words = tmp_path / "out", tmp_path / "kept", {"text.length": 16}
    assert run("encode", f"--prompts={tmp_path / 'prompts.txt'}", f"--out={kept}", **words) == 0
    words |= {"generate.files": "npz", "text.path": tmp_path / "gone"}
    assert run("generate", f"--prompts={kept}", f"--out={out}", "--num=4", **words) == 0
    arrays = np.load(out / "samples.npz")
    assert arrays["arr_0"].shape == (4, 16, 16, 4) and arrays["arr_1"].tolist() == [0, 1, 2, 0]
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == [*PROMPTS, PROMPTS[0]] and "file_name" not in lines[0]


# ---------------------------------------------------------------- What will not do


def test_what_is_asked_for_wrongly(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    prompts = f"--prompts={tmp_path / 'prompts.txt'}"
    for mode, flags, words, says in (
        ("sample", [], {}, "nothing is asked for; --prompts='a red apple' would do, or a file with a prompt a line"),
        ("sample", [f"--prompts={empty}"], {}, f"{empty} holds no prompts; write one a line"),
        ("sample", [f"--prompts={tmp_path}"], {}, f"{tmp_path} holds no features of texts (manifest.json is missing)"),
        ("sample", [prompts], {"sample.labels": 3}, "sample.labels and sample.prompts speak of the same; give one"),
        ("sample", [prompts], {"text.length": 17}, "text.length=17, and the model reads 16 tokens of a text"),
        ("sample", [prompts], {"text": None}, "this config has no text section, whose encoder reads prompts; give it "),
        ("sample", [prompts], {"sample.size": (20, 18)}, "size=(20, 18): sides must be multiples of 4x4 pixels, a"),
        ("sample", [prompts], {"text.pat": 1}, "unknown config key 'text.pat'; did you mean 'path'?"),
        ("encode", [], {}, "config key 'config.dataset' is None, so nothing can be trained on or scored; name"),
        ("train", [], {}, "config key 'config.dataset' is None, so nothing can be trained on or scored; name"),
        (
            "encode",
            [prompts],
            {"model.conditioner.features": 64},
            f"{GOLDEN}/t5_tiny.safetensors makes features of 32 channels, and ",
        ),
        ("generate", [prompts], {"generate.files": "pgn"}, "no generate.files 'pgn'; did you mean 'png'?"),
    ):
        capsys.readouterr()
        assert run(mode, *flags, **words) == 2, says
        assert refusal(capsys).startswith(says)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"init_from": "a", "codec.path": "b", "text.path": "c"}
    flags = [f"--config.{key}={tmp_path / place}" for key, place in parts.items()]
    config = [f"--config={ROOT / 'configs' / 'pixart.py'}", "--mode=sample", "--prompts=a red apple"]
    assert main([*config, f"--workdir={tmp_path / 'run'}", *flags]) == 2
    found = refusal(capsys)
    for part, place in (("does not exist", "a"), ("the VAE's weights", "b"), ("11 GB in bfloat16", "c")):
        assert part in found and str(tmp_path / place) in found


def test_kinds_of_models_are_told_apart(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = [f"--config={ROOT / 'configs' / 'digits.py'}:smoke", "--mode=sample"]
    assert main([*digits, f"--workdir={tmp_path / 'digits'}", "--prompts=a red apple"]) == 2
    assert (
        refusal(capsys) == "sample.prompts are for a model of texts, and this one is of another kind; set sample.labels"
    )
    other = GOLDEN / "dit_tiny.safetensors"
    assert run("sample", "--prompts=a red apple", init_from=other) == 2
    assert refusal(capsys) == f"this config is for a model of text, and init_from={other} is one of classes"


# ---------------------------------------------------------------- From a folder of a PixArt


def test_from_a_pipeline_to_pictures_at_a_share_of_the_flops(
    pixart_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of docs/text.md: convert, encode, sample; T5 is gone by then."""
    flexible, kept, out = (tmp_path / name for name in ("flex", "texts", "out"))
    words = {"source": pixart_pipeline, "target": flexible, "layout": "flexidit_jax", "patches": "2,4"}
    convert = [f"--config.convert.{key}={value}" for key, value in words.items()]
    assert main(["--mode=convert", f"--config={ROOT / 'configs' / 'convert.py'}", *convert]) == 0
    place = [f"--config={ROOT / 'configs' / 'pixart.py'}:sigma256", f"--workdir={tmp_path / 'run'}"]
    place += [f"--config.{part}.path={pixart_pipeline}" for part in ("codec", "text")]
    place += ["--config.model.conditioner.features=32", f"--config.init_from={flexible}"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    assert main([*place, "--mode=encode", f"--prompts={file}", f"--out={kept}"]) == 0
    monkeypatch.setattr(Encoder, "encode", None)
    flags = ["--config.sample.budget=0.6", "--config.sample.steps=4", "--config.sample.aspect=3:2", f"--out={out}"]
    capsys.readouterr()
    assert main([*place, "--mode=sample", f"--prompts={kept}", *flags]) == 0
    said = capsys.readouterr().out
    assert "schedule: 4:" in said and "guidance: 5.0" in said
    assert pixels(out / "000002.png").shape == (96, 160, 3)
    record = json.loads((out / "sample.json").read_text())
    assert (record["size"], record["aspect"], record["prompts"]) == ([96, 160], None, PROMPTS)
    with Image.open(out / "000002.png") as image:
        spec = fd.SampleSpec.of_record(json.loads(image.text["spec"]))
    features = list(TextFeatures(kept))
    again = fd.load(flexible).sample(features[2:], spec, first=2, progress=False)
    assert np.abs(again[0].astype(int) - pixels(out / "000002.png")).max() <= 1


def test_what_stands_for_no_text_is_read_by_the_encoder_of_the_config(pixart_pipeline: Path, tmp_path: Path) -> None:
    config = load_config(f"{ROOT / 'configs' / 'pixart.py'}:sigma256")
    config.init_from = str(pixart_pipeline)
    config.text.path = config.codec.path = str(pixart_pipeline)
    config.model.conditioner.features = 32
    flex = trained_model(build_experiment(config), tmp_path)
    assert (flex.model.conditioner.null_length, flex.model.conditioner.null_mask) == (1, "own")
    assert flex.text.path == str(pixart_pipeline) and flex.text.length == 300
