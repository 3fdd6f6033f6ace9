"""`--mode=sample` and `--mode=evaluate` on a finished run."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.sections import Sampling
from flexidit_jax.main import main
from flexidit_jax.runs.clips import read_clip
from flexidit_jax.runs.pictures import Files, contact_sheet

SMOKE = f"--config={Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"
#: as many as a batch of the smoke report: nothing new to compile
LABELS = tuple(range(10)) * 5


@pytest.fixture(scope="module")
def run(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("sampled") / "run")


def sample(run: Path, *words: str) -> int:
    return main([SMOKE, f"--workdir={run}", "--mode=sample", f"--config.sample.labels={LABELS}", *words])


def test_sample_writes_a_grid_and_says_what_it_cost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--config.sample.budget=0.7", "--config.sample.seed=5") == 0
    out = capsys.readouterr().out
    flex = fd.load(run)
    cost = flex.flops(steps=4, budget=0.7, guidance=1)
    assert "schedule: 4:2,2:2; guide: none; guidance: 1.0 (in Python 1.5 unless said)\n" in out
    assert f"FLOPs: {cost.total / 1e9:.3f} G per sample, {cost.shares}\n" in out
    assert re.search(r"^seconds: \d+\.\d for 50 samples", out, re.MULTILINE)
    folder = Path(re.search(r"^written: (.*)/grid.png, sample.json$", out, re.MULTILINE)[1])
    assert folder.parent == run / "samples"
    record = json.loads((folder / "sample.json").read_text())
    assert Sampling.of_record(record).recorded() == record
    assert record.pop("labels") == list(LABELS)
    assert {key: record.pop(key) for key in ("batch", "first", "decode")} == {"batch": 500, "first": 0, "decode": True}
    assert [record.pop(key) for key in ("prompts", "noise", "step_noise", "negative")] == [None] * 4
    assert record.pop("images_per_prompt") == 1
    assert Sampling.of_record(record).spec == fd.SampleSpec(steps=4, budget=0.7, guidance=1.0, solver="ddpm", seed=5)
    assert len(record) == 16  # every key, also those left at their default
    with Image.open(folder / "grid.png") as image:
        drawn = np.asarray(image)
    images = flex.sample(LABELS, steps=4, budget=0.7, guidance=1.0, seed=5, progress=False)
    np.testing.assert_array_equal(drawn, np.asarray(contact_sheet(images)))


def test_sample_with_a_schedule_and_a_weak_guide(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["schedule=2:4", "guide=4:4", "guidance=1.5", "budget=None"]
    assert sample(run, *(f"--config.sample.{word}" for word in words)) == 0
    out = capsys.readouterr().out
    assert "schedule: 2:4; guide: 4:4; guidance: 1.5\n" in out
    cost = fd.load(run).flops(steps=4, schedule="2:4", guide="4:4", guidance=1.5)
    shares = f"{200 * cost.relative:.1f} % of powerful unguided, {100 * cost.relative:.1f} % of powerful with the same"
    assert f"G per sample, {shares} guidance\n" in out


def test_a_sequence_is_gone_on_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--config.sample.first=50", "--config.sample.files.npz=True") == 0
    folder = Path(re.search(r"^written: (.*)/grid.png", capsys.readouterr().out, re.MULTILINE)[1])
    images = fd.load(run).sample(LABELS, steps=4, budget=0.56, guidance=1.0, first=50, progress=False)
    np.testing.assert_array_equal(np.load(folder / "samples.npz")["arr_0"], images)
    assert json.loads((folder / "sample.json").read_text())["first"] == 50


def test_latents_do_not_overwrite_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--config.sample.files.{file}" for file in ("grid=False", "npz=True")]
    assert sample(run, "--config.sample.decode=False") == 2
    assert "latents, which are no pictures" in capsys.readouterr().err
    kinds = []
    for decode in (False, True):
        assert sample(run, *flags, f"--config.sample.decode={decode}") == 0
        folder = re.search(r"^written: (.*)/samples.npz", capsys.readouterr().out, re.MULTILINE)[1]
        kinds.append((folder, np.load(f"{folder}/samples.npz")["arr_0"].dtype))
    assert [kind for _, kind in kinds] == [np.float32, np.uint8]
    assert kinds[0][0] != kinds[1][0]


def test_what_was_asked_for_names_the_folder(run: Path) -> None:
    for seed in (6, 7, 7):
        for scale in ("1.5", "1.7"):
            words = [f"--config.sample.guidance={scale}", "--config.sample.budget=None"]
            assert sample(run, *words, f"--config.sample.seed={seed}") == 0
    assert len(list((run / "samples").glob("2x4_seed[67]_*"))) == 4


def test_single_pictures_and_the_evaluators_arrays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["grid=false", "images=true", "npz=true"]
    assert sample(run, "--config.sample.seed=8", *(f"--config.sample.files.{file}" for file in files)) == 0
    [folder] = (run / "samples").glob("*_seed8_*")
    assert "000000.png to 000049.png, samples.npz, sample.json" in capsys.readouterr().out
    arrays = np.load(folder / "samples.npz")["arr_0"]
    assert (arrays.dtype, arrays.shape) == (np.uint8, (50, 8, 8, 1))
    for i in (0, 49):
        with Image.open(folder / f"{i:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), arrays[i, :, :, 0])
    assert len(list(folder.iterdir())) == 52


def test_a_disk_that_fills_up_leaves_the_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, words = np.zeros((2, 8, 8, 1), np.uint8), {"images": True, "npz": True}
    Files(**words).write(tmp_path, images)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"grid.png", "000000.png", "000001.png", "samples.npz"}

    def full(file: Path, *_: object, **__: object) -> None:
        (file.write if hasattr(file, "fileno") else Path(file).write_bytes)(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", lambda image, *args, **words: full(*args, **words))
    monkeypatch.setattr(np, "savez", full)
    for kind in ("grid", "images", "npz"):
        with pytest.raises(UserError, match="No space left on device"):
            Files(**{"grid": False, kind: True}).write(tmp_path, images)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_printed_is_what_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def fickle(*_: object) -> Callable:
        asked.append(1)
        return lambda make: make(2 * len(asked))  # another plan every time

    monkeypatch.setattr("flexidit_jax.sampling.sampler.chooser", fickle)
    words = ["budget=None", "latency_ms=5.0", "seed=11", "files.npz=true"]
    assert sample(run, *(f"--config.sample.{word}" for word in words)) == 0
    assert "schedule: 4:2,2:2; guide: none; guidance: 1.0" in capsys.readouterr().out
    [folder] = (run / "samples").glob("4x2_2x2_seed11_*")
    images = fd.load(run).sample(LABELS, steps=4, schedule="4:2,2:2", guidance=1.0, seed=11, progress=False)
    np.testing.assert_array_equal(np.load(folder / "samples.npz")["arr_0"], images)
    assert json.loads((folder / "sample.json").read_text())["latency_ms"] == 5.0
    (folder / "sample.json").unlink()
    (folder / "sample.json").mkdir()
    asked.clear()
    assert sample(run, *(f"--config.sample.{word}" for word in words)) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("sampling:")]
    assert error == f"error: cannot write to {folder} (Is a directory)"


def test_a_clip_is_an_animated_png(tmp_path: Path) -> None:
    clip = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    Files(images=True).write(tmp_path, clip)
    with Image.open(tmp_path / "000001.png") as image:
        assert image.n_frames == 3
        image.seek(2)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), clip[1, 2])


def test_clips_are_files(tmp_path: Path) -> None:
    clips = np.arange(3 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 3, 4, 4, 3)
    (tmp_path / "000001.gif").touch()  # of an earlier start
    said = Files(grid=False, clips="gif", fps=20).write(tmp_path, clips, failed=[1])
    assert said == ["000000.gif to 000002.gif"] and not (tmp_path / "000001.gif").exists()
    with Image.open(tmp_path / "000002.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (3, 50)
    Files(grid=False, clips="mp4").write(tmp_path, clips[:, 0])  # images are clips of one frame
    assert read_clip(tmp_path / "000001.mp4").shape == (1, 4, 4, 3)
    with pytest.raises(UserError, match=r"no sample\.files\.clips 'mp5'; did you mean 'mp4'\?"):
        Files(clips="mp5")
    with pytest.raises(UserError, match="fps must be"):
        Files(fps=0)


def test_evaluate_agrees_with_the_report_of_the_same_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample.batch=50", "sample.budget=None", "sample.schedule=4:2,2:2"]
    by_seed = []
    for seed in (1, 0):
        flags = [f"--config.{word}" for word in (*words, f"sample.seed={seed}")]
        assert main([SMOKE, f"--workdir={run}", "--mode=evaluate", *flags]) == 0
        by_seed.insert(0, scores := json.loads((run / "evaluation.json").read_text()))
    report = json.loads((run / "report" / "report.json").read_text())
    row = next(row for row in report["points"] if (row["order"], row["schedule"]) == ("weak_first", "4:2,2:2"))
    assert [found["fd"] for found in by_seed] == pytest.approx(row["fd_by_seed"], rel=1e-6)
    for key in ("fd", "accuracy", "nearest", "flops_percent"):
        assert np.mean([found[key] for found in by_seed]) == pytest.approx(row[key], rel=1e-6)
    assert scores["floor_fd"] == pytest.approx(report["floor_fd"])
    assert (scores["samples"], scores["schedule"], scores["guide"]) == (100, "4:2,2:2", None)
    out = capsys.readouterr().out
    assert f"100 samples, schedule 4:2,2:2 ({scores['flops_percent']:.1f} % of powerful unguided, " in out
    assert scores["flops_percent_unguided"] == pytest.approx(scores["flops_percent"])
    found = f"FD {scores['fd']:.3f} +- {scores['fd_error']:.3f} (floor {scores['floor_fd']:.3f})"
    assert f"{found}, accuracy {scores['accuracy']:.3f}" in out


def test_evaluate_within_a_latency(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIDIT_JAX_CACHE", str(tmp_path))
    words = ["sample.batch=50", "sample.budget=None", "sample.latency_ms=1e9"]
    assert main([SMOKE, f"--workdir={run}", "--mode=evaluate", *(f"--config.{word}" for word in words)]) == 0
    assert json.loads((run / "evaluation.json").read_text())["schedule"] == "2:4"


# ---------------------------------------------------------------- The sheet


def tile(image: Image.Image, row: int, column: int, side: int = 48) -> np.ndarray:
    top, left = row * (side + 1) + 1, column * (side + 1) + 1
    return np.asarray(image)[top : top + side, left : left + side]


def test_contact_sheet_places_every_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    sheet = contact_sheet(images)
    assert sheet.mode == "L"
    assert sheet.size == (10 * 49 + 1, 2 * 49 + 1)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(tile(sheet, i // 10, i % 10), np.kron(image[..., 0], np.ones((6, 6), np.uint8)))


@pytest.mark.parametrize(
    ("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (7, 3, 3), (4, 4, 1), (10, 10, 1), (40, 10, 4)]
)
def test_contact_sheet_is_no_smaller_than_its_images(n: int, columns: int, rows: int) -> None:
    images = np.full((n, 64, 48, 3), 7, np.uint8)
    sheet = contact_sheet(images, gap=2)
    assert sheet.mode == "RGB"
    assert sheet.size == (columns * 50 + 2, rows * 66 + 2)
    assert (np.asarray(sheet) == 7).all(axis=-1).sum() == n * 64 * 48


def test_contact_sheet_of_clips_has_a_row_each() -> None:
    clips = np.arange(2 * 11, dtype=np.uint8).reshape(2, 11, 1, 1, 1) * np.ones((48, 48, 1), np.uint8)
    sheet = contact_sheet(clips, failed=[1])
    assert sheet.size == (6 * 49 + 1, 2 * 49 + 1)
    assert [tile(sheet, 0, k).max() for k in range(6)] == [0, 2, 4, 6, 8, 10]
    assert {tuple(np.unique(tile(sheet, 1, k))) for k in range(6)} == {(0, 255)}  # a cross each
    assert contact_sheet(clips[:, :4]).size == (4 * 49 + 1, 2 * 49 + 1)


def test_contact_sheet_crosses_out_what_failed() -> None:
    images = np.full((4, 8, 8, 3), 7, np.uint8)
    sheet = contact_sheet(images, [2])
    assert (np.asarray(sheet)[1:-1, 1:98] == np.asarray(contact_sheet(images))[1:-1, 1:98]).all()
    cross = tile(sheet, 0, 2)
    assert set(np.unique(cross)) == {0, 255}
    for turned in (cross, cross[::-1], cross[:, ::-1]):
        assert not turned[range(48), range(48)].any()
    assert (cross[1:47, [0, -1]] == 255).all() and (cross[24, :20] == 255).all()


# ---------------------------------------------------------------- Samples that are lost


@pytest.fixture
def three(run: Path, spoilt: Callable[..., fd.FlexiDiT], monkeypatch: pytest.MonkeyPatch) -> fd.FlexiDiT:
    """Jobs sample from the run's model, whose class 3 is spoilt."""
    model = spoilt(fd.load(run), 3)
    for job in ("sample", "evaluate"):
        monkeypatch.setattr(f"flexidit_jax.jobs.{job}.trained_model", lambda *words: model)
    return model


LOST = (
    "error: 5 of 50 samples became NaN or infinite: number 3 after 1 of 4 steps, number 13 after 1 of 4 steps, number"
    " 23 after 1 of 4 steps, number 33 after 1 of 4 steps, 1 more; the others are sound; less guidance may help, else"
    " look for weights that are damaged or too large"
)


@pytest.mark.parametrize("previews", [False, True], ids=["at once", "with previews"])
def test_sound_samples_are_written_and_the_others_named(
    run: Path, three: fd.FlexiDiT, capsys: pytest.CaptureFixture[str], previews: bool
) -> None:
    words = ("budget=None", f"seed={20 + previews}", "files.images=True", "files.npz=True")
    flags = [f"--config.sample.{word}" for word in words]
    assert sample(run, *flags, *(["--config.sample.preview_every=2"] if previews else [])) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == LOST
    folder = Path(
        re.search(r"^written: (.*)/grid.png, 000000.png to 000049.png without 3, 13, 23, ", said.out, re.M)[1]
    )
    there = {int(file.stem) for file in folder.glob("0*.png")}
    assert there == {number for number in range(50) if number % 10 != 3}
    with np.load(folder / "samples.npz") as arrays:
        assert arrays["failed"].tolist() == [3, 13, 23, 33, 43]
        images = fd.load(run).sample(LABELS, steps=4, guidance=1.0, seed=20 + previews, progress=False)
        np.testing.assert_array_equal(arrays["arr_0"], np.delete(images, [3, 13, 23, 33, 43], axis=0))
    sheet = np.asarray(contact_sheet(images, [3, 13, 23, 33, 43]))
    with Image.open(folder / "grid.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)
    if previews:
        with Image.open(folder / "preview_00004.png") as image:
            np.testing.assert_array_equal(np.asarray(image), sheet)


def test_a_picture_of_an_earlier_start_does_not_stand_for_a_lost_sample(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 1), np.uint8)
    files = Files(grid=False, images=True, npz=True)
    files.write(tmp_path, images)
    assert files.write(tmp_path, images, [1]) == ["000000.png to 000002.png without 1", "samples.npz"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.png", "000002.png", "samples.npz"]


def test_nothing_is_scored_where_samples_are_lost(
    run: Path, three: fd.FlexiDiT, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation.json").unlink(missing_ok=True)
    assert main([SMOKE, f"--workdir={run}", "--mode=evaluate", "--config.sample.budget=None"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 10 of 100 samples became NaN or infinite: number 3 after 1 of 4 steps, number 13")
    assert not (run / "evaluation.json").exists()


# ---------------------------------------------------------------- A seed that is drawn


def test_a_seed_nobody_chose_is_said_and_recorded(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--config.sample.seed=None", "--config.sample.budget=None") == 0
    said = capsys.readouterr()
    seed = int(re.search(r"^seed: drew (\d+); seed=\1 makes the same samples again$", said.err, re.MULTILINE)[1])
    folder = folder_of(said.out)
    assert folder.name.startswith(f"2x4_seed{seed}_")
    assert json.loads((folder / "sample.json").read_text())["seed"] == seed
    assert sample(run, f"--config.sample.seed={seed}", "--config.sample.budget=None") == 0
    assert folder_of(capsys.readouterr().out) == folder


# ---------------------------------------------------------------- Previews, negatives


def folder_of(printed: str) -> Path:
    return Path(re.search(r"^written: (.*)/grid.png, sample.json$", printed, re.MULTILINE)[1])


def test_estimates_are_drawn_while_sampling(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("budget=None", "seed=8", "batch=30", "solver=ddim")
    flags = [f"--config.sample.{word}" for word in words]
    assert sample(run, *flags, "--config.sample.preview_every=3") == 0  # two batches of four steps
    folder = folder_of(capsys.readouterr().out)
    assert sorted(file.name for file in folder.glob("preview_*")) == ["preview_00003.png", "preview_00006.png"]
    chain = list(fd.load(run).steps(LABELS, steps=4, guidance=1.0, seed=8, batch=30, solver="ddim"))
    for number in (3, 6):
        with Image.open(folder / f"preview_{number:05d}.png") as image:
            wanted = contact_sheet(fd.load(run).decode(chain[number - 1].x0))
            np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))
    with Image.open(folder / "grid.png") as image:
        drawn = np.asarray(image)
    assert (
        sample(run, *flags, "--config.sample.preview_every=5") == 0
    )  # the same samples: one folder, older previews go
    assert folder_of(capsys.readouterr().out) == folder
    assert [file.name for file in folder.glob("preview_*")] == ["preview_00005.png"]
    assert sample(run, *flags) == 0
    with Image.open(folder / "grid.png") as image:
        np.testing.assert_array_equal(np.asarray(image), drawn)


def test_a_negative_is_a_key_of_the_section(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config.sample.budget=None", "--config.sample.guidance=3", "--config.sample.seed=9"]
    assert sample(run, *flags, "--config.sample.negative=7") == 0
    folder = folder_of(capsys.readouterr().out)
    assert json.loads((folder / "sample.json").read_text())["negative"] == 7
    images = fd.load(run).sample(LABELS, steps=4, guidance=3.0, seed=9, negative=7, progress=False)
    with Image.open(folder / "grid.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(contact_sheet(images)))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["preview_every=0"], "sample.preview_every must be positive, got 0"),
        (["preview_evry=3"], "unknown config key 'sample.preview_evry'; did you mean 'preview_every'?"),
        (["negative=11"], "negative: label 11 is out of range: 0..10, 10 meaning no class"),
        (["negative=1.5"], "negative: label 1.5 is not an integer in 0..10"),
        (["negative=1,2"], "negative must be one for all samples or one for each of 50, got 2"),
        (
            ["decode=False", "files.grid=False", "files.npz=True", "preview_every=2"],
            "sample.decode=False draws latents, which are no pictures; leave sample.preview_every out",
        ),
    ],
)
def test_what_will_not_do(run: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert sample(run, *(f"--config.sample.{flag}" for flag in flags)) == 2
    assert capsys.readouterr().err == f"error: {says}\n"
