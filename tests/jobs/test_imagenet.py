"""The ImageNet configs: shrunk ones from end to end, the real ones built, a published file sampled from."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.common.trees import flatten
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.models.build import init
from flexidit_jax.runs.checkpoints import Checkpoints
from flexidit_jax.training.losses.distillation import Loss as Distillation

CONFIGS = Path(__file__).parents[2] / "configs"
GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [("imagenet256", 6), ("imagenet512", 6), ("imagenet256_adapters", 12), ("imagenet256_sit", 6)],
)
def test_smoke(name: str, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--config={CONFIGS / name}.py:smoke", f"--workdir={tmp_path}"]
    assert main(words) == 0
    assert Checkpoints(tmp_path).newest_whole() == steps
    capsys.readouterr()
    labels = "golden retriever,360,None"
    assert main([*words, "--mode=sample", f"--config.sample.labels={labels}", "--config.sample.budget=0.7"]) == 0
    folder = Path(re.search(r"^written: ([^,]*)/grid.png", capsys.readouterr().out, re.MULTILINE)[1])
    side = 32 if name == "imagenet512" else 16
    with Image.open(folder / "000002.png") as image:
        assert (image.mode, image.size) == ("RGB", (side, side))


@pytest.mark.slow
def test_smoke_adapters_learn_to_predict_what_was_pre_trained(tmp_path: Path) -> None:
    """The adapters' own loss, of one batch at fixed times and noise, before their stage and after it."""
    words = [f"--config={CONFIGS / 'imagenet256_adapters'}.py:smoke", f"--workdir={tmp_path}"]
    assert main([*words, "--config.train.keep=9"]) == 0
    trained = fd.load(tmp_path)
    begun = fd.load(tmp_path / "checkpoints" / "6").flexify(trained.patches, adapters=4)
    rng = np.random.default_rng(0)
    x0 = rng.uniform(-1, 1, (32, *trained.model.latent)).astype(np.float32)
    noise = rng.standard_normal(x0.shape, np.float32)
    t, labels = rng.integers(0, 1000, 32), rng.integers(0, 1000, 32)

    def gap(flex: fd.FlexiDiT) -> float:
        teacher, student = (partial(flex.predict, patch=patch) for patch in (2, 4))
        return float(np.mean(Distillation()(flex.process, student, teacher, x0, labels, t, noise)[0]))

    def adapters(flex: fd.FlexiDiT) -> dict[str, np.ndarray]:
        return {path: leaf for path, leaf in flatten(flex.params["modes"]).items() if path.endswith("/lora_b")}

    assert 0 < gap(trained) < 0.85 * gap(begun)  # 0.7, where two zero models have no gap
    assert not any(np.any(leaf) for leaf in adapters(begun).values())
    assert len(adapters(trained)) == 4
    assert all(np.any(leaf) for leaf in adapters(trained).values())


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda file: file.stem)
def test_every_config_is_whole(file: Path) -> None:
    """Whatever a run would refuse at its end is refused, or not there, at its beginning."""
    config = load_config(str(file))
    if "train" in config:
        assert build_experiment(config).raw["seed"] == 0


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [
        ("imagenet256", 32, 675),
        ("imagenet512", 64, 675),
        ("imagenet256_adapters", 32, 675),
        ("imagenet256_sit", 32, 675),
    ],
)
def test_the_real_configs_describe_the_published_model(name: str, side: int, parameters: int) -> None:
    experiment = build_experiment(load_config(f"{CONFIGS / name}.py"))
    assert experiment.model.latent == (1, side, side, 4)
    shapes = jax.eval_shape(lambda: init(experiment.model, jax.random.key(0)))
    assert round(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6) == parameters
    assert experiment.train.ema.decay == 0.9999
    assert [stage.patches for stage in experiment.train.stages] == [((1, 2, 2), (1, 4, 4))]


def test_a_published_file_is_sampled_through_the_vae(
    tmp_path: Path, vae_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init_from=" + str(GOLDEN), f"codec.path={vae_folder}", "codec.dtype=float32", "codec.slice=2"]
    words += ["sample.labels=(1,2,3)", "sample.steps=3", "sample.batch=2"]
    argv = [f"--config={CONFIGS / 'imagenet256.py'}", f"--workdir={tmp_path / 'run'}", "--mode=sample"]
    assert main([*argv, *(f"--config.{word}" for word in words)]) == 0
    assert "schedule: 2:3; guide: 2:3; guidance: 1.5\n" in capsys.readouterr().out
    [folder] = (tmp_path / "run" / "samples").iterdir()
    dit = fd.load(GOLDEN)
    assert dit.codec.path == "./weights/sd-vae-ft-ema"
    x0 = dit.sample([1, 2, 3], steps=3, guidance_channels=3, decode=False, batch=2, progress=False)
    with Image.open(folder / "000002.png") as image:
        drawn = np.asarray(image).astype(int)
    codec = build_experiment(load_config(f"{CONFIGS / 'imagenet256.py'}")).codec
    expected = type(codec)(str(vae_folder)).decode(x0[:, None])[2, 0]
    assert drawn.shape == (64, 64, 3) and np.abs(drawn - expected).max() <= 1


def test_missing_parts_are_named_before_anything_is_written(
    tmp_path: Path, vae_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [f"--config={CONFIGS / 'imagenet256.py'}", "--workdir=run", f"--config.init_from={GOLDEN}"]
    assert main(argv) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: no imagenet2012 array records in ")
    assert "; also, the VAE's weights weights/sd-vae-ft-ema/diffusion_pytorch" in message
    assert main([*argv, f"--config.codec.path={vae_folder}", "--config.dataset.data_dir=data"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: no imagenet2012 array records in data; ")
    assert "ILSVRC2012_img_train.tar" in message and "launch/prepare_imagenet.sh --data-dir=data" in message
    assert list(tmp_path.iterdir()) == []
