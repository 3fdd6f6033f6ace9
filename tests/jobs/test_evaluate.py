"""`--mode=evaluate` of images that are there, by one command without a config; features are pixels here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.jobs.evaluate import CONFIG
from flexidit_jax.main import main
from flexidit_jax.metrics.frechet import frechet_distance
from flexidit_jax.metrics.moments import Moments
from flexidit_jax.metrics.statistics_file import write_statistics

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
REFERENCE = RNG.integers(30, 256, (50, 4, 4, 3), dtype=np.uint8)
SAMPLES = RNG.integers(0, 200, (40, 4, 4, 3), dtype=np.uint8)
NEAR = np.clip(SAMPLES + RNG.integers(-3, 4, SAMPLES.shape), 0, 255).astype(np.uint8)
MANIFEST = {
    "labels": "uniform",
    "weights": "0123",
    "plan": "2:4",
    "sample": {"seed": 7, "steps": 4, "solver": "ddpm"},
    "model": {"latent": [1, 4, 4, 3]},
}
RUN = Path("runs", "evaluate")
LABELS = np.arange(40, dtype=np.int32) % 4


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixel_features: SimpleNamespace) -> SimpleNamespace:
    """An empty folder with a reference in it, and what the network sees."""
    monkeypatch.chdir(tmp_path)
    np.savez("ref.npz", arr_0=REFERENCE)
    np.savez("s.npz", arr_0=SAMPLES)
    return pixel_features


def drawn(name: str, images: np.ndarray = SAMPLES, labels: np.ndarray = LABELS, **sample: Any) -> str:
    """A folder as `--mode=generate` leaves it."""
    Path(name).mkdir()
    np.savez(f"{name}/samples.npz", arr_0=images, arr_1=labels)
    said = {**MANIFEST, "sample": {**MANIFEST["sample"], **sample}}
    Path(name, "manifest.json").write_text(json.dumps(said))
    return name


def run(*words: str) -> int:
    return main(["--mode=evaluate", *words])


def result(folder: str = "runs/evaluate/evaluation") -> dict[str, Any]:
    return json.loads(Path(folder, "evaluation.json").read_text())


def pool(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)[:, :6] / 255


def test_five_numbers_of_one_command(here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--samples=s.npz", "--reference=ref.npz") == 0
    said = capsys.readouterr().out
    assert "| samples | is | fid | sfid | precision | recall |" in said
    [row] = result()["rows"]
    assert list(row["scores"]) == ["is", "fid", "sfid", "precision", "recall"]
    expected = frechet_distance(Moments.of(pool(SAMPLES)).gaussian, Moments.of(pool(REFERENCE)).gaussian)
    assert row["scores"]["fid"]["value"] == pytest.approx(expected, rel=1e-9)
    assert row["scores"]["fid"]["error"] > 0 and row["scores"]["fid"]["floor"] > 0
    protocol = row["protocol"]
    assert (protocol["samples"], protocol["size"], protocol["lossless"], protocol["uint8"]) == (40, 4, True, None)
    assert (protocol["reference"], protocol["reference_images"]) == ("ref.npz", 50)
    assert (protocol["reference_compared"], protocol["reference_size"], protocol["reference_crop"]) == (50, 4, None)
    assert protocol["metrics"]["precision_recall"] == {"k": 3, "distance": "float32"}
    for line in (
        "features: inception, convention adm, sha256 676767676767",
        "samples: 40 images, 4x4, lossless",
        "reference: ref.npz, sha256 ",
        "precision, recall: k=3, float32, 50 reference images",
        "written: runs/evaluate/evaluation/evaluation.md, scores.png, evaluation.json",
    ):
        assert line in said
    assert Image.open("runs/evaluate/evaluation/scores.png").size[0] > 100
    seen = here.images
    assert run("--samples=s.npz", "--reference=ref.npz", "--config.evaluate.metrics=kid", "--out=other") == 0
    assert list(result("other")["rows"][0]["scores"]) == ["kid"]
    assert run("--samples=s.npz", "--reference=ref.npz", "--config.evaluate.metrics=fid", "--out=fid") == 0
    assert result("fid")["rows"][0]["protocol"]["reference_compared"] is None
    assert here.images == seen  # no network ran again


def test_the_config_of_its_own_is_what_there_is_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    from flexidit_jax.evaluation.studies.scores import Scores

    assert CONFIG["evaluate"] == vars(Scores())
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "--samples IMAGES" in said and "wants no `--config`" in said
    assert "\nkeys of --mode=evaluate:\n" in said
    assert "  --config.evaluate.samples=None\n        where images are, a folder or a `.npz` file" in said
    assert "--config.evaluate.features.name='inception'" in said


def test_two_schedules_with_the_same_noise(capsys: pytest.CaptureFixture[str]) -> None:
    drawn("full"), drawn("weak", NEAR, steps=2)
    assert run("--samples=full,weak", "--reference=ref.npz") == 0
    said = capsys.readouterr().out
    found = {one["metric"]: one for one in result()["differences"]}
    assert set(found) == {"is", "fid", "sfid", "precision", "recall"}
    one, (full, weak) = found["fid"], result()["rows"]
    assert (one["samples"], one["less"], one["paired"]) == ("weak", "full", True)
    assert one["value"] == pytest.approx(weak["scores"]["fid"]["value"] - full["scores"]["fid"]["value"], abs=1e-12)
    assert one["error"] < 0.5 * full["scores"]["fid"]["error"]  # most of their errors is one
    assert "fid of weak less that of full: " in said and "(a tie), paired" in said
    assert "weak differs from full: steps is 2 here, is 4 there" in said
    assert full["protocol"]["labels"] == "uniform" and full["protocol"]["drawn"]["seed"] == 7
    assert full["protocol"]["uint8"] == "floor(127.5 x + 128)"
    drawn("other", steps=2, seed=8)
    assert run("--samples=full,other", "--reference=ref.npz", "--config.evaluate.paired=False") == 0
    assert "as drawn apart" in capsys.readouterr().out
    apart = {one["metric"]: one for one in result()["differences"]}["fid"]
    assert not apart["paired"] and apart["error"] == pytest.approx(2**0.5 * full["scores"]["fid"]["error"])


def test_two_protocols_in_one_table_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()
    for number, image in enumerate(SAMPLES):
        Image.fromarray(image).save(f"pictures/{number:03d}.jpg")
    assert run("--samples=s.npz,pictures", "--reference=ref.npz", "--config.evaluate.metrics=fid") == 0
    said = capsys.readouterr().out
    assert "[1] another protocol than the first: lossless is False here, is True there" in said
    assert "40 of 40 images are JPEG, which is lossy" in said


def test_a_published_protocol_and_what_deviates(capsys: pytest.CaptureFixture[str]) -> None:
    write_statistics(Path("VIRTUAL_imagenet256_labeled.npz"), {"pool": Moments.of(pool(REFERENCE))}, {}, REFERENCE[:9])
    words = ["--reference=VIRTUAL_imagenet256_labeled.npz", "--config.evaluate.protocol=adm-imagenet256"]
    assert run(f"--samples={drawn('full')}", *words) == 0
    said = capsys.readouterr().out
    few = "samples is 40, not 50000; size is 4, not 256; reference compared is 9, not 10000"
    assert f"protocol: adm-imagenet256 with deviations: {few}\n" in said
    [row] = result()["rows"]
    assert row["protocol"]["reference_images"] == 50
    assert row["scores"]["precision"]["how"] == "k=3, float16, 9 reference images"


def test_captions(here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """The protocol of text-to-image models: two extractors, photographs cropped, samples as they are."""
    Path("photos").mkdir()
    for number in range(8):
        Image.fromarray(RNG.integers(0, 256, (300, 270, 3), dtype=np.uint8)).save(f"photos/{number}.jpg")
    np.savez("t.npz", arr_0=RNG.integers(0, 256, (5, 256, 256, 3), dtype=np.uint8))
    Path("captions.txt").write_text("a\nbb\nccc\ndddd\neeeee\n")
    words = ["--samples=t.npz", "--reference=photos", "--config.evaluate.protocol=coco10k"]
    assert run(*words) == 2
    says = "error: clip_score reads captions; set evaluate.prompts to a file of one a line\n"
    assert capsys.readouterr().err == says
    assert run(*words, "--config.evaluate.prompts=captions.txt") == 0
    said = capsys.readouterr().out
    assert here.texts == 5
    rows = result()["rows"]
    assert [(row["features"], list(row["scores"])) for row in rows] == [
        ("inception", ["fid", "sfid"]),
        ("clip", ["clip_score"]),
    ]
    assert rows[0]["protocol"]["crop"] == "square 256" and rows[0]["protocol"]["reference"] == "photos"
    assert rows[1]["protocol"]["reference"] is None
    assert rows[1]["protocol"]["captions"] == hashlib.sha256(Path("captions.txt").read_bytes()).hexdigest()
    assert rows[0]["remarks"] == ["reference: 8 of 8 images are JPEG, which is lossy"] and rows[1]["remarks"] == []
    Path("captions.txt").write_bytes("\ufeffa\r\nb\u2028b\r\nc\x0cc\x85\r\ndddd\r\neeeee\r\n".encode())
    words += ["--config.evaluate.prompts=captions.txt", "--config.evaluate.features.name=clip"]
    assert run(*words, "--config.evaluate.metrics=clip_score") == 0
    assert here.prompts[-1] == ["a", "b\u2028b", "c\x0cc\x85", "dddd", "eeeee"]
    assert "deviations: samples is 5, not 10000; uint8 is not known, not floor(127.5 x + 128)" in said


def test_what_must_be_said_of_samples_and_their_reference(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("wide.npz", arr_0=np.pad(REFERENCE, ((0, 0), (0, 0), (0, 3), (0, 0))))
    Path("again").mkdir()
    Path("again/copy.npz").write_bytes(Path("s.npz").read_bytes())
    words = ["--config.evaluate.metrics=fid", "--config.evaluate.crop=adm", "--config.evaluate.side=4"]
    assert run("--samples=s.npz,again/copy.npz", "--reference=wide.npz", words[0]) == 0
    wide = "they are 4x4 and the reference is 4x7, where published protocols have one size"
    assert [row["remarks"] for row in result()["rows"]] == [[wide], ["they are the images of s.npz", wide]]
    command = ["--mode=reference", "--config.reference.images=ref.npz", "--out=stats.npz", "--config.reference.side=4"]
    assert main([*command, "--config.reference.crop=square"]) == 0
    assert run("--samples=s.npz", "--reference=stats.npz", *words) == 0
    cropped = "they are cropped by 'adm 4' and the reference by 'square 4'; crop both alike"
    assert result()["rows"][0]["remarks"] == [cropped] and f"\n{cropped}\n" in capsys.readouterr().out
    assert result()["rows"][0]["protocol"]["reference_crop"] == "square 4"
    assert run("--samples=s.npz", "--reference=s.npz", words[0]) == 0
    assert result()["rows"][0]["remarks"] == ["they are the images of the reference"]


def test_statistics_in_the_file_of_samples_count() -> None:
    """As in ADM's evaluator: a reference scored against itself is at 0."""
    write_statistics(Path("v.npz"), {"pool": Moments.of(pool(REFERENCE))}, {}, REFERENCE[:9])
    assert run("--samples=v.npz", "--reference=v.npz", "--config.evaluate.metrics=fid") == 0
    assert result()["rows"][0]["remarks"] == [
        "distances of pool are of its own mu, of 50 images",
        "distances of spatial are of its images, of which it has no statistics",
        "they are the images of the reference",
    ]
    assert result()["rows"][0]["scores"]["fid"]["value"] < 1e-9


def test_statistics_in_the_file_of_samples_are_made_alike(capsys: pytest.CaptureFixture[str]) -> None:
    pools, words = {"pool": Moments.of(pool(SAMPLES))}, ["--samples=v.npz", "--reference=ref.npz"]
    made = {"features": "inception", "extractor": {"convention": "clean", "weights_sha256": "67" * 32}}
    write_statistics(Path("v.npz"), pools, made, SAMPLES)
    assert run(*words) == 2
    assert capsys.readouterr().err == (
        "error: v.npz was made with convention 'clean', and samples are compared with 'adm'; make both alike\n"
    )
    made["extractor"] = {"convention": "adm", "weights_sha256": "68" * 32}
    write_statistics(Path("v.npz"), pools, made, SAMPLES)
    assert run(*words, "--config.evaluate.metrics=fid") == 0
    assert "v.npz was made with other weights of inception: SHA-256 686868686868.." in capsys.readouterr().err


def test_sigterm_and_the_same_command_again(here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--samples=s.npz", "--reference=ref.npz", "--config.evaluate.batch=4", "--stopped-status=75"
    here.stop = 1 + 32  # a probe and the first images that are read at once
    assert run(*words) == 75
    assert capsys.readouterr().out == "stopped, 32 of 50 images are done; the same command goes on\n"
    assert not Path("runs", "evaluate", "evaluation").exists()
    here.images, here.stop = 0, 1 + 18 + 32
    assert run(*words) == 75
    assert capsys.readouterr().out == "stopped, 32 of 40 images are done; the same command goes on\n"
    here.images, here.stop = 0, 1 + 8  # with the last of them
    assert run(*words) == 0


def test_a_network_with_a_reference_of_its_own() -> None:
    """DINOv2's, as small as that of the golden values."""
    weights = ROOT / "tests" / "golden" / "dinov2_tiny.safetensors"
    words = f"features.name=dinov2 features.path={weights} features.num_heads=4 batch=16".split()
    stats = [f"--config.reference.{word}" for word in [*words, "images=ref.npz", "keep=0"]]
    assert main(["--mode=reference", "--out=stats.npz", *stats]) == 0
    words = [f"--config.evaluate.{word}" for word in words]
    for reference in ("ref.npz", "stats.npz"):
        assert run("--samples=s.npz", f"--reference={reference}", f"--out={reference}.fd", *words) == 0
    [row], [other] = (result(f"{name}.fd")["rows"] for name in ("ref.npz", "stats.npz"))
    assert row["protocol"]["convention"] == "dinov2-hub"
    assert row["protocol"]["details"] == "resize pillow, heads 4"
    assert row["scores"]["fd"]["value"] == pytest.approx(other["scores"]["fd"]["value"], rel=1e-6)


def test_a_config_file_of_several_extractors() -> None:
    Path("mine.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n"
        "    features = {'name': 'inception', 'convention': 'clean'}, {'name': 'clip'}\n"
        "    return ConfigDict({'evaluate': {'features': features, 'metrics': ('fid', {'name': 'kid', 'subsets': 3,"
        " 'size': 9})}})\n"
    )
    assert main(["--config=mine.py", "--mode=evaluate", "--samples=s.npz", "--reference=ref.npz"]) == 0
    rows = result("runs/mine/evaluation")["rows"]
    assert [list(row["scores"]) for row in rows] == [["fid", "sfid", "kid"], ["fd", "kid"]]
    assert rows[0]["protocol"]["convention"] == "clean"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "--samples names images, a folder of PNG files or a .npz file; got none"),
        ("--samples=a,a", "--samples names a twice; sets that are compared are different ones"),
        ("--samples=s.npz --reference=", "--reference names statistics or images, a file or a folder of them; got ''"),
        ("--samples=s.npz,./s.npz", "--samples names s.npz and ./s.npz, which are the same; sets that are compared"),
        ("--samples=none.npz", "there is no none.npz; images are a folder of PNG files, or a .npz file with arr_0"),
        ("--samples=s.npz", "fid compares with a reference; --reference=FILE.npz"),
        ("--samples=grey --reference=ref.npz", "grey/a.png is greyscale; features are of colour images"),
        ("--samples=deep --reference=ref.npz", "deep/a.png has more than 8 bits a channel"),
        ("--samples=mixed --reference=ref.npz", "mixed/b.png is 5x4 and a.png 4x4; all must be of one size"),
        ("--samples=cut.npz --reference=ref.npz", "cut.npz is no whole .npz file"),
        ("--samples=s.npz --reference=cut.npz", "cut.npz is no whole .npz file"),
        ("--samples=few.npz --reference=ref.npz", "3 images are too few for balls that reach to neighbour 3; 4 would"),
        ("--samples=s.npz --reference=wide.npz", "mu of wide.npz is [9] and sigma [9, 9], and features of inception"),
        ("--samples=s.npz --reference=dino.npz", "dino.npz holds statistics of dinov2, and samples are compared in"),
        ("--samples=s.npz --reference=mu.npz", "mu.npz holds statistics alone, and precision would compare images"),
        ("--samples=s.npz --reference=nan.npz", "mu of nan.npz holds NaN or infinity"),
        ("--samples=a,b --reference=ref.npz", "a and b are not paired: seeds 7 and 8; --config.evaluate.paired=False"),
        ("--samples=a,c --reference=ref.npz", "a and c are not paired: another class of image 0; --config.evaluate"),
        ("--samples=s.npz metrics=fidd", "no metric 'fidd'; did you mean 'fid'?"),
        ("--samples=s.npz features.name=dinov2 metrics=is", "is reads logits, which inception has, and dinov2 has not"),
        ("--samples=s.npz metrics=clip_score", "clip_score reads prompts, which clip has, and inception has not"),
        ("--samples=s.npz features.name=mlp_classifier", "evaluate.features: mlp_classifier is fitted on data; incept"),
        ("--samples=s.npz features.convetion=clean", "unknown config key 'evaluate.features.convetion'; did you mean"),
        ("--samples=s.npz protocol=adm", "no protocol 'adm'"),
        ("--samples=s.npz reference=ref.npz crop=square", "a crop is one of adm, square with its side, got 'square'"),
        ("--samples=s.npz crop=square side=2", "s.npz holds an array of 4x4 pixels, which is not cropped to 2"),
        ("--samples=s.npz batch=0", "evaluate.batch must be positive, got 0"),
        ("--samples=a metrics=diversity prompts=none.txt", "cannot read the captions of none.txt (No such file or"),
        ("--samples=a metrics=diversity prompts=two.txt", "two.txt has 2 captions, one a line, and a has 40 images"),
        ("--samples=s.npz --reference=ref.npz --out=a", "a is there and holds manifest.json, which no evaluation has"),
        ("--samples=alone metrics=diversity", "class 3 has 1 sample, and diversity is that of two or more"),
        ("--samples=s.npz metrics=diversity", "diversity needs the class of every sample, which arr_1 of a .npz"),
    ],
)
def test_one_line(words: str, says: str, here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"grey": [("a", "L", (4, 4))], "deep": [("a", "I;16", (4, 4))]}
    bad["mixed"] = [("a", "RGB", (4, 4)), ("b", "RGB", (5, 4))]
    for folder, pictures in bad.items():
        Path(folder).mkdir()
        for name, mode, size in pictures:
            Image.new(mode, size).save(f"{folder}/{name}.png")
    Path("cut.npz").write_bytes(Path("s.npz").read_bytes()[:1000])
    Path("two.txt").write_text("a\nb\n")
    np.savez("few.npz", arr_0=SAMPLES[:3])
    drawn("a"), drawn("b", seed=8), drawn("c", labels=LABELS[::-1])
    drawn("alone", SAMPLES[:4], np.int32([0, 0, 3, 0]))
    moments = Moments.of(pool(REFERENCE))
    np.savez("wide.npz", mu=np.zeros(9), sigma=np.eye(9), arr_0=REFERENCE)
    np.savez("nan.npz", mu=np.full(6, np.nan), sigma=np.eye(6), arr_0=REFERENCE)
    write_statistics(Path("mu.npz"), {"pool": moments}, {})
    write_statistics(Path("dino.npz"), {"pool": moments}, {"features": "dinov2"}, REFERENCE)
    before = {*Path().rglob("*")}
    flags = [word if word.startswith("--") else f"--config.evaluate.{word}" for word in words.split()]
    assert run(*flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: {says}")
    assert [line for line in lines if line.startswith("error")] == lines[-1:]
    assert {path for path in Path().rglob("*") if "cache" not in path.parts} - {Path("runs"), RUN} == before
    assert here.images <= 1  # a probe


def test_a_config_of_a_model_says_nothing_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    config = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
    for flag in ("--samples=s.npz", "--reference=ref.npz"):
        assert main([config, "--mode=evaluate", flag]) == 2
        assert capsys.readouterr().err == (
            f"error: {flag} is for images, which no config of a model says anything of; leave --config out, or leave"
            f" {flag.partition('=')[0]} out to score what the model draws\n"
        )
    assert main([config, "--mode=train", "--samples=s.npz"]) == 2
    assert capsys.readouterr().err == "error: --samples is for --mode=evaluate, not for --mode=train\n"
