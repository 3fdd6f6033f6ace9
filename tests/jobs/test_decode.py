"""Clips from latents: those are written first, files grow by parts, and decoding is done again alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.codecs.wan_vae import Codec
from flexidit_jax.main import main
from flexidit_jax.runs.clips import read_clip
from flexidit_jax.runs.latents_file import FILE, read_latents

ROOT = Path(__file__).parents[2]
Run = Callable[..., int]


@pytest.fixture
def run(wan_pipeline: Path, tmp_path: Path) -> Run:
    (tmp_path / "tiny.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'pixart.py')!r})['get_config']()\n"
        f"    config.codec = {{'name': 'wan_vae', 'path': {str(wan_pipeline)!r}}}\n"
        f"    config.text = {{'name': 'umt5', 'path': {str(wan_pipeline)!r}, 'clean': 'none', 'dtype': 'float32'}}\n"
        "    config.text.length = 12\n"
        f"    config.init_from = {str(wan_pipeline)!r}\n"
        "    config.process = {'name': 'flow', 'shift': 5.0}\n"
        "    config.model.update(positions='rope', span=None, qk_norm='rms', cross_norm=True, learn_variance=False)\n"
        "    config.model.update(latent=(3, 6, 8, 4), size=None, width=24, depth=1, num_heads=2)\n"
        "    config.model.conditioner.update(features=32, length=12, mask=False)\n"
        "    config.train.stages = ({'patches': (2,), 'steps': 1},)\n"
        "    config.train.loss = {'name': 'flow'}\n"
        "    config.sample.update(steps=2, batch=2, frames=9, size=(48, 64), seed=1)\n"
        "    config.sample.files.update(grid=True, images=False)\n"
        "    return config\n"
    )

    def start(mode: str, *more: str, **changed: Any) -> int:
        flags = [f"--config.{key}={value}" for key, value in changed.items()]
        return main(
            [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", f"--mode={mode}", *flags, *more]
        )

    return start


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_latents_come_first_and_are_decoded_again(
    run: Run, wan_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, codec = tmp_path / "out", Codec(str(wan_pipeline))
    decoded = Codec.pieces

    def killed(self: Codec, latents: np.ndarray) -> Iterator[np.ndarray]:
        """After two parts of the first clip."""
        parts = decoded(self, latents)
        yield next(parts)
        yield next(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(Codec, "pieces", killed)
    words = ("--prompts=a cat", f"--out={out}")
    clips = {"sample.images_per_prompt": 2, "sample.files.clips": "mp4"}
    assert run("sample", *words, **clips) == 130
    latents = read_latents(out, codec.fingerprint())
    assert latents.shape == (2, 3, 6, 8, 4) and not (out / "grid.png").exists()
    pytest.importorskip("av")
    assert read_clip(out / "000000.mp4").shape == (5, 48, 64, 3)  # one frame, and four

    monkeypatch.setattr(Codec, "pieces", decoded)
    capsys.readouterr()
    assert run("decode", f"--latents={out}", **clips) == 0
    printed = capsys.readouterr()
    assert f"written: {out}/000000.mp4 to 000001.mp4, grid.png\n" in printed.out
    assert "decoding: 2/2 (100 %)" in printed.err
    whole = codec.decode(latents)
    again = read_clip(out / "000001.mp4")
    ours, other = (np.abs(again.astype(int) - clip).mean() for clip in whole[::-1])
    assert again.shape == whole[1].shape and ours < 0.7 * other  # it is noise, and colours lie between pixels
    with Image.open(out / "grid.png") as sheet:  # a row a clip, six frames of nine
        assert sheet.size == (6 * 65 + 1, 2 * 49 + 1)
        rows = np.asarray(sheet)[1:, 1:].reshape(2, 49, 6, 65, 3)[:, :48, :, :64]
    shown = rows.transpose(0, 2, 1, 3, 4).astype(int)
    assert np.abs(shown - whole[:, [0, 2, 3, 5, 6, 8]]).max() <= 1  # clips were decoded together here

    assert run("sample", *words, **clips) == 0  # the same latents
    assert f"{FILE}, sample.json\n" in capsys.readouterr().out
    np.testing.assert_array_equal(read_latents(out, codec.fingerprint()), latents)


def test_other_files_are_made_of_them(run: Run, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert run("sample", "--prompts=a cat", f"--out={out}") == 0
    assert {file.name for file in out.iterdir()} == {"grid.png", "metadata.jsonl", "sample.json", FILE}
    words = {"sample.files.clips": "gif", "sample.files.fps": 8, "sample.files.images": True, "sample.files.npz": True}
    assert run("decode", f"--latents={out / FILE}", f"--out={other}", **words) == 0
    assert {file.name for file in other.iterdir()} == {"000000.gif", "000000.png", "grid.png", "samples.npz"}
    with np.load(other / "samples.npz") as arrays, Image.open(other / "000000.gif") as gif:
        assert arrays["arr_0"].shape == (1, 9, 48, 64, 3) and gif.n_frames == 9


@pytest.mark.parametrize(
    ("more", "changed", "message"),
    [
        ((), {}, "nothing is said of which latents; --latents=DIR names a folder that --mode=sample wrote"),
        (("--latents=nowhere",), {}, "no latents in nowhere; --mode=sample of clips writes latents.safetensors into"),
        (("--latents=x",), {"sample.files.fps": 0}, "fps must be a whole number of frames a second in 1..240"),
    ],
)
def test_refusals(
    run: Run, more: tuple[str, ...], changed: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("decode", *more, **changed) == 2
    assert message in refusal(capsys)


def test_a_codec_of_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--config={ROOT / 'configs' / 'digits.py'}:smoke", f"--workdir={tmp_path}", "--mode=decode"]
    assert main([*words, "--latents=x"]) == 2
    assert refusal(capsys).startswith("codec 'identity' decodes pictures, which is done as they are sampled; decode is")
